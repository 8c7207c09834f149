//! Some of everything that a workspace has beside generated notebooks: objects of all types and with odd names, jobs,
//! pipelines, dashboards, secret scopes, catalogs, volumes and permissions. It is the same each time.

use serde_json::{Value, json};

use super::calls::given_by_file;
use super::notebook;
use super::object::{Body, Content, Language, Notebook, Other};
use super::path;
use super::random::uuid;
use super::server::Fake;
use super::sources;
use super::stores::object;

const TABLES: usize = 30;
const JOBS: usize = 25;
const TASKS: usize = 250;

impl Fake {
    /// Adds some of everything.
    pub(super) fn generate_extras(&self) {
        self.add_objects();
        self.add_jobs();
        let pipelines = self.add_pipelines();
        self.add_dashboards();
        self.add_secrets();
        self.add_catalogs(&pipelines[0]);
        self.add_volume_files();
        self.add_permissions();
    }

    fn add(&self, path: &str, content: Content) {
        let mut tree = self.tree.write();
        let (parent, name) = path::split(path);
        let put = tree.mkdirs(parent).and_then(|parent| tree.put(parent, name, content));
        put.unwrap_or_else(|_| panic!("something is in the way of {path}"));
    }

    fn add_objects(&self) {
        for (number, language) in Language::ALL.into_iter().enumerate() {
            let source = notebook::with_header(language, format!("select_{number}\n").as_bytes());
            let notebook = Notebook { language, jupyter: None, body: Body::stored(&source) };
            self.add(&format!("/Shared/languages/{}", language.suffix()), Content::Notebook(notebook));
        }
        // a notebook and a file that have the same name once the notebook is exported
        let notebook =
            Notebook { language: Language::Python, jupyter: None, body: Body::stored(&sources::source(1, 0)) };
        self.add("/Shared/odd names/x", Content::Notebook(notebook));
        for name in ["x.py", "X", "50% of #1?.txt", "a:b\\c", "naïve ☃", "na\u{69}\u{308}ve ☃", "readme.md"] {
            self.add(&format!("/Shared/odd names/{name}"), Content::File(Body::stored(format!("{name}\n").as_bytes())));
        }
        let jupyter = json!({
            "cells": [
                { "cell_type": "markdown", "metadata": {}, "source": ["# A head"] },
                {
                    "cell_type": "code", "metadata": {}, "execution_count": 1, "source": ["a = 1\n", "a"],
                    "outputs": [{ "output_type": "stream", "name": "stdout", "text": ["1"] }],
                },
            ],
            "metadata": { "language_info": { "name": "python" } },
            "nbformat": 4,
            "nbformat_minor": 0,
        });
        for name in ["analysis.ipynb", "flow.designer.ipynb"] {
            let path = format!("/Shared/jupyter/{name}");
            let (path, content) = given_by_file(&path, jupyter.to_string().as_bytes());
            self.add(path, content);
        }
        for (name, object_type) in [("lib.whl", "LIBRARY"), ("churn", "MLFLOW_EXPERIMENT"), ("flow", "DESIGNER_FILE")] {
            let other = Other { object_type: object_type.into(), resource_id: None };
            self.add(&format!("/Shared/others/{name}"), Content::Other(Box::new(other)));
        }
        let repo = json!({
            "url": "https://example.com/team/etl.git",
            "provider": "azureDevOpsServices",
            "branch": "main",
            "head_commit_id": "7e0f5b9a3a0c4d5e8f1b2c3d4e5f60718293a4b5",
        });
        self.repos.put(&mut self.tree.write(), "/Repos/team/etl", object(repo)).expect("nothing is in the way");
        self.add("/Repos/team/etl/setup.cfg", Content::File(Body::stored(b"[metadata]\n")));
        let mut tree = self.tree.write();
        let at = tree.mkdirs("/Users/tester@example.com/git-folder").expect("nothing is in the way");
        if let Content::Folder(folder) = &mut tree.node_mut(at).content {
            folder.is_git_folder = true;
        }
    }

