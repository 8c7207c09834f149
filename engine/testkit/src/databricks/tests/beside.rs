//! What a workspace holds beside its objects: pages, and the odd forms that clients stumble over.

use serde_json::{Value, json};

use super::{Reply, ask, ask_with, get, page_sizes, post, started, workspace};
use crate::databricks::{Action, FakeOptions, FakeWorkspace, Kind, Language, Rule, Target, When};

#[test]
fn a_wide_job_comes_in_pages_of_a_hundred_tasks_and_is_cut_off_in_the_older_version() {
    let workspace = workspace();
    let tasks: Vec<Value> = (0..250).map(|number| json!({ "task_key": format!("t{number}") })).collect();
    let id = workspace.put_job(json!({ "name": "wide", "tasks": tasks, "parameters": [{ "name": "p" }] }));
    let newer = format!("/api/2.2/jobs/get?job_id={id}");
    let first = get(&workspace, &newer).json();
    let sizes =
        |job: &Value| (job["settings"]["tasks"].as_array().unwrap().len(), job["settings"].get("parameters").is_some());
    assert_eq!(sizes(&first), (100, true));
    let second = get(&workspace, &format!("{newer}&page_token={}", encoded(&first["next_page_token"]))).json();
    assert_eq!(sizes(&second), (100, false));
    let third = get(&workspace, &format!("{newer}&page_token={}", encoded(&second["next_page_token"]))).json();
    assert_eq!((sizes(&third), third.get("next_page_token")), ((50, false), None));
    let older = get(&workspace, &format!("/api/2.1/jobs/get?job_id={id}")).json();
    assert_eq!((sizes(&older), older.get("next_page_token")), ((100, true), None));
    assert_eq!(get(&workspace, "/api/2.2/jobs/get?job_id=5").error(), (400, "INVALID_PARAMETER_VALUE".into()));
}

