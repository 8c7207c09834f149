//! What a workspace says where it refuses, in each of the shapes in which it says so.

use http::HeaderMap;
use serde_json::Value;

use crate::process::in_one_line;
use crate::rest::Refusal;

/// Codes and texts by which a workspace says that something is larger than 10 MB, its limit for exports.
const TOO_LARGE_CODES: [&str; 2] = ["MAX_NOTEBOOK_SIZE_EXCEEDED", "MAX_READ_SIZE_EXCEEDED"];
const TOO_LARGE_TEXTS: [&str; 3] = ["Size exceeds", "size exceeded limit", "exceeded max size"];

/// Reads the body of a refusal.
pub(super) fn refusal(status: u16, _: &HeaderMap, body: &[u8]) -> Refusal {
    match serde_json::from_slice::<Value>(body) {
        Ok(document) if document.is_object() => in_document(status, &document),
        _ => in_text(status, body),
    }
}

/// Reads a refusal from a JSON document.
fn in_document(status: u16, document: &Value) -> Refusal {
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    // the real word may stand in the details alone
    let details = document.get("details").and_then(Value::as_array);
    let reason = details.into_iter().flatten().find_map(|detail| {
        let is_info = detail.get("@type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("ErrorInfo"));
        detail.get("reason").and_then(Value::as_str).filter(|_| is_info)
    });
    let code = match (text("error_code"), reason) {
        (code, Some(reason)) if code.is_empty() || TOO_LARGE_CODES.contains(&reason) => reason,
        (code, _) => code,
    };
    let message = ["message", "error", "detail", "error_description"].map(text);
    let message = message.into_iter().find(|message| !message.is_empty()).unwrap_or_default();
    Refusal { status, code: code.into(), message: in_one_line(message.as_bytes()) }
}

/// Reads a refusal from a page, from `CODE: words`, or from nothing at all.
fn in_text(status: u16, body: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(body);
    let between = |open: &str, close: &str| {
        let (_, rest) = text.split_once(open)?;
        rest.split_once(close).map(|(inner, _)| inner.trim().to_owned())
    };
    let page = between("<pre>", "</pre>").or_else(|| between("<title>", "</title>"));
    let words = match page {
        Some(words) => words,
        None if text.trim_start().starts_with('<') => "an HTML page".into(),
        None => text.trim().into(),
    };
    let is_code = |code: &&str| !code.is_empty() && code.bytes().all(|c| c.is_ascii_uppercase() || c == b'_');
    let (code, message) = match words.split_once(": ").filter(|(code, _)| is_code(code)) {
        Some((code, message)) => (code.to_owned(), message.to_owned()),
        None => (String::new(), words),
    };
    let said_nothing = || http::StatusCode::from_u16(status).ok()?.canonical_reason();
    let message = match message.is_empty() {
        true => said_nothing().unwrap_or_default().into(),
        false => in_one_line(message.as_bytes()),
    };
    Refusal { status, code, message }
}

/// Returns the refusal in an answer that says that all is well.
pub(super) fn in_good_answer(status: u16, body: &[u8]) -> Option<Refusal> {
    let document: Value = serde_json::from_slice(body).ok()?;
    document.get("error_code").filter(|code| code.is_string()).map(|_| in_document(status, &document))
}

impl Refusal {
    /// Tells whether what was asked for is not there, or may not be seen: the two cannot be told apart.
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404 || self.code == "RESOURCE_DOES_NOT_EXIST"
    }

    /// Tells whether it is not allowed.
    pub(super) fn is_forbidden(&self) -> bool {
        self.status == 403
    }

    /// Tells whether it is larger than the limit of this kind of call.
    pub(super) fn is_too_large(&self) -> bool {
        TOO_LARGE_CODES.contains(&self.code.as_str()) || TOO_LARGE_TEXTS.iter().any(|text| self.message.contains(text))
    }

    /// Tells whether something is there already.
    pub(super) fn is_taken(&self) -> bool {
        self.status == 409
            || matches!(self.code.as_str(), "RESOURCE_ALREADY_EXISTS" | "ALREADY_EXISTS")
            || (self.status == 400 && self.message.ends_with("already exists."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> (String, String) {
        let Refusal { code, message, .. } = refusal(status, &HeaderMap::new(), body.as_bytes());
        (code, message)
    }

    #[test]
    fn each_shape_of_a_refusal_is_understood() {
        let both = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        let document = r#"{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Path (/x) doesn't exist."}"#;
        assert_eq!(read(404, document), both("RESOURCE_DOES_NOT_EXIST", "Path (/x) doesn't exist."));
        assert_eq!(read(400, r#"{"error":"old words"}"#), both("", "old words"));
        assert_eq!(read(404, r#"{"detail":"no such user","status":"404"}"#), both("", "no such user"));
        assert_eq!(read(404, r#"{"message":"only words"}"#), both("", "only words"));
        assert_eq!(read(500, "INTERNAL_ERROR: oh no"), both("INTERNAL_ERROR", "oh no"));
        assert_eq!(read(503, "<html><pre> back soon </pre></html>"), both("", "back soon"));
        assert_eq!(read(502, "<html><title>Bad Gateway</title></html>"), both("", "Bad Gateway"));
        assert_eq!(read(500, "<html></html>"), both("", "an HTML page"));
        assert_eq!(read(403, ""), both("", "Forbidden"));
        assert_eq!(read(400, r#"[1]"#), both("", "[1]"));
    }

    #[test]
    fn all_forms_of_too_large_are_one() {
        let info = r#"{"error_code":"BAD_REQUEST","message":"no","details":[
            {"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"MAX_NOTEBOOK_SIZE_EXCEEDED"}]}"#;
        let forms = [
            r#"{"error_code":"MAX_NOTEBOOK_SIZE_EXCEEDED","message":"x"}"#,
            r#"{"error_code":"BAD_REQUEST","message":"Size exceeds 10485760 bytes"}"#,
            r#"{"message":"Notebook size exceeded limit: 11000000 > 10485760"}"#,
            r#"{"message":"File size imported is (459418279 bytes), exceeded max size (10485760 bytes)"}"#,
            info,
        ];
        for form in forms {
            assert!(refusal(400, &HeaderMap::new(), form.as_bytes()).is_too_large(), "{form}");
        }
        assert!(in_good_answer(200, forms[0].as_bytes()).is_some_and(|refusal| refusal.is_too_large()));
        assert!(in_good_answer(200, br#"{"content":"aGk="}"#).is_none());
    }
}
