//! What goes wrong on purpose, and what is counted.

use std::collections::{BTreeMap, HashSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::{get, post, started, workspace};
use crate::databricks::{
    Action, FakeOptions, FakeWorkspace, GenerateOptions, Kind, Language, RetryAfter, Rule, Target, When,
};

const EXPORT: &str = "/api/2.0/workspace/export?path=/a/x";

fn with_notebook(options: FakeOptions) -> FakeWorkspace {
    let workspace = started(options);
    workspace.put_notebook("/a/x", Language::Python, b"print(1)");
    workspace
}

#[test]
fn each_action_has_the_answer_that_it_names() {
    let workspace = with_notebook(FakeOptions::default());
    let with = |action: Action| {
        let id = workspace.add_rule(Rule::new(Target::Kind(Kind::Export), When::Always, action));
        let reply = get(&workspace, EXPORT);
        workspace.remove_rule(id);
        reply
    };
    let whole = get(&workspace, EXPORT);
    let teapot = with(Action::Status { status: 418, body: "short and stout".into() });
    assert_eq!((teapot.status, teapot.body.as_slice()), (418, b"short and stout".as_slice()));
    let error = Action::Error { status: 200, error_code: "BAD_REQUEST".into(), message: "no".into() };
    assert_eq!(with(error).error(), (200, "BAD_REQUEST".into()));
    assert_eq!(with(Action::ExpiredToken).error(), (401, "UNAUTHENTICATED".into()));
    assert_eq!(with(Action::Forbidden).error(), (403, "PERMISSION_DENIED".into()));
    assert_eq!(with(Action::NotFound).error(), (404, "RESOURCE_DOES_NOT_EXIST".into()));
    assert_eq!(with(Action::TooManyRequests).status, 429);
    let page = with(Action::HtmlPage);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let empty = with(Action::EmptyBody);
    assert_eq!((empty.status, empty.body.len(), empty.is_cut()), (200, 0, false));
    let cut = with(Action::CutBody);
    assert!(cut.is_cut() && whole.body.starts_with(&cut.body) && cut.body.len() == whole.body.len() / 2, "{cut:?}");
    let truncated = with(Action::TruncatedBase64).json();
    let content = truncated["content"].as_str().unwrap();
    assert!(!content.is_empty() && BASE64_STANDARD.decode(content).is_err(), "{content}");
    assert_eq!(get(&workspace, EXPORT).body, whole.body);
}

#[test]
fn even_of_an_empty_answer_something_is_missing_when_it_is_cut() {
    let workspace = workspace();
    workspace.add_rule(Rule::new(Target::All, When::Always, Action::CutBody));
    assert!(get(&workspace, "/api/2.0/workspace/list?path=/").is_cut());
}

#[test]
fn a_subtree_is_gone_for_listings_status_and_exports() {
    let workspace = with_notebook(FakeOptions::default());
    let id = workspace.add_rule(Rule::new(Target::Subtree("/a".into()), When::Always, Action::NotFound));
    let statuses = || {
        ["list?path=/a", "list?path=/Workspace/a/x", "get-status?path=/a/x", "export?path=/a/x", "list?path=/"]
            .map(|call| get(&workspace, &format!("/api/2.0/workspace/{call}")).status)
    };
    assert_eq!(statuses(), [404, 404, 404, 404, 200]);
    workspace.remove_rule(id);
    assert_eq!(statuses(), [200; 5]);
}

#[test]
fn rules_find_objects_in_bodies_forms_and_paths() {
    let workspace = workspace();
    let target = Target::Object { kind: None, path: "*/wanted*".into() };
    workspace.add_rule(Rule::new(target, When::Always, Action::Forbidden));
    let import = |path: &str| {
        post(&workspace, "/api/2.0/workspace/import", json!({ "path": path, "format": "AUTO", "content": "" })).status
    };
    assert_eq!((import("/wanted.txt"), import("/other.txt")), (403, 200));
    let form = |path: &str| {
        let body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{path}\r\n--b\r\nContent-Disposition: form-data; \
             name=\"format\"\r\n\r\nAUTO\r\n--b\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\nx\r\n--b--\r\n"
        );
        let headers = [("Authorization", "Bearer fake-token"), ("Content-Type", "multipart/form-data; boundary=b")];
        super::ask_with(&workspace, "POST", "/api/2.0/workspace/import", &headers, body.as_bytes()).status
    };
    assert_eq!((form("/wanted.txt"), form("/form.txt")), (403, 200));
    assert_eq!(workspace.get("/form.txt").unwrap().content.as_deref(), Some(b"x".as_slice()));
    workspace.put_volume_file("/Volumes/c/s/v/wanted file", b"x");
    assert_eq!(get(&workspace, "/api/2.0/fs/files/Volumes/c/s/v/wanted%20file").status, 403);
    workspace.put_file("/a/wanted", b"x");
    assert_eq!(get(&workspace, "/api/2.0/workspace-files/a/wanted").status, 403);
}

