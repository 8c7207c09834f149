//! Objects of the workspace: listings, exports and imports.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{ask, get, post, started, workspace};
use crate::databricks::{FakeOptions, FakeWorkspace, Language, TooLarge};

const LIST: &str = "/api/2.0/workspace/list?path=";
const STATUS: &str = "/api/2.0/workspace/get-status?path=";
const EXPORT: &str = "/api/2.0/workspace/export?path=";
const SOURCE: &[u8] =
    b"# Databricks notebook source\nprint(1)\n\n# COMMAND ----------\n\n# MAGIC %md\n# MAGIC # Head\n";

fn import(workspace: &FakeWorkspace, path: &str, format: &str, content: &[u8], more: Value) -> (u16, String) {
    let mut body = json!({ "path": path, "format": format, "content": BASE64_STANDARD.encode(content) });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let reply = post(workspace, "/api/2.0/workspace/import", body);
    if reply.status == 200 { (200, String::new()) } else { reply.error() }
}

fn exported(workspace: &FakeWorkspace, path: &str, format: &str) -> Vec<u8> {
    let json = get(workspace, &format!("{EXPORT}{path}&format={format}")).json();
    BASE64_STANDARD.decode(json["content"].as_str().unwrap_or_else(|| panic!("{json}"))).unwrap()
}

fn kind(workspace: &FakeWorkspace, path: &str) -> Option<String> {
    workspace.get(path).map(|object| object.object_type)
}

