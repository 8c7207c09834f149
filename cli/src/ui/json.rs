//! The JSON document that a command prints. `docs/json.md` describes it.

use lakebed_connectors::object_storage::{Prices, Traffic};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::repository::RepositoryInfo;
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::CliError;

/// Version of the document. It is raised where a key changes its meaning or goes away, not where one is added.
const SCHEMA: u32 = 1;

/// All that standard output carries.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    schema: u32,
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Value>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// It is done, if not with everything.
    Result(Value),
    /// It failed.
    Error(Value),
}

impl<'a> Document<'a> {
    /// Builds a document.
    pub(super) fn new(command: Option<&'a str>, repository: Option<&'a Value>, outcome: Outcome) -> Self {
        Self { schema: SCHEMA, command, repository, traffic: None, outcome }
    }

    /// Adds what was asked of object stores.
    pub(super) fn with_traffic(self, traffic: Option<Value>) -> Self {
        Self { traffic, ..self }
    }
}

pub(crate) fn repository(info: &RepositoryInfo) -> Value {
    json!({ "id": info.id, "location": info.location, "encryption": encryption(info.encryption) })
}

fn encryption(encryption: Encryption) -> Value {
    // an enum of names: JSON always holds it
    serde_json::to_value(encryption).unwrap_or_default()
}

pub(super) fn traffic(traffic: &Traffic, prices: Option<&Prices>) -> Value {
    json!({
        "requests": traffic.requests(),
        "puts": traffic.puts,
        "gets": traffic.gets,
        "heads": traffic.heads,
        "lists": traffic.lists,
        "deletes": traffic.deletes,
        "sent_bytes": traffic.sent_bytes,
        "received_bytes": traffic.received_bytes,
        "cost": prices.map(|prices| json!({ "amount": prices.cost(traffic), "currency": prices.currency })),
    })
}

pub(super) fn error(error: &CliError) -> Outcome {
    Outcome::Error(json!({
        "message": error.to_string(),
        "causes": error.causes(),
        "hint": error.advice(),
        "exit_code": error.exit_code(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_names_its_schema_and_command() {
        let document = Document::new(Some("backup"), None, error(&CliError::usage("no")));
        let text = serde_json::to_string(&document).unwrap();
        assert!(text.starts_with(r#"{"schema":1,"command":"backup","error":{"#), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["command"], "backup");
        assert_eq!(value["error"]["exit_code"], 2);
        assert_eq!(value["error"]["hint"], Value::Null);
        assert!(value.get("result").is_none());
    }
}