#[test]
fn calls_beyond_the_rate_are_told_when_to_come_again_as_it_was_chosen() {
    let header = |retry_after| {
        // the bucket is as good as never filled again
        let rates = BTreeMap::from([("list".to_owned(), 1e-9)]);
        let workspace = started(FakeOptions { rates, retry_after, ..FakeOptions::default() });
        let list = || get(&workspace, "/api/2.0/workspace/list?path=/");
        assert_eq!(list().status, 200);
        let refused = list();
        assert_eq!((refused.status, workspace.counters().throttled), (429, 1));
        workspace.set_rates(&BTreeMap::new());
        assert_eq!(list().status, 200);
        refused.header("retry-after").map(str::to_owned)
    };
    assert_eq!(header(RetryAfter::Absent), None);
    assert_eq!(header(RetryAfter::Seconds(3)).as_deref(), Some("3"));
    assert_eq!(header(RetryAfter::Text("1.58".into())).as_deref(), Some("1.58"));
    let date = header(RetryAfter::Date(60)).unwrap();
    assert!(date.ends_with(" GMT") && jiff::fmt::rfc2822::parse(&date).is_ok(), "{date}");
}

#[test]
fn chance_lets_calls_fail_in_all_ways_and_the_same_seed_in_the_same_ones() {
    let run = |seed| {
        let workspace = with_notebook(FakeOptions { failure_share: 0.5, seed, ..FakeOptions::default() });
        let whole = workspace.get("/a/x").unwrap().content;
        let what = |_| {
            let reply = get(&workspace, EXPORT);
            let content = || BASE64_STANDARD.decode(reply.json()["content"].as_str().unwrap()).ok();
            match (reply.status, reply.header("content-type")) {
                (200, _) if reply.is_cut() => "cut".to_owned(),
                (200, None) => "empty".to_owned(),
                (200, Some("text/html; charset=utf-8")) => "page".to_owned(),
                (200, _) if content() == whole => "whole".to_owned(),
                (200, _) => "truncated".to_owned(),
                (status, _) => status.to_string(),
            }
        };
        (0..200).map(what).collect::<Vec<_>>()
    };
    let ways = run(1);
    let whole = ways.iter().filter(|way| *way == "whole").count();
    assert!((60..140).contains(&whole), "{whole}");
    let different: HashSet<&str> = ways.iter().map(String::as_str).collect();
    assert_eq!(different, HashSet::from(["whole", "429", "500", "503", "cut", "empty", "page", "truncated"]));
    assert_eq!(run(1), ways);
    assert_ne!(run(2), ways);
}

#[test]
fn counters_tell_what_was_asked_and_exports_are_counted_by_path() {
    let workspace = with_notebook(FakeOptions::default());
    get(&workspace, EXPORT);
    get(&workspace, EXPORT);
    get(&workspace, "/api/2.0/workspace/export?path=/none");
    workspace.rename("/a/x", "/a/y");
    let counters = workspace.counters();
    assert_eq!((counters.of(Kind::Export), counters.total(), counters.max_in_flight), (3, 3, 1));
    let classes = &counters.statuses[&Kind::Export];
    assert_eq!((classes["2xx"], classes["4xx"]), (2, 1));
    assert!(counters.bytes_sent > 0);
    assert_eq!(workspace.export_counts(), [("/a/y".to_owned(), 2)].into());
    workspace.reset_counters();
    assert_eq!((workspace.counters().total(), workspace.export_counts().len()), (0, 0));
}

#[test]
fn scripts_do_over_http_what_the_methods_do() {
    let (workspace, twin) = (workspace(), workspace());
    let options = GenerateOptions { notebooks: 50, folders: 9, ..GenerateOptions::default() };
    twin.generate(&options);
    post(&workspace, "/_fake/generate", json!({ "notebooks": 50, "folders": 9 }));
    assert_eq!(get(&workspace, "/_fake/digest").json()["digest"], twin.digest());
    let night = post(&workspace, "/_fake/night", json!({ "changed_share": 0.1, "new": 1 })).json();
    assert_eq!((night["changed"].as_array().unwrap().len(), night["new"].as_array().unwrap().len()), (5, 1));

    let rule = json!({ "target": { "kind": "list" }, "when": { "nth": 2 }, "action": "not_found" });
    let id = post(&workspace, "/_fake/rules", rule).json()["id"].as_u64().unwrap();
    let list = || get(&workspace, "/api/2.0/workspace/list?path=/").status;
    assert_eq!([list(), list(), list()], [200, 404, 200]);
    assert_eq!(super::ask(&workspace, "DELETE", &format!("/_fake/rules/{id}"), b"").status, 200);

    assert_eq!(post(&workspace, "/_fake/rates", json!({ "rates": { "list": 1e-9 } })).status, 200);
    assert_eq!(post(&workspace, "/_fake/rates", json!({ "rates": { "nonsense": 1 } })).status, 400);
    assert_eq!([list(), list()], [200, 429]);
    post(&workspace, "/_fake/rates", json!({ "rates": {} }));
    post(&workspace, "/_fake/failure-share", json!({ "share": 1.0 }));
    post(&workspace, "/_fake/latency", json!({ "ms": 0.1 }));
    assert_eq!(get(&workspace, "/_fake/counters").json()["calls"]["list"], 5);
    post(&workspace, "/_fake/failure-share", json!({ "share": 0.0 }));
    post(&workspace, "/_fake/reset-counters", json!({}));
    assert_eq!(get(&workspace, "/_fake/counters").json()["calls"], json!({}));
    post(&workspace, "/_fake/wipe", json!({}));
    assert_eq!(workspace.objects(), []);
}
