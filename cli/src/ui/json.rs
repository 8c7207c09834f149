//! The JSON document that a command prints. `docs/json.md` describes it.

use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::repository::RepositoryInfo;
use serde_json::{Map, Value, json};

use crate::error::CliError;

/// Version of the document. It is raised where a key changes its meaning or goes away, not where one is added.
const SCHEMA: u32 = 1;

/// Builds a document with a result or an error.
pub(super) fn document(command: &str, repository: Option<&Value>, key: &str, value: Value) -> Value {
    let mut map = Map::new();
    map.insert("schema".into(), SCHEMA.into());
    if !command.is_empty() {
        map.insert("command".into(), command.into());
    }
    if let Some(repository) = repository {
        map.insert("repository".into(), repository.clone());
    }
    map.insert(key.into(), value);
    Value::Object(map)
}

pub(super) fn repository(info: &RepositoryInfo) -> Value {
    json!({ "id": info.id, "location": info.location, "encryption": encryption(info.encryption) })
}

fn encryption(encryption: Encryption) -> Value {
    serde_json::to_value(encryption).unwrap_or_default()
}

pub(super) fn error(error: &CliError) -> Value {
    json!({
        "message": error.to_string(),
        "causes": error.causes(),
        "hint": error.advice(),
        "exit_code": error.exit_code(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_names_its_schema_and_command() {
        let text = document("backup", None, "error", error(&CliError::usage("no"))).to_string();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["command"], "backup");
        assert_eq!(value["error"]["exit_code"], 2);
        assert_eq!(value["error"]["hint"], Value::Null);
        assert!(value.get("result").is_none());
    }
}
