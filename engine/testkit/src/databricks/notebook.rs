//! The forms that a notebook has: source text, Jupyter's JSON, HTML, and the JSON inside of archives.
//!
//! All lead to the same cells. A source that was written here comes back byte for byte from each form but HTML.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::object::{Language, Notebook};
use super::random::{mixed, uuid};

const CELL_METADATA: &str = "application/vnd.databricks.v1+cell";
const NOTEBOOK_METADATA: &str = "application/vnd.databricks.v1+notebook";
const MARKDOWN: &str = "%md\n";

/// What the cells of a Jupyter notebook showed when it was imported, cell by cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outputs(Vec<Value>);

/// A cell. Where its text begins with `%`, it says itself what language it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cell {
    title: Option<String>,
    text: String,
}

/// Returns the source of a notebook with the first line that all of them have.
pub(super) fn with_header(language: Language, source: &[u8]) -> Vec<u8> {
    if language.has_header(source) {
        return source.to_vec();
    }
    [language.header().as_bytes(), b"\n", source].concat()
}

fn cells_of_source(language: Language, source: &[u8]) -> Vec<Cell> {
    let source = String::from_utf8_lossy(source);
    let text = source.split_once('\n').map_or("", |(_, text)| text);
    let separator = format!("{} COMMAND ----------", language.comment());
    let mut cells = vec![Vec::new()];
    for line in text.lines() {
        if line.trim_end() == separator {
            cells.push(Vec::new());
        } else {
            cells.last_mut().expect("there is always one").push(line);
        }
    }
    let cells: Vec<Cell> = cells.iter().map(|lines| cell_of_lines(language, lines)).collect();
    let is_empty = cells.len() == 1 && cells[0].text.is_empty() && cells[0].title.is_none();
    if is_empty { Vec::new() } else { cells }
}

fn cell_of_lines(language: Language, lines: &[&str]) -> Cell {
    let mut lines = trimmed(lines);
    let title = lines.first().and_then(|line| line.strip_prefix(&format!("{} DBTITLE 1,", language.comment())));
    if title.is_some() {
        lines = trimmed(&lines[1..]);
    }
    let magic = format!("{} MAGIC", language.comment());
    let is_magic = lines.first().is_some_and(|line| line.starts_with(&magic));
    let plain = |line: &&str| match line.strip_prefix(&magic) {
        Some(rest) if is_magic => rest.strip_prefix(' ').unwrap_or(rest).to_owned(),
        _ => (*line).to_owned(),
    };
    Cell { title: title.map(str::to_owned), text: lines.iter().map(plain).collect::<Vec<_>>().join("\n") }
}

fn trimmed<'a, 'b>(mut lines: &'a [&'b str]) -> &'a [&'b str] {
    while let [first, rest @ ..] = lines
        && first.is_empty()
    {
        lines = rest;
    }
    while let [rest @ .., last] = lines
        && last.is_empty()
    {
        lines = rest;
    }
    lines
}

fn source_of_cells(language: Language, cells: &[Cell]) -> Vec<u8> {
    let comment = language.comment();
    let text = |cell: &Cell| {
        let title = cell.title.iter().map(|title| format!("{comment} DBTITLE 1,{title}"));
        let is_magic = cell.text.starts_with('%');
        let lines = cell.text.lines().map(|line| match line {
            "" if is_magic => format!("{comment} MAGIC"),
            line if is_magic => format!("{comment} MAGIC {line}"),
            line => line.to_owned(),
        });
        title.chain(lines).map(|line| line + "\n").collect::<String>()
    };
    let separator = format!("\n{comment} COMMAND ----------\n\n");
    let cells: Vec<String> = cells.iter().map(text).collect();
    format!("{}\n{}", language.header(), cells.join(&separator)).into_bytes()
}