fn encoded(token: &Value) -> String {
    percent_encoding::utf8_percent_encode(token.as_str().unwrap(), percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[test]
fn jobs_are_listed_in_pages_and_changed_by_their_ids() {
    let workspace = workspace();
    for number in 0..45 {
        workspace.put_job(json!({ "name": format!("j{number}"), "tasks": [] }));
    }
    assert_eq!(page_sizes(&workspace, "/api/2.2/jobs/list", "jobs"), [20, 20, 5]);
    assert_eq!(page_sizes(&workspace, "/api/2.2/jobs/list?limit=100", "jobs"), [45]);
    assert_eq!(page_sizes(&workspace, "/api/2.2/jobs/list?name=J7", "jobs"), [1]);
    assert_eq!(get(&workspace, "/api/2.2/jobs/list?limit=101").status, 400);
    let id = post(&workspace, "/api/2.2/jobs/create", json!({ "name": "made" })).json()["job_id"].as_u64().unwrap();
    let reset = json!({ "job_id": id, "new_settings": { "name": "reset" } });
    assert_eq!(post(&workspace, "/api/2.2/jobs/reset", reset).status, 200);
    assert_eq!(
        get(&workspace, &format!("/api/2.2/jobs/get?job_id={id}")).json()["settings"],
        json!({ "name": "reset" })
    );
    let delete = || post(&workspace, "/api/2.2/jobs/delete", json!({ "job_id": id })).status;
    assert_eq!((delete(), delete()), (200, 400));
}

#[test]
fn a_page_of_a_catalog_can_be_empty_and_not_the_last_one() {
    let with = |empty_page| {
        let workspace = started(FakeOptions { empty_page, page_size: 10, ..FakeOptions::default() });
        workspace.generate_extras();
        workspace
    };
    let tables = "/api/2.1/unity-catalog/tables?catalog_name=main&schema_name=sales&max_results=";
    let sizes = |workspace: &FakeWorkspace, max: &str| page_sizes(workspace, &format!("{tables}{max}"), "tables");
    assert_eq!(sizes(&with(None), "0"), [10, 10, 10, 2]);
    assert_eq!(sizes(&with(Some(0)), "0"), [0, 10, 10, 10, 2]);
    assert_eq!(sizes(&with(Some(2)), "0"), [10, 10, 0, 10, 2]);
    assert_eq!(sizes(&with(None), "7"), [7, 7, 7, 7, 4]);
    let unpaginated = "/api/2.1/unity-catalog/tables?catalog_name=main&schema_name=sales";
    assert_eq!(page_sizes(&with(None), unpaginated, "tables"), [32]);
}

#[test]
fn only_the_call_for_one_table_tells_its_constraints() {
    let workspace = workspace();
    workspace.generate_extras();
    let listing = "/api/2.1/unity-catalog/tables?catalog_name=main&schema_name=sales&omit_columns=true";
    let first = &get(&workspace, listing).json()["tables"][0];
    assert_eq!(
        (first["name"].as_str(), first.get("table_constraints"), first.get("columns")),
        (Some("orders_00"), None, None)
    );
    let single = get(&workspace, "/api/2.1/unity-catalog/tables/main.sales.orders_00").json();
    assert!(single.get("table_constraints").is_some() && single.get("columns").is_some());
    let empty = get(&workspace, "/api/2.1/unity-catalog/tables?catalog_name=dev&schema_name=sales");
    assert_eq!(empty.body, b"{}");
    assert_eq!(get(&workspace, "/api/2.1/unity-catalog/schemas?catalog_name=none").status, 404);
    let grants = |name: &str| get(&workspace, &format!("/api/2.1/unity-catalog/permissions/table/{name}")).json();
    assert_eq!(grants("main.sales.orders_00")["privilege_assignments"][0]["principal"], "analysts");
    assert_eq!(grants("main.sales.orders_01"), json!({}));
}

fn download(workspace: &FakeWorkspace, headers: &[(&str, &str)]) -> Reply {
    let headers = [&[("Authorization", "Bearer fake-token")], headers].concat();
    ask_with(workspace, "GET", "/api/2.0/fs/files/Volumes/c/s/v/x", &headers, b"")
}

#[test]
fn a_download_goes_on_where_it_stopped_unless_the_file_has_changed() {
    let workspace = workspace();
    workspace.put_volume_file("/Volumes/c/s/v/x", b"0123456789");
    let whole = download(&workspace, &[]);
    let date = whole.header("last-modified").unwrap().to_owned();
    let rest = |range| download(&workspace, &[("Range", range), ("If-Unmodified-Since", &date)]);
    let part = rest("bytes=4-");
    assert_eq!((part.status, part.body.as_slice()), (206, b"456789".as_slice()));
    assert_eq!(part.header("content-range"), Some("bytes 4-9/10"));
    assert_eq!(rest("bytes=2-3").body, b"23");
    assert_eq!(rest("bytes=-3").body, b"789");
    assert_eq!(rest("bytes=10-").status, 416);
    workspace.add_rule(Rule::new(Target::Kind(Kind::Files), When::Nth(1), Action::IgnoreRange));
    let ignored = rest("bytes=4-");
    assert_eq!((ignored.status, ignored.body.as_slice()), (200, b"0123456789".as_slice()));
    workspace.put_volume_file("/Volumes/c/s/v/x", b"9876543210");
    assert_eq!(rest("bytes=4-").status, 412);
}

#[test]
fn files_of_volumes_are_written_listed_in_pages_and_deleted() {
    let workspace = started(FakeOptions { page_size: 4, ..FakeOptions::default() });
    workspace.put_catalog(json!({ "name": "c" }));
    workspace.put_schema(json!({ "catalog_name": "c", "name": "s" }));
    workspace.put_volume(json!({ "catalog_name": "c", "schema_name": "s", "name": "v" }));
    let put = |path: &str| ask(&workspace, "PUT", &format!("/api/2.0/fs/files/Volumes/c/s/v/{path}"), b"x").status;
    assert_eq!((put("a/b?overwrite=false"), put("a/b?overwrite=false"), put("a/b")), (204, 409, 204));
    assert_eq!((put("a"), put("a/b/c")), (409, 409));
    assert_eq!(ask(&workspace, "PUT", "/api/2.0/fs/files/Volumes/c/s/none/x", b"").status, 404);
    for name in 0..9 {
        put(&format!("a/{name}"));
    }
    let folder = "/api/2.0/fs/directories/Volumes/c/s/v/a";
    assert_eq!(page_sizes(&workspace, folder, "contents"), [4, 4, 2]);
    assert_eq!(page_sizes(&workspace, &format!("{folder}/?page_size=3"), "contents"), [3, 3, 3, 1]);
    let method = |method: &str, target: &str| ask(&workspace, method, target, b"").status;
    assert_eq!((method("HEAD", folder), method("HEAD", &format!("{folder}/b"))), (200, 404));
    let head = ask(&workspace, "HEAD", "/api/2.0/fs/files/Volumes/c/s/v/a/b", b"");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("1"), 0));
    assert_eq!(method("PUT", &format!("{folder}/b")), 409);
    assert_eq!(method("PUT", &format!("{folder}/new/folder")), 200);
    assert_eq!((method("DELETE", folder), method("DELETE", &format!("{folder}/new/folder"))), (400, 200));
    let file = "/api/2.0/fs/files/Volumes/c/s/v/a/b";
    assert_eq!((method("DELETE", file), method("DELETE", file), method("GET", file)), (200, 404, 404));
}

