//! Listings that come in pages.

use serde_json::Value;

use crate::rest::{Call, CallError, CallErrorKind, Client};

/// What is listed, and how.
pub(super) struct Pages<'a> {
    pub(super) kind: &'static str,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Under which key what is listed stands.
    pub(super) items: &'a str,
    /// What it concerns, as people call it.
    pub(super) subject: &'a str,
}

impl Pages<'_> {
    /// Returns what is on all pages. A page may be empty and not the last one: only a missing token says that.
    pub(super) async fn all(&self, client: &Client) -> Result<Vec<Value>, CallError> {
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut query = self.query.to_vec();
            query.extend(token.as_deref().map(|token| ("page_token", token)));
            let call = Call::get(self.kind, self.path, self.subject).query(&query);
            let read = |answer: &crate::rest::Answer| {
                let page: Value = answer.json()?;
                let next = page.get("next_page_token").and_then(Value::as_str).filter(|next| !next.is_empty());
                if next.is_some() && next == token.as_deref() {
                    return Err(CallErrorKind::Malformed { why: "its next page is the same one again".into() });
                }
                let next = next.map(str::to_owned);
                let items = match page.get(self.items) {
                    Some(Value::Array(items)) => items.clone(),
                    None if page.is_object() => {
                        if let Some(refusal) = super::refusal::in_good_answer(answer.status, &answer.body) {
                            return Err(CallErrorKind::Refused(refusal));
                        }
                        // what is taken for empty is gone from the next snapshot
                        if ["message", "error"].iter().any(|key| page.get(*key).is_some()) {
                            return Err(CallErrorKind::Malformed { why: "it lists nothing, and says why".into() });
                        }
                        Vec::new()
                    }
                    _ => return Err(CallErrorKind::Malformed { why: format!("its `{}` is no list", self.items) }),
                };
                Ok((items, next))
            };
            let (items, next) = client.send(&call, read).await?;
            all.extend(items);
            match next {
                Some(next) => token = Some(next),
                None => return Ok(all),
            }
        }
    }
}