    fn add_jobs(&self) {
        let task = |number: usize| {
            json!({
                "task_key": format!("task_{number:03}"),
                "notebook_task": { "notebook_path": format!("/Clients/2024/ENG-1002/NOTEBOOKS/step_{number}") },
                "job_cluster_key": "shared",
            })
        };
        let cluster = json!({ "job_cluster_key": "shared", "new_cluster": { "spark_version": "15.4.x-scala2.12" } });
        let job = |name: String, tasks: usize| {
            object(json!({
                "name": name,
                "format": "MULTI_TASK",
                "max_concurrent_runs": 1,
                "schedule": { "quartz_cron_expression": "0 0 4 * * ?", "timezone_id": "UTC", "pause_status": "UNPAUSED" },
                "tasks": (0..tasks).map(task).collect::<Vec<_>>(),
                "job_clusters": [cluster.clone()],
                "parameters": [{ "name": "day", "default": "today" }],
            }))
        };
        self.jobs.add(job("everything".to_owned(), TASKS));
        for number in 1..JOBS {
            self.jobs.add(job(format!("nightly_{number:02}"), 2));
        }
    }

    fn add_pipelines(&self) -> Vec<String> {
        let pipeline = |name: &str| {
            self.pipelines.add(object(json!({
                "name": name,
                "catalog": "main",
                "schema": "sales",
                "libraries": [{ "notebook": { "path": "/Shared/languages/py" } }],
                "configuration": { "team": "data" },
            })))
        };
        ["sales_daily", "ops_stream", "marts"].into_iter().map(pipeline).collect()
    }

    fn add_dashboards(&self) {
        let mut tree = self.tree.write();
        tree.mkdirs("/Shared/dashboards").expect("nothing is in the way");
        for (number, name) in ["Sales", "Operations"].into_iter().enumerate() {
            let pages = json!({ "pages": [{ "name": format!("p{number}"), "displayName": name, "layout": [] }] });
            let published = json!({ "display_name": name, "warehouse_id": "abc", "embed_credentials": true });
            let dashboard = json!({
                "display_name": name,
                "parent_path": "/Shared/dashboards",
                "serialized_dashboard": pages.to_string(),
                "warehouse_id": "abc",
                "published": if number == 0 { published } else { Value::Null },
                "schedules": [{
                    "schedule_id": uuid(&[number as u64]),
                    "display_name": "each morning",
                    "cron_schedule": { "quartz_cron_expression": "0 0 7 * * ?", "timezone_id": "UTC" },
                    "pause_status": "UNPAUSED",
                }],
            });
            let draft = serde_json::from_value(dashboard).expect("it is a dashboard");
            self.dashboards.add(&mut tree, draft).expect("nothing is in the way");
        }
    }

    fn add_secrets(&self) {
        let scopes = [
            json!({
                "name": "etl",
                "secrets": { "jdbc-password": "not so secret", "api-key": "nor this" },
                "acls": [{ "principal": "analysts", "permission": "READ" }, { "principal": "tester@example.com", "permission": "MANAGE" }],
            }),
            json!({
                "name": "vault",
                "backend_type": "AZURE_KEYVAULT",
                "keyvault_metadata": { "resource_id": "/subscriptions/0/vaults/v", "dns_name": "https://v.example.com/" },
            }),
        ];
        for scope in scopes {
            self.secrets.put(serde_json::from_value(scope).expect("it is a scope"));
        }
    }