#[test]
fn permissions_are_an_objects_own_and_those_of_the_folders_above() {
    let workspace = workspace();
    let id = workspace.put_notebook("/a/b/x", Language::Python, b"");
    let folder = workspace.mkdirs("/a");
    workspace.set_permissions(
        "directories",
        folder,
        &[json!({ "group_name": "readers", "permission_level": "CAN_READ" })],
    );
    let target = format!("/api/2.0/permissions/notebooks/{id}");
    let change = |method: &str, name: &str, level: &str| {
        let entry = json!({ "access_control_list": [{ "user_name": name, "permission_level": level }] });
        own(&ask(&workspace, method, &target, entry.to_string().as_bytes()).json())
    };
    assert_eq!(change("PUT", "a", "CAN_READ"), ["a CAN_READ"]);
    assert_eq!(change("PATCH", "b", "CAN_RUN"), ["a CAN_READ", "b CAN_RUN"]);
    assert_eq!(change("PATCH", "a", "CAN_EDIT"), ["b CAN_RUN", "a CAN_EDIT"]);
    assert_eq!(change("PUT", "c", "CAN_EDIT"), ["c CAN_EDIT"]);
    let all = get(&workspace, &target).json();
    assert_eq!(
        (all["object_id"].as_str(), all["object_type"].as_str()),
        (Some(&*format!("/notebooks/{id}")), Some("notebook"))
    );
    let inherited = &all["access_control_list"][1];
    let from = json!([format!("/directories/{folder}")]);
    assert_eq!(
        (&inherited["group_name"], &inherited["all_permissions"][0]["inherited_from_object"]),
        (&json!("readers"), &from)
    );
    assert_eq!(get(&workspace, &format!("/api/2.0/permissions/files/{id}")).status, 404);
    workspace.wipe();
    assert_eq!(get(&workspace, &target).status, 404);
}

fn own(permissions: &Value) -> Vec<String> {
    let entries = permissions["access_control_list"].as_array().unwrap();
    let own = entries.iter().filter(|entry| entry["all_permissions"][0]["inherited"] == json!(false));
    own.map(|entry| {
        let level = &entry["all_permissions"][0]["permission_level"];
        format!("{} {}", entry["user_name"].as_str().unwrap(), level.as_str().unwrap())
    })
    .collect()
}

