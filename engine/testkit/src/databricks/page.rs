//! Pages of listings. Tokens have characters that a query must not have as they are, so that a client which forgets to
//! encode them gets an error instead of the first page again.

use serde_json::{Map, Value};

use super::answer::ApiError;

/// Where a page begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) offset: usize,
    /// The page without entries, which may come before this one, was given.
    pub(super) is_after_empty: bool,
}

impl Start {
    /// Reads a token. Without one, or with an empty one, a listing begins.
    pub(super) fn of(token: Option<&str>) -> Result<Self, ApiError> {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Ok(Self::default());
        };
        let invalid = || ApiError::invalid(format!("Invalid page token: {token}"));
        let (mark, offset) = token.strip_suffix("==").and_then(|token| token.split_once('+')).ok_or_else(invalid)?;
        Ok(Self { offset: offset.parse().map_err(|_| invalid())?, is_after_empty: mark == "e" })
    }

    /// Returns the token with which a client comes back to this.
    pub(super) fn token(self) -> String {
        format!("{}+{}==", if self.is_after_empty { "e" } else { "t" }, self.offset)
    }
}

/// Returns a page of a listing, its entries under a name, which a page without entries does not have.
pub(super) fn page<T>(
    name: &str,
    items: impl IntoIterator<Item = T>,
    start: Start,
    limit: usize,
    entry: impl Fn(T) -> Value,
) -> Map<String, Value> {
    let mut items = items.into_iter().skip(start.offset);
    let entries: Vec<Value> = items.by_ref().take(limit.max(1)).map(entry).collect();
    let next = Start { offset: start.offset + entries.len(), is_after_empty: false };
    let mut page = Map::new();
    if !entries.is_empty() {
        page.insert(name.to_owned(), entries.into());
    }
    if items.next().is_some() {
        page.insert("next_page_token".to_owned(), next.token().into());
    }
    page
}

/// Returns a listing that comes at once.
pub(super) fn whole<T>(
    name: &str,
    items: impl IntoIterator<Item = T>,
    entry: impl Fn(T) -> Value,
) -> Map<String, Value> {
    page(name, items, Start::default(), usize::MAX, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_until_one_has_no_token() {
        let (mut seen, mut start) = (Vec::new(), Start::default());
        loop {
            let page = page("entries", 0..5, start, 2, Value::from);
            seen.push(page["entries"].as_array().unwrap().len());
            let Some(token) = page.get("next_page_token") else { break };
            start = Start::of(token.as_str()).unwrap();
        }
        assert_eq!(seen, [2, 2, 1]);
        assert!(whole("entries", 0..0, Value::from).is_empty());
        assert!(Start::of(Some("t 2==")).is_err() && Start::of(Some("")).is_ok());
    }
}