    fn add_catalogs(&self, pipeline: &str) {
        let put = |kind, json| drop(self.catalog.put(kind, object(json)));
        for catalog in ["main", "dev"] {
            put("catalogs", json!({ "name": catalog, "owner": "admins", "catalog_type": "MANAGED_CATALOG" }));
            for schema in ["default", "sales"] {
                put("schemas", json!({ "catalog_name": catalog, "name": schema, "owner": "admins" }));
            }
        }
        for number in 0..TABLES {
            put("tables", table(number));
        }
        let in_sales = |json: Value| {
            let names = object(json!({ "catalog_name": "main", "schema_name": "sales", "owner": "admins" }));
            Value::from_iter(names.into_iter().chain(object(json)))
        };
        put(
            "tables",
            in_sales(json!({
                "name": "orders_view", "table_type": "VIEW", "view_definition": "SELECT * FROM main.sales.orders_00",
                "view_dependencies": { "dependencies": [{ "table": { "table_full_name": "main.sales.orders_00" } }] },
            })),
        );
        put(
            "tables",
            in_sales(json!({ "name": "totals", "table_type": "MATERIALIZED_VIEW", "pipeline_id": pipeline })),
        );
        let location = "abfss://data@account.dfs.core.windows.net/landing";
        let volume = json!({ "name": "landing", "volume_type": "MANAGED", "volume_id": uuid(&[7]), "storage_location": location });
        put("volumes", in_sales(volume));
        put(
            "functions",
            in_sales(json!({
                "name": "double",
                "input_params": { "parameters": [{ "name": "x", "type_text": "int", "type_name": "INT", "position": 0 }] },
                "data_type": "INT", "full_data_type": "INT", "routine_body": "SQL", "routine_definition": "x * 2",
            })),
        );
        let privileges = [json!({ "principal": "analysts", "privileges": ["SELECT"] })];
        self.catalog.set_grants("table", "main.sales.orders_00", &privileges);
        let privileges = [json!({ "principal": "analysts", "privileges": ["USE_CATALOG", "BROWSE"] })];
        self.catalog.set_grants("catalog", "main", &privileges);
    }

    fn add_volume_files(&self) {
        let mut volumes = self.volumes.write();
        for number in 0..12 {
            let folder = format!("/Volumes/main/sales/landing/day={number:02}");
            let folder = volumes.mkdirs(&folder).expect("nothing is in the way");
            let bytes = sources::text(number, 0);
            volumes.put(folder, "part 0#.csv", Content::File(Body::stored(&bytes))).expect("nothing is in the way");
        }
        let top = volumes.mkdirs("/Volumes/main/sales/landing").expect("nothing is in the way");
        let large: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        volumes.put(top, "large.bin", Content::File(Body::stored(&large))).expect("nothing is in the way");
    }

    fn add_permissions(&self) {
        let tree = self.tree.read();
        let id = |path: &str| tree.id(tree.find(path).expect("it was just added")).to_string();
        let read = [json!({ "group_name": "analysts", "permission_level": "CAN_READ" })];
        let run = [
            json!({ "user_name": "tester@example.com", "permission_level": "CAN_MANAGE" }),
            json!({ "service_principal_name": "11111111-2222-4333-8444-555555555555", "permission_level": "CAN_RUN" }),
        ];
        let set = |collection: &str, id: &str, entries: &[Value]| {
            self.permissions.set(collection, id, entries).expect("these are entries");
        };
        set("directories", &id("/Shared"), &read);
        set("notebooks", &id("/Shared/languages/sql"), &run);
        set("files", &id("/Shared/odd names/readme.md"), &run[..1]);
        set("repos", &id("/Repos/team/etl"), &read);
        set("jobs", &self.jobs.newest().to_string(), &run[..1]);
    }
}

/// Returns the table of a number. The first one has constraints.
fn table(number: usize) -> Value {
    let column = |position: usize, name: &str, type_text: &str, type_name: &str| {
        let type_json =
            json!({ "name": name, "type": type_name.to_ascii_lowercase(), "nullable": true, "metadata": {} });
        json!({
            "name": name, "position": position, "type_text": type_text, "type_name": type_name,
            "type_json": type_json.to_string(), "nullable": true,
        })
    };
    let id = uuid(&[number as u64, 0x7ab1e]);
    let mut table = json!({
        "catalog_name": "main",
        "schema_name": "sales",
        "name": format!("orders_{number:02}"),
        "table_id": id,
        "table_type": "MANAGED",
        "data_source_format": "DELTA",
        "storage_location": format!("abfss://data@account.dfs.core.windows.net/tables/{id}"),
        "owner": "admins",
        "columns": [column(0, "id", "bigint", "LONG"), column(1, "amount", "decimal(18,2)", "DECIMAL")],
        "properties": { "delta.minReaderVersion": "1" },
    });
    if number == 0 {
        let key = json!({ "name": "orders_pk", "child_columns": ["id"] });
        table["table_constraints"] = json!([{ "primary_key_constraint": key }]);
    }
    table
}