#[test]
fn dashboards_have_a_place_in_the_workspace_and_stale_changes_are_refused() {
    let workspace = workspace();
    workspace.mkdirs("/d");
    let new = json!({ "display_name": "Sales", "parent_path": "/Workspace/d", "serialized_dashboard": "{}" });
    let made = post(&workspace, "/api/2.0/lakeview/dashboards", new.clone()).json();
    assert_eq!(
        (made["path"].as_str(), made["lifecycle_state"].as_str()),
        (Some("/d/Sales.lvdash.json"), Some("ACTIVE"))
    );
    assert_eq!(post(&workspace, "/api/2.0/lakeview/dashboards", new).status, 409);
    let id = made["dashboard_id"].as_str().unwrap();
    let status = get(&workspace, "/api/2.0/workspace/get-status?path=/d/Sales.lvdash.json").json();
    assert_eq!((status["object_type"].as_str(), status["resource_id"].as_str()), (Some("DASHBOARD"), Some(id)));
    let target = format!("/api/2.0/lakeview/dashboards/{id}");
    let patch = |change: Value| ask(&workspace, "PATCH", &target, change.to_string().as_bytes());
    let changed = patch(json!({ "display_name": "Sold", "etag": made["etag"] })).json();
    assert_eq!(
        (changed["path"].as_str(), workspace.get("/d/Sold.lvdash.json").is_some()),
        (Some("/d/Sold.lvdash.json"), true)
    );
    assert_eq!(patch(json!({ "etag": made["etag"] })).json()["message"], "Invalid etag");
    assert_eq!(get(&workspace, &format!("{target}/published")).status, 404);
    assert_eq!(post(&workspace, &format!("{target}/published"), json!({ "embed_credentials": true })).status, 200);
    assert_eq!(get(&workspace, &format!("{target}/published")).json()["embed_credentials"], true);
    let listed = || page_sizes(&workspace, "/api/2.0/lakeview/dashboards", "dashboards");
    assert_eq!(listed(), [1]);
    assert_eq!(ask(&workspace, "DELETE", &target, b"").status, 200);
    assert_eq!((listed(), get(&workspace, &target).json()["lifecycle_state"].as_str()), (vec![0], Some("TRASHED")));
    assert_eq!(workspace.get("/d/Sold.lvdash.json"), None);
}

#[test]
fn secrets_are_named_and_their_values_kept_back_unless_they_can_be_read() {
    let value = |readable_secrets| {
        let workspace = started(FakeOptions { readable_secrets, ..FakeOptions::default() });
        assert_eq!(get(&workspace, "/api/2.0/secrets/scopes/list").body, b"{}");
        workspace.put_secret_scope(json!({ "name": "s", "secrets": { "k": "v" } }));
        assert_eq!(get(&workspace, "/api/2.0/secrets/list?scope=s").json()["secrets"][0]["key"], "k");
        let acl = json!({ "scope": "s", "principal": "p", "permission": "READ" });
        assert_eq!(post(&workspace, "/api/2.0/secrets/acls/put", acl).status, 200);
        let acls = get(&workspace, "/api/2.0/secrets/acls/list?scope=s").json();
        assert_eq!(acls, json!({ "items": [{ "principal": "p", "permission": "READ" }] }));
        get(&workspace, "/api/2.0/secrets/get?scope=s&key=k")
    };
    assert_eq!(value(false).error(), (403, "PERMISSION_DENIED".into()));
    assert_eq!(value(true).json()["value"], "dg==");
}

#[test]
fn pipelines_and_repositories_are_found_by_their_ids() {
    let workspace = workspace();
    let pipeline = workspace.put_pipeline(json!({ "name": "p", "catalog": "main" }));
    let target = format!("/api/2.0/pipelines/{pipeline}");
    assert_eq!(get(&workspace, &target).json()["spec"]["id"], json!(pipeline));
    assert_eq!(page_sizes(&workspace, "/api/2.0/pipelines", "statuses"), [1]);
    assert_eq!(ask(&workspace, "PUT", &target, br#"{"name":"q"}"#).status, 200);
    assert_eq!(get(&workspace, &target).json()["spec"], json!({ "id": pipeline, "name": "q" }));
    assert_eq!((ask(&workspace, "DELETE", &target, b"").status, get(&workspace, &target).status), (200, 404));

    let id = workspace.put_repo("/Repos/t/r", json!({ "url": "https://example.com/r.git", "branch": "main" }));
    let repo = get(&workspace, &format!("/api/2.0/repos/{id}")).json();
    assert_eq!((repo["path"].as_str(), repo["branch"].as_str()), (Some("/Repos/t/r"), Some("main")));
    workspace.rename("/Repos/t", "/Repos/u");
    assert_eq!(
        get(&workspace, "/api/2.0/repos?path_prefix=/Workspace/Repos/u").json()["repos"][0]["path"],
        "/Repos/u/r"
    );
    let status = get(&workspace, "/api/2.0/workspace/get-status?path=/Repos/u/r&return_git_info=true").json();
    assert_eq!(status["git_info"]["url"], "https://example.com/r.git");
}