/// Returns a notebook as Jupyter's JSON, with what its cells showed or without.
pub(super) fn to_jupyter(name: &str, notebook: &Notebook, with_outputs: bool) -> Vec<u8> {
    let outputs = |at: usize| match &notebook.jupyter {
        Some(outputs) if with_outputs => outputs.0.get(at).cloned().unwrap_or_else(|| json!([])),
        _ => json!([]),
    };
    let cell = |(at, cell): (usize, &Cell)| {
        let metadata = json!({ CELL_METADATA: {
            "cellMetadata": {},
            "inputWidgets": {},
            "nuid": identifier(at, &cell.text),
            "showTitle": cell.title.is_some(),
            "title": cell.title.as_deref().unwrap_or_default(),
        }});
        match cell.text.strip_prefix(MARKDOWN) {
            Some(text) => json!({ "cell_type": "markdown", "metadata": metadata, "source": lines(text) }),
            None => json!({
                "cell_type": "code", "execution_count": 0, "metadata": metadata, "outputs": outputs(at),
                "source": lines(&cell.text),
            }),
        }
    };
    let language = notebook.language.name().to_ascii_lowercase();
    let cells: Vec<Value> =
        cells_of_source(notebook.language, &notebook.body.bytes()).iter().enumerate().map(cell).collect();
    let notebook = json!({
        "cells": cells,
        "metadata": {
            NOTEBOOK_METADATA: { "dashboards": [], "language": language, "notebookName": name, "widgets": {} },
            "language_info": { "name": language },
        },
        "nbformat": 4,
        "nbformat_minor": 0,
    });
    serde_json::to_vec_pretty(&notebook).expect("it can be written")
}

/// An identifier that follows from a cell.
fn identifier(at: usize, text: &str) -> String {
    uuid(&[text.bytes().fold(at as u64, |hash, byte| mixed(&[hash, u64::from(byte)]))])
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// What a notebook was read from another form as.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) language: Language,
    pub(super) source: Vec<u8>,
    pub(super) outputs: Outputs,
}

/// Reads Jupyter's JSON. Nothing where it is none.
pub(super) fn of_jupyter(json: &[u8]) -> Option<Parsed> {
    let notebook: Value = serde_json::from_slice(json).ok()?;
    let language = language_named(&notebook["metadata"][NOTEBOOK_METADATA]["language"]).unwrap_or(Language::Python);
    let cells = notebook["cells"].as_array()?;
    let cell = |cell: &Value| {
        let text = match &cell["source"] {
            Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
            source => source.as_str().unwrap_or_default().to_owned(),
        };
        let magic = match cell["cell_type"].as_str() {
            Some("markdown") => MARKDOWN,
            Some("raw") => "%raw\n",
            _ => "",
        };
        let title = cell["metadata"][CELL_METADATA]["title"].as_str().filter(|title| !title.is_empty());
        Cell { title: title.map(str::to_owned), text: format!("{magic}{}", text.trim_matches('\n')) }
    };
    let outputs = |cell: &Value| cell.get("outputs").cloned().unwrap_or_else(|| json!([]));
    Some(Parsed {
        language,
        source: source_of_cells(language, &cells.iter().map(cell).collect::<Vec<_>>()),
        outputs: Outputs(cells.iter().map(outputs).collect()),
    })
}

/// Returns a notebook as an archive holds it.
pub(super) fn to_archived(name: &str, notebook: &Notebook) -> Vec<u8> {
    let command = |(at, cell): (usize, &Cell)| {
        json!({
            "version": "CommandV1",
            "guid": identifier(at, &cell.text),
            "subtype": "command",
            "commandType": "auto",
            "position": at as f64 + 1.0,
            "command": cell.text,
            "commandTitle": cell.title.as_deref().unwrap_or_default(),
            "showCommandTitle": cell.title.is_some(),
        })
    };
    let cells = cells_of_source(notebook.language, &notebook.body.bytes());
    let notebook = json!({
        "version": "NotebookV1",
        "name": name,
        "language": notebook.language.name().to_ascii_lowercase(),
        "commands": cells.iter().enumerate().map(command).collect::<Vec<_>>(),
    });
    notebook.to_string().into_bytes()
}