#[test]
fn listings_have_one_level_an_empty_folder_has_no_key_and_an_object_lists_itself() {
    let workspace = workspace();
    let id = workspace.put_notebook("/a/x", Language::Sql, b"select 1");
    workspace.mkdirs("/a/empty");
    workspace.put_file("/a/b/deep.txt", b"deep");
    let names = |listing: Value| -> Vec<String> {
        listing["objects"].as_array().unwrap().iter().map(|it| it["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(get(&workspace, &format!("{LIST}/a")).json()), ["/a/b", "/a/empty", "/a/x"]);
    assert_eq!(names(get(&workspace, &format!("{LIST}/Workspace//a/x/")).json()), ["/a/x"]);
    assert_eq!(get(&workspace, &format!("{LIST}/a/empty")).body, b"{}");
    assert_eq!(get(&workspace, &format!("{LIST}/none")).error(), (404, "RESOURCE_DOES_NOT_EXIST".into()));
    assert_eq!(get(&workspace, &format!("{LIST}none")).error(), (400, "INVALID_PARAMETER_VALUE".into()));
    let status = get(&workspace, &format!("{STATUS}/a/x")).json();
    assert_eq!((status["object_id"].as_u64(), status["language"].as_str()), (Some(id), Some("SQL")));
}

#[test]
fn times_are_absent_or_zero_where_the_workspace_does_not_know_them() {
    let workspace = workspace();
    workspace.put_file("/x", b"");
    for (known, told) in [(None, None), (Some(0), Some(0)), (Some(5), Some(5))] {
        workspace.set_modified_at("/x", known);
        assert_eq!(get(&workspace, &format!("{STATUS}/x")).json()["modified_at"].as_i64(), told);
    }
}

#[test]
fn sizes_of_notebooks_are_listed_on_demand_and_those_of_files_always() {
    let size = |options, path: &str| {
        let workspace = started(options);
        workspace.put_file("/file", b"12345");
        workspace.put_notebook("/notebook", Language::Python, SOURCE);
        get(&workspace, &format!("{STATUS}{path}")).json()["size"].as_u64()
    };
    assert_eq!(size(FakeOptions::default(), "/file"), Some(5));
    assert_eq!(size(FakeOptions::default(), "/notebook"), None);
    let sized = FakeOptions { list_sizes: true, ..FakeOptions::default() };
    assert_eq!(size(sized, "/notebook"), Some(SOURCE.len() as u64));
}

#[test]
fn only_notebooks_changed_later_are_listed_where_a_time_is_given() {
    let workspace = workspace();
    for (name, modified_at) in [("/early", Some(10)), ("/late", Some(11)), ("/unknown", None)] {
        workspace.put_notebook(name, Language::Python, SOURCE);
        workspace.set_modified_at(name, modified_at);
    }
    workspace.put_file("/file", b"");
    let listing = get(&workspace, &format!("{LIST}/&notebooks_modified_after=10")).json();
    let paths: Vec<_> = listing["objects"].as_array().unwrap().iter().map(|it| it["path"].as_str()).collect();
    assert_eq!(paths, [Some("/file"), Some("/late")]);
}

#[test]
fn an_export_is_what_was_imported_in_every_format_that_is_lossless() {
    let workspace = workspace();
    workspace.put_notebook("/x", Language::Python, SOURCE);
    for (number, format) in ["SOURCE", "JUPYTER", "DBC"].into_iter().enumerate() {
        let form = exported(&workspace, "/x", format);
        assert_eq!(exported(&workspace, "/x", format), form, "{format} is the same twice");
        let path = format!("/copy{number}");
        assert_eq!(import(&workspace, &path, format, &form, json!({ "language": "PYTHON" })).0, 200);
        assert_eq!(exported(&workspace, &path, "SOURCE"), SOURCE, "{format}");
    }
    let raw = get(&workspace, &format!("{EXPORT}/x&direct_download=true"));
    assert_eq!((raw.body.as_slice(), raw.header("content-type")), (SOURCE, Some("application/octet-stream")));
    let info = |path: &str| get(&workspace, &format!("{STATUS}{path}&return_export_info=true")).json();
    assert_eq!(info("/copy0")["repos_export_format"], "SOURCE");
    assert_eq!(info("/copy1")["repos_export_format"], "JUPYTER");
}

#[test]
fn auto_makes_notebooks_of_what_begins_like_one_and_takes_their_suffix() {
    let workspace = workspace();
    workspace.mkdirs("/a");
    let jupyter = br#"{"cells":[],"nbformat":4,"nbformat_minor":0,"metadata":{}}"#;
    for (path, content, made, wanted) in [
        ("/a/one.py", SOURCE, "/a/one", "NOTEBOOK"),
        ("/a/two.py", b"print(1)".as_slice(), "/a/two.py", "FILE"),
        ("/a/three.sql", SOURCE, "/a/three.sql", "FILE"),
        ("/a/four.sql", b"-- Databricks notebook source\r\nselect 1".as_slice(), "/a/four", "NOTEBOOK"),
        ("/a/five.ipynb", jupyter.as_slice(), "/a/five", "NOTEBOOK"),
        ("/a/six.ipynb", b"{".as_slice(), "/a/six.ipynb", "FILE"),
        ("/a/seven.designer.ipynb", jupyter.as_slice(), "/a/seven.designer.ipynb", "NOTEBOOK"),
        ("/a/eight", SOURCE, "/a/eight", "FILE"),
    ] {
        assert_eq!(import(&workspace, path, "AUTO", content, json!({})).0, 200, "{path}");
        assert_eq!(kind(&workspace, made).as_deref(), Some(wanted), "{path}");
        let encoded = path.replace('/', "%2F");
        let target = format!("/api/2.0/workspace-files/import-file/{encoded}?overwrite=true");
        assert_eq!(ask(&workspace, "POST", &target, content).status, 200, "{path}");
        assert_eq!(kind(&workspace, made).as_deref(), Some(wanted), "{path}");
    }
    assert_eq!(import(&workspace, "/a/raw.py", "RAW", SOURCE, json!({})).0, 200);
    assert_eq!(kind(&workspace, "/a/raw.py").as_deref(), Some("FILE"));
    assert_eq!(get(&workspace, "/api/2.0/workspace-files/a/raw.py").body, SOURCE);
}

#[test]
fn imports_fail_in_the_ways_of_the_service() {
    let workspace = workspace();
    workspace.put_notebook("/notebook", Language::Python, SOURCE);
    workspace.put_file("/file.txt", b"");
    workspace.mkdirs("/folder");
    let python = || json!({ "language": "PYTHON" });
    let over = || json!({ "language": "PYTHON", "overwrite": true });
    let invalid = || (400, "INVALID_PARAMETER_VALUE".to_owned());
    assert_eq!(import(&workspace, "/none/x", "SOURCE", SOURCE, python()), (404, "RESOURCE_DOES_NOT_EXIST".into()));
    assert_eq!(import(&workspace, "/notebook", "SOURCE", SOURCE, python()), (400, String::new()));
    assert_eq!(import(&workspace, "/file.txt", "AUTO", b"", json!({})), (409, "RESOURCE_ALREADY_EXISTS".into()));
    assert_eq!(import(&workspace, "/file.txt", "SOURCE", SOURCE, over()), invalid());
    assert_eq!(import(&workspace, "/folder", "SOURCE", SOURCE, over()), invalid());
    assert_eq!(import(&workspace, "/notebook", "AUTO", b"", over()), invalid());
    assert_eq!(import(&workspace, "/x", "SOURCE", SOURCE, json!({})), invalid());
    assert_eq!(import(&workspace, "/x", "DBC", SOURCE, over()), invalid());
    assert_eq!(import(&workspace, "/", "AUTO", SOURCE, over()), invalid());
    assert_eq!(import(&workspace, "/x", "source", SOURCE, python()).0, 400);
    let id = workspace.get("/notebook").unwrap().id;
    assert_eq!(import(&workspace, "/notebook", "SOURCE", b"print(2)", over()).0, 200);
    let changed = workspace.get("/notebook").unwrap();
    assert_eq!(changed.content.as_deref(), Some(b"# Databricks notebook source\nprint(2)".as_slice()));
    assert_eq!(changed.id, id);
}

#[test]
fn what_is_too_large_is_refused_in_the_form_that_was_chosen() {
    let form = |too_large_form| {
        let workspace = started(FakeOptions { too_large_form, size_limit: 10, ..FakeOptions::default() });
        workspace.put_file("/fits", &[b'x'; 10]);
        workspace.put_file("/large", &[b'x'; 11]);
        assert_eq!(exported(&workspace, "/fits", "AUTO").len(), 10);
        assert_eq!(get(&workspace, "/api/2.0/workspace-files/large").body.len(), 11);
        assert_eq!(import(&workspace, "/new", "RAW", &[b'x'; 11], json!({})).0, 400);
        get(&workspace, &format!("{EXPORT}/large&format=AUTO"))
    };
    assert_eq!(FakeOptions::default().size_limit, 10_485_760);
    assert_eq!(form(TooLarge::MaxNotebookSize).error(), (400, "MAX_NOTEBOOK_SIZE_EXCEEDED".into()));
    let text = form(TooLarge::BadRequest);
    assert_eq!(
        (text.error(), text.json()["message"].as_str()),
        ((400, "BAD_REQUEST".into()), Some("Size exceeds 10 bytes"))
    );
    let reason = form(TooLarge::ReasonOnly);
    assert_eq!(reason.error(), (400, "none".into()));
    assert_eq!(reason.json()["details"][0]["reason"], "MAX_NOTEBOOK_SIZE_EXCEEDED");
    assert_eq!(form(TooLarge::OkWithError).error(), (200, "MAX_NOTEBOOK_SIZE_EXCEEDED".into()));
}

#[test]
fn a_folder_is_exported_as_an_archive_and_other_types_are_not_exported() {
    let workspace = workspace();
    workspace.put_notebook("/a/x", Language::Python, SOURCE);
    assert!(exported(&workspace, "/a", "SOURCE").starts_with(b"PK"));
    for object_type in ["REPO", "LIBRARY", "MLFLOW_EXPERIMENT", "SOMETHING_NEW"] {
        let path = format!("/{object_type}");
        workspace.put_object(&path, object_type);
        assert_eq!(get(&workspace, &format!("{STATUS}{path}")).json()["object_type"], object_type);
        assert_eq!(get(&workspace, &format!("{EXPORT}{path}")).error(), (400, "BAD_REQUEST".into()));
    }
    workspace.put_file("/file", b"");
    assert_eq!(get(&workspace, &format!("{EXPORT}/file&format=SOURCE")).status, 400);
    assert_eq!(get(&workspace, &format!("{EXPORT}/file")).status, 200);
}

#[test]
fn folders_are_deleted_with_what_is_in_them_only_where_that_is_said() {
    let workspace = workspace();
    workspace.put_file("/a/b/x", b"");
    let delete = |path: &str, recursive| {
        post(&workspace, "/api/2.0/workspace/delete", json!({ "path": path, "recursive": recursive }))
    };
    assert_eq!(delete("/a", false).error(), (400, "DIRECTORY_NOT_EMPTY".into()));
    assert_eq!(delete("/", true).status, 400);
    assert_eq!(delete("/a", true).status, 200);
    assert_eq!(delete("/a", true).error(), (404, "RESOURCE_DOES_NOT_EXIST".into()));
    let mkdirs = |path: &str| post(&workspace, "/api/2.0/workspace/mkdirs", json!({ "path": path })).status;
    assert_eq!((mkdirs("/a/b"), mkdirs("/a/b")), (200, 200));
    workspace.put_file("/a/file", b"");
    assert_eq!((mkdirs("/a/file"), mkdirs("/a/file/x")), (400, 400));
}

#[test]
fn a_renamed_object_keeps_its_id_and_the_digest_tells_any_change() {
    let workspace = workspace();
    let id = workspace.put_notebook("/a/x", Language::Python, SOURCE);
    let mut digests = vec![workspace.digest()];
    workspace.rename("/a", "/b/c");
    assert_eq!((workspace.get("/b/c/x").unwrap().id, workspace.get("/a")), (id, None));
    digests.push(workspace.digest());
    workspace.modify("/b/c/x");
    digests.push(workspace.digest());
    workspace.put_notebook("/b/c/x", Language::Scala, SOURCE);
    digests.push(workspace.digest());
    assert!(digests.windows(2).all(|pair| pair[0] != pair[1]));
    let before = workspace.get("/b/c/x").unwrap();
    workspace.touch("/b/c/x");
    assert!(workspace.get("/b/c/x").unwrap().modified_at > before.modified_at);
    assert_eq!(workspace.digest(), digests[3]);
    let paths: Vec<String> = workspace.objects().into_iter().map(|object| object.path).collect();
    assert_eq!(paths, ["/b", "/b/c", "/b/c/x"]);
}

#[test]
fn a_folder_on_disk_is_taken_as_its_import_would_be() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/x.py"), SOURCE).unwrap();
    std::fs::write(folder.path().join("plain.py"), b"print(1)").unwrap();
    let workspace = workspace();
    workspace.load_folder(folder.path());
    assert_eq!(kind(&workspace, "/sub/x").as_deref(), Some("NOTEBOOK"));
    assert_eq!(kind(&workspace, "/plain.py").as_deref(), Some("FILE"));
}
