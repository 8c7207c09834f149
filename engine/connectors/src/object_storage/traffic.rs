//! What was asked of a store: requests by kind, and bytes. Stores charge by that.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, Uri};
use serde::Deserialize;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An object, a part of one, or the beginning or end of an upload.
    Put,
    /// An object or a part of one.
    Get,
    /// Whether an object is there, and its size.
    Head,
    /// A page of a listing.
    List,
    /// A deletion.
    Delete,
}

impl Kind {
    /// Tells what a request is for: the same for S3, Azure and Google Cloud.
    pub(super) fn of(method: &Method, uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        let is_listing = query
            .split('&')
            .any(|part| part.starts_with("list-type=") || ["comp=list", "uploads", "uploads="].contains(&part));
        match *method {
            Method::GET if is_listing => Self::List,
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::DELETE => Self::Delete,
            _ => Self::Put,
        }
    }
}

/// Requests and bytes, as far as they were counted until now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Objects and parts of objects that were put.
    pub puts: u64,
    /// Objects and parts of objects that were read.
    pub gets: u64,
    /// Questions for an object's size.
    pub heads: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Bytes of what was put, without headers.
    pub sent_bytes: u64,
    /// Bytes of answers, without headers.
    pub received_bytes: u64,
}

impl Traffic {
    /// Returns how many requests that were.
    pub fn requests(&self) -> u64 {
        self.puts + self.gets + self.heads + self.lists + self.deletes
    }
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            puts: self.puts + other.puts,
            gets: self.gets + other.gets,
            heads: self.heads + other.heads,
            lists: self.lists + other.lists,
            deletes: self.deletes + other.deletes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            received_bytes: self.received_bytes + other.received_bytes,
        }
    }
}

/// What a store charges. What is not said costs nothing.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// In which currency.
    pub currency: String,
    /// For a thousand puts.
    pub puts_per_1000: f64,
    /// For a thousand reads.
    pub gets_per_1000: f64,
    /// For a thousand questions for a size.
    pub heads_per_1000: f64,
    /// For a thousand pages of listings.
    pub lists_per_1000: f64,
    /// For a thousand deletions.
    pub deletes_per_1000: f64,
    /// For each GiB that is sent to the store.
    pub sent_per_gib: f64,
    /// For each GiB that comes from the store.
    pub received_per_gib: f64,
}

impl Prices {
    /// Returns what that much costs. What is kept costs more each month, which is not in it.
    pub fn cost(&self, traffic: &Traffic) -> f64 {
        let requests = [
            (traffic.puts, self.puts_per_1000),
            (traffic.gets, self.gets_per_1000),
            (traffic.heads, self.heads_per_1000),
            (traffic.lists, self.lists_per_1000),
            (traffic.deletes, self.deletes_per_1000),
        ];
        let bytes = [(traffic.sent_bytes, self.sent_per_gib), (traffic.received_bytes, self.received_per_gib)];
        let of = |all: &[(u64, f64)], unit: f64| all.iter().map(|(number, price)| *number as f64 / unit * price).sum();
        let (requests, bytes): (f64, f64) = (of(&requests, 1000.0), of(&bytes, (1u64 << 30) as f64));
        requests + bytes
    }
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Meter {
    requests: [AtomicU64; 5],
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Meter {
    pub(super) fn sent(&self, kind: Kind, bytes: u64) {
        self.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        let count = |kind: Kind| self.requests[kind as usize].load(Ordering::Relaxed);
        Traffic {
            puts: count(Kind::Put),
            gets: count(Kind::Get),
            heads: count(Kind::Head),
            lists: count(Kind::List),
            deletes: count(Kind::Delete),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_is_for_is_seen_from_its_method_and_query() {
        let kind = |method: Method, uri: &str| Kind::of(&method, &uri.parse().unwrap());
        assert_eq!(kind(Method::GET, "http://h/lake?list-type=2&prefix=x"), Kind::List);
        assert_eq!(kind(Method::GET, "http://h/lake?restype=container&comp=list"), Kind::List);
        assert_eq!(kind(Method::GET, "http://h/lake/?uploads=&prefix=x"), Kind::List);
        assert_eq!(kind(Method::GET, "http://h/lake/packs/aa?comp=listing"), Kind::Get);
        assert_eq!(kind(Method::HEAD, "http://h/lake/x"), Kind::Head);
        assert_eq!(kind(Method::PUT, "http://h/lake/x?partNumber=1"), Kind::Put);
        assert_eq!(kind(Method::POST, "http://h/lake/x?uploads"), Kind::Put);
        assert_eq!(kind(Method::DELETE, "http://h/lake/x"), Kind::Delete);
        let meter = Meter::default();
        meter.sent(Kind::Put, 7);
        meter.sent(Kind::List, 0);
        meter.received(9);
        let traffic = meter.traffic();
        assert_eq!(traffic, Traffic { puts: 1, lists: 1, sent_bytes: 7, received_bytes: 9, ..Traffic::default() });
        assert_eq!(traffic.requests(), 2);
    }

    #[test]
    fn a_run_costs_what_its_requests_and_bytes_cost() {
        let prices = r#"{"currency": "USD", "puts_per_1000": 0.005, "received_per_gib": 0.09}"#;
        let prices: Prices = serde_json::from_str(prices).unwrap();
        let traffic = Traffic { puts: 2000, gets: 5, received_bytes: 2 << 30, ..Traffic::default() };
        assert!((prices.cost(&traffic) - 0.19).abs() < 1e-9);
        assert!(serde_json::from_str::<Prices>(r#"{"put_per_1000": 0.005}"#).is_err());
    }
}