/// Reads a notebook from what an archive holds. Nothing where it is none.
pub(super) fn of_archived(json: &[u8]) -> Option<Parsed> {
    let notebook: Value = serde_json::from_slice(json).ok()?;
    let language = language_named(&notebook["language"])?;
    let cell = |command: &Value| Cell {
        title: command["commandTitle"].as_str().filter(|title| !title.is_empty()).map(str::to_owned),
        text: command["command"].as_str().unwrap_or_default().to_owned(),
    };
    let cells: Vec<Cell> = notebook["commands"].as_array()?.iter().map(cell).collect();
    Some(Parsed { language, source: source_of_cells(language, &cells), outputs: Outputs(Vec::new()) })
}

fn language_named(name: &Value) -> Option<Language> {
    Language::ALL
        .into_iter()
        .find(|language| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case(language.name())))
}

/// Returns a page that shows a notebook.
pub(super) fn to_html(name: &str, notebook: &Notebook) -> Vec<u8> {
    let model = BASE64_STANDARD.encode(to_archived(name, notebook));
    let name = name.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"/><title>{name} - Databricks</title></head>\n\
         <body><script>var __DATABRICKS_NOTEBOOK_MODEL = '{model}'</script></body>\n</html>\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::databricks::object::Body;
    use crate::databricks::sources;

    fn notebook(language: Language, source: &[u8]) -> Notebook {
        Notebook { language, jupyter: None, body: Body::stored(source) }
    }

    #[test]
    fn sources_come_back_from_jupyter_and_from_archives_byte_for_byte() {
        let sql = b"-- Databricks notebook source\n-- DBTITLE 1,A title\nSELECT 1\n\n-- COMMAND ----------\n\n\
            -- MAGIC %md\n-- MAGIC # Head\n-- MAGIC\n-- MAGIC text\n\n-- COMMAND ----------\n\n-- MAGIC %md inline\n";
        let generated = (0..50).map(|seed| (Language::Python, sources::source(seed, 1)));
        let empty = (Language::R, b"# Databricks notebook source\n".to_vec());
        for (language, source) in generated.chain([(Language::Sql, sql.to_vec()), empty]) {
            let notebook = notebook(language, &source);
            for parsed in [
                of_jupyter(&to_jupyter("n", &notebook, true)).unwrap(),
                of_archived(&to_archived("n", &notebook)).unwrap(),
            ] {
                assert_eq!(String::from_utf8(parsed.source).unwrap(), String::from_utf8(source.clone()).unwrap());
                assert_eq!(parsed.language, language);
            }
        }
    }

    #[test]
    fn outputs_of_a_jupyter_notebook_are_kept_and_can_be_left_out() {
        let json = br##"{"nbformat":4,"cells":[
            {"cell_type":"markdown","source":"# Head"},
            {"cell_type":"code","source":["a = 1\n","a"],"outputs":[{"output_type":"stream","text":["1"]}]}]}"##;
        let parsed = of_jupyter(json).unwrap();
        let source = String::from_utf8(parsed.source.clone()).unwrap();
        let expected =
            "# Databricks notebook source\n# MAGIC %md\n# MAGIC # Head\n\n# COMMAND ----------\n\na = 1\na\n";
        assert_eq!(source, expected);
        let mut notebook = notebook(parsed.language, &parsed.source);
        notebook.jupyter = Some(parsed.outputs.into());
        let outputs = |with| -> Value { serde_json::from_slice(&to_jupyter("n", &notebook, with)).unwrap() };
        assert_eq!(outputs(true)["cells"][1]["outputs"][0]["text"][0], "1");
        assert_eq!(outputs(false)["cells"][1]["outputs"], json!([]));
        assert_eq!(of_jupyter(b"{}"), None);
    }

    #[test]
    fn a_source_without_the_first_line_gets_it() {
        assert_eq!(with_header(Language::Scala, b"val a = 1"), b"// Databricks notebook source\nval a = 1");
        let crlf = b"# Databricks notebook source\r\na";
        assert_eq!(with_header(Language::Python, crlf), crlf);
    }
}
