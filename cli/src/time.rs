//! Points in time as people write them.
//!
//! RFC 3339 with an offset (`2026-11-17T02:00:00Z`), or local time: `2026-11-17`, `2026-11-17 02:00`,
//! `2026-11-17 02:00:30`. What is written names a stretch: a day, a minute, a second. Where a last moment is asked for
//! (`--at`, `--until`) the whole stretch counts, so `--at 2026-11-17` finds the last snapshot of that day and a time
//! that was copied from a listing finds its snapshot; where a first moment is asked for (`--since`) its beginning.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, ToSpan};
use lakebed_engine::core::time::Timestamp;

/// Which end of the stretch is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    First,
    Last,
}

/// Reads a time; what it leaves open is the beginning.
pub(crate) fn parse_first(text: &str) -> Result<Timestamp, String> {
    parse(text, End::First, &TimeZone::system())
}

/// Reads a time; what it leaves open is the end.
pub(crate) fn parse_last(text: &str) -> Result<Timestamp, String> {
    parse(text, End::Last, &TimeZone::system())
}

fn parse(text: &str, end: End, zone: &TimeZone) -> Result<Timestamp, String> {
    let text = text.trim();
    let failed = || {
        format!(
            "expected a time such as `2026-11-17`, `2026-11-17 02:00` (local time) or `2026-11-17T02:00:00Z`, \
             found `{text}`"
        )
    };
    let clock = text.get(10..).unwrap_or_default();
    // how long what is written lasts
    let has_seconds = clock.bytes().filter(|&byte| byte == b':').count() >= 2;
    let stretch = match (has_seconds, clock.contains('.')) {
        (_, true) => SignedDuration::from_nanos(1),
        (true, false) => SignedDuration::from_secs(1),
        (false, false) => SignedDuration::from_mins(1),
    };
    let last = |time: jiff::Timestamp, stretch: SignedDuration| match end {
        End::First => Ok(time.into()),
        End::Last => time
            .checked_add(stretch)
            .and_then(|after| after.checked_sub(SignedDuration::from_nanos(1)))
            .map(Timestamp::from)
            .map_err(|_| failed()),
    };
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        // `02:00Z` and `02:00+01:00` have one colon before the offset
        let of_clock = clock.trim_start_matches(['T', 't', ' ']);
        let seconds_at = of_clock.get(5..6) == Some(":");
        let stretch = if seconds_at || clock.contains('.') { stretch } else { SignedDuration::from_mins(1) };
        return last(time, stretch);
    }
    // something that names an offset or a zone and is not RFC 3339 must not be taken for local time
    let is_plain = text.len() >= 10 && clock.bytes().all(|c| c.is_ascii_digit() || b":. Tt".contains(&c));
    if !is_plain {
        return Err(failed());
    }
    if clock.is_empty() {
        let date: Date = text.parse().map_err(|_| failed())?;
        let start = |date: Date| date.to_zoned(zone.clone()).map(|zoned| zoned.timestamp()).map_err(|_| failed());
        return match end {
            End::First => Ok(start(date)?.into()),
            End::Last => {
                let next = start(date.checked_add(1.day()).map_err(|_| failed())?)?;
                next.checked_sub(SignedDuration::from_nanos(1)).map(Timestamp::from).map_err(|_| failed())
            }
        };
    }
    let time: DateTime = text.parse().map_err(|_| failed())?;
    let time = zone.to_timestamp(time).map_err(|_| failed())?;
    last(time, stretch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(text: &str) -> (String, String) {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let shown = |end| parse(text, end, &zone).unwrap().to_string();
        (shown(End::First), shown(End::Last))
    }

    #[test]
    fn what_is_written_names_a_stretch() {
        for (text, first, last) in [
            ("2026-11-17", "2026-11-16T23:00:00Z", "2026-11-17T22:59:59.999999999Z"),
            ("2026-11-17 02:00", "2026-11-17T01:00:00Z", "2026-11-17T01:00:59.999999999Z"),
            ("2026-11-17T02:00", "2026-11-17T01:00:00Z", "2026-11-17T01:00:59.999999999Z"),
            ("2026-11-17 02:00:30", "2026-11-17T01:00:30Z", "2026-11-17T01:00:30.999999999Z"),
            ("2026-11-17 02:00:30.5", "2026-11-17T01:00:30.5Z", "2026-11-17T01:00:30.5Z"),
            ("2026-11-17T02:00:00Z", "2026-11-17T02:00:00Z", "2026-11-17T02:00:00.999999999Z"),
            ("2026-11-17 02:00:00+01:00", "2026-11-17T01:00:00Z", "2026-11-17T01:00:00.999999999Z"),
            ("2026-11-17T02:00+01:00", "2026-11-17T01:00:00Z", "2026-11-17T01:00:59.999999999Z"),
            ("2026-11-17T02:00:00.25Z", "2026-11-17T02:00:00.25Z", "2026-11-17T02:00:00.25Z"),
        ] {
            assert_eq!(both(text), (first.to_owned(), last.to_owned()), "{text}");
        }
    }

    #[test]
    fn days_are_as_long_as_they_are() {
        // the clocks went forward: 23 hours
        assert_eq!(both("2026-03-29"), ("2026-03-28T23:00:00Z".into(), "2026-03-29T21:59:59.999999999Z".into()));
    }

    #[test]
    fn other_things_are_refused() {
        for text in ["", "yesterday", "2026-13-01", "2026-11-17 25:00", "17.11.2026", "2026-11-17 02:00 MEZ", "2026"] {
            let error = parse(text, End::First, &TimeZone::UTC).unwrap_err();
            assert!(error.starts_with("expected a time"), "{text}: {error}");
        }
    }
}
