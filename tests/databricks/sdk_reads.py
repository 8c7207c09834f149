"""Reads everything with the service's own client library from a fake workspace.

It must have been started with --extras and --empty-page 1. The script adds a small generated workspace, and leaves
everything else as it was.
"""

import base64
import json
from itertools import islice

from checks import client, control, expect, expect_error
from databricks.sdk.errors import InvalidParameterValue, NotFound, PermissionDenied, Unauthenticated
from databricks.sdk.service.workspace import ExportFormat, Language, ObjectType

HEADER = "# Databricks notebook source\n"


def main():
    control("generate", notebooks=200, folders=20, files_share=0.2)
    workspace = client()
    read_identity(workspace)
    read_objects(workspace)
    read_contents(workspace)
    read_jobs(workspace)
    read_pipelines(workspace)
    read_dashboards(workspace)
    read_secrets(workspace)
    read_catalogs(workspace)
    read_files(workspace)
    read_permissions(workspace)
    read_repos(workspace)
    print("all reads are as expected")


def read_identity(workspace):
    expect("the user", workspace.current_user.me().user_name, "tester@example.com")
    expect("the workspace id", workspace.get_workspace_id(), 900800700600)
    expect_error("a wrong token", Unauthenticated, lambda: client(token="wrong").current_user.me())
    principal = client(auth_type="oauth-m2m", token=None, client_id="fake-client", client_secret="fake-secret")
    expect("the user of a service principal's token", principal.current_user.me().id, "1000")


def read_objects(workspace):
    objects = list(workspace.workspace.list("/Clients", recursive=True))
    kinds = {kind: sum(it.object_type == kind for it in objects) for kind in (ObjectType.NOTEBOOK, ObjectType.FILE)}
    expect("generated objects", sum(kinds.values()), 200)
    if not 20 <= kinds[ObjectType.FILE] <= 60:
        expect("generated files", kinds[ObjectType.FILE], "about 40")
    first = objects[0]
    same = workspace.workspace.get_status("/Workspace" + first.path)
    expect("an object's status", same.as_dict(), first.as_dict())
    expect("the listing of an object", [it.path for it in workspace.workspace.list(first.path)], [first.path])
    latest = max(it.modified_at for it in objects if it.object_type == ObjectType.NOTEBOOK)
    later = workspace.workspace.list("/Clients", recursive=True, notebooks_modified_after=latest - 1)
    changed = [it.modified_at for it in later if it.object_type == ObjectType.NOTEBOOK]
    expect("notebooks changed after a time", changed, [latest])
    expect("an empty folder", list(workspace.workspace.list("/Users/tester@example.com/git-folder")), [])
    expect_error("a missing folder", NotFound, lambda: list(workspace.workspace.list("/nowhere")))
    names = sorted(it.path.rsplit("/", 1)[1] for it in workspace.workspace.list("/Shared/odd names"))
    odd = ["50% of #1?.txt", "X", "a:b\\c", "nai\u0308ve \u2603", "na\u00efve \u2603", "readme.md", "x", "x.py"]
    expect("odd names", names, sorted(odd))


def exported(workspace, path, form):
    return base64.b64decode(workspace.workspace.export(path, format=form).content)


def read_contents(workspace):
    notebook = next(it for it in workspace.workspace.list("/Clients", recursive=True) if it.language == Language.PYTHON)
    source = exported(workspace, notebook.path, ExportFormat.SOURCE)
    expect("the first line of a notebook", source.decode().startswith(HEADER), True)
    expect("a notebook in the format AUTO", exported(workspace, notebook.path, ExportFormat.AUTO), source)
    expect("a download", workspace.workspace.download(notebook.path).read(), source)
    jupyter = json.loads(exported(workspace, notebook.path, ExportFormat.JUPYTER))
    cells = source.decode().count("# COMMAND ----------") + 1
    expect("the cells of a Jupyter export", (jupyter["nbformat"], len(jupyter["cells"])), (4, cells))
    analysis = json.loads(exported(workspace, "/Shared/jupyter/analysis", ExportFormat.AUTO))
    expect("the outputs of a Jupyter notebook", analysis["cells"][1]["outputs"][0]["text"], ["1"])
    for name in ("50% of #1?.txt", "na\u00efve \u2603", "nai\u0308ve \u2603", "a:b\\c"):
        path = f"/Shared/odd names/{name}"
        expect(f"the file {name}", exported(workspace, path, ExportFormat.AUTO), f"{name}\n".encode())
        expect(f"the download of {name}", workspace.workspace.download(path).read(), f"{name}\n".encode())
    folder = exported(workspace, "/Shared/odd names", ExportFormat.SOURCE)
    expect("the export of a folder", folder[:2], b"PK")
    expect_error("a wrong format", InvalidParameterValue, lambda: exported(workspace, "/Shared/odd names/x.py", ExportFormat.JUPYTER))


def read_jobs(workspace):
    jobs = list(workspace.jobs.list(expand_tasks=True, limit=7))
    expect("jobs", sorted(len(job.settings.tasks) for job in jobs), [2] * 24 + [250])
    brief = next(islice(workspace.jobs.list(), 1))
    expect("the tasks of a job in a brief listing", brief.settings.tasks or [], [])
    wide = next(job.job_id for job in jobs if job.settings.name == "everything")
    keys = [task.task_key for task in workspace.jobs.get(wide).settings.tasks]
    expect("the tasks of the widest job", keys, [f"task_{number:03}" for number in range(250)])
    expect_error("a missing job", NotFound, lambda: workspace.jobs.get(5))


def read_pipelines(workspace):
    pipelines = {it.name: it.pipeline_id for it in workspace.pipelines.list_pipelines(max_results=1)}
    expect("pipelines", sorted(pipelines), ["marts", "ops_stream", "sales_daily"])
    spec = workspace.pipelines.get(pipelines["marts"]).spec
    expect("a pipeline", (spec.catalog, spec.libraries[0].notebook.path), ("main", "/Shared/languages/py"))
    expect_error("a missing pipeline", NotFound, lambda: workspace.pipelines.get("none"))


def read_dashboards(workspace):
    brief = {it.display_name: it for it in workspace.lakeview.list(page_size=1)}
    expect("dashboards", sorted(brief), ["Operations", "Sales"])
    expect("a dashboard in a listing", brief["Sales"].serialized_dashboard, None)
    sales = workspace.lakeview.get(brief["Sales"].dashboard_id)
    expect("a dashboard", (sales.path, "pages" in json.loads(sales.serialized_dashboard)), ("/Shared/dashboards/Sales.lvdash.json", True))
    expect("a published dashboard", workspace.lakeview.get_published(sales.dashboard_id).warehouse_id, "abc")
    unpublished = brief["Operations"].dashboard_id
    expect_error("one that is not published", NotFound, lambda: workspace.lakeview.get_published(unpublished))
    schedules = [it.display_name for it in workspace.lakeview.list_schedules(sales.dashboard_id)]
    expect("schedules", schedules, ["each morning"])
    in_folder = [(it.object_type, it.resource_id) for it in workspace.workspace.list("/Shared/dashboards")]
    expect("a dashboard among objects", (ObjectType.DASHBOARD, sales.dashboard_id) in in_folder, True)


def read_secrets(workspace):
    scopes = {it.name: it.backend_type.value for it in workspace.secrets.list_scopes()}
    expect("secret scopes", scopes, {"etl": "DATABRICKS", "vault": "AZURE_KEYVAULT"})
    expect("keys", sorted(it.key for it in workspace.secrets.list_secrets("etl")), ["api-key", "jdbc-password"])
    acls = {it.principal: it.permission.value for it in workspace.secrets.list_acls("etl")}
    expect("who may see secrets", acls, {"analysts": "READ", "tester@example.com": "MANAGE"})
    expect_error("the value of a secret", PermissionDenied, lambda: workspace.secrets.get_secret("etl", "api-key"))
    expect_error("a missing scope", NotFound, lambda: list(workspace.secrets.list_secrets("none")))


def read_catalogs(workspace):
    expect("catalogs", [it.name for it in workspace.catalogs.list()], ["dev", "main"])
    expect("schemas", [it.name for it in workspace.schemas.list("main")], ["default", "sales"])
    tables = list(workspace.tables.list("main", "sales", max_results=10))
    expect("tables", len(tables), 32)
    query = {"catalog_name": "main", "schema_name": "sales", "max_results": 10}
    first = workspace.api_client.do("GET", "/api/2.1/unity-catalog/tables", query=query)
    query["page_token"] = first["next_page_token"]
    second = workspace.api_client.do("GET", "/api/2.1/unity-catalog/tables", query=query)
    expect("an empty page that is not the last one", ("tables" in second, "next_page_token" in second), (False, True))
    expect("constraints in a listing", [it.name for it in tables if it.table_constraints], [])
    table = workspace.tables.get("main.sales.orders_00")
    expect("a table's constraint", table.table_constraints[0].primary_key_constraint.child_columns, ["id"])
    expect("a table's columns", [it.name for it in table.columns], ["id", "amount"])
    totals = workspace.tables.get("main.sales.totals")
    expect("a table of a pipeline", totals.pipeline_id in [it.pipeline_id for it in workspace.pipelines.list_pipelines()], True)
    expect("volumes", [it.full_name for it in workspace.volumes.list("main", "sales")], ["main.sales.landing"])
    functions = [it.routine_definition for it in workspace.functions.list("main", "sales")]
    expect("functions", functions, ["x * 2"])
    grants = workspace.grants.get("table", "main.sales.orders_00").privilege_assignments
    expect("grants", [(it.principal, [p.value for p in it.privileges]) for it in grants], [("analysts", ["SELECT"])])
    expect("the tables of an empty schema", list(workspace.tables.list("dev", "sales")), [])
    expect_error("a missing catalog", NotFound, lambda: list(workspace.schemas.list("none")))


def read_files(workspace):
    top = "/Volumes/main/sales/landing"
    entries = list(workspace.files.list_directory_contents(top, page_size=5))
    expect("entries of a volume", (len(entries), sum(it.is_directory for it in entries)), (13, 12))
    large = next(it for it in entries if not it.is_directory)
    content = workspace.files.download(large.path).contents.read()
    expect("a large file", (large.file_size, len(content), content[-4:]), (1 << 20, 1 << 20, b"\xff\xff\x03\x00"))
    metadata = workspace.files.get_metadata(large.path)
    expect("the metadata of a file", metadata.content_length, 1 << 20)
    odd = f"{top}/day=03/part 0#.csv"
    expect("a file with an odd name", len(workspace.files.download(odd).contents.read()) > 0, True)
    workspace.files.get_directory_metadata(top)
    expect_error("a missing folder", NotFound, lambda: workspace.files.get_directory_metadata(f"{top}/none"))
    expect_error("a missing file", NotFound, lambda: workspace.files.download(f"{top}/none"))


def read_permissions(workspace):
    status = workspace.workspace.get_status("/Shared/languages/sql")
    answer = workspace.permissions.get("notebooks", str(status.object_id))
    levels = {}
    for entry in answer.access_control_list:
        name = entry.user_name or entry.group_name or entry.service_principal_name
        levels[name] = [(it.permission_level.value, bool(it.inherited)) for it in entry.all_permissions]
    wanted = {
        "tester@example.com": [("CAN_MANAGE", False)],
        "11111111-2222-4333-8444-555555555555": [("CAN_RUN", False)],
        "analysts": [("CAN_READ", True)],
        "admins": [("CAN_MANAGE", True)],
    }
    expect("permissions", levels, wanted)
    expect("the object of permissions", answer.object_id, f"/notebooks/{status.object_id}")
    expect_error("permissions of a missing object", NotFound, lambda: workspace.permissions.get("notebooks", "5"))
    job = next(iter(workspace.jobs.list(name="nightly_24")))
    expect("permissions of a job", workspace.permissions.get("jobs", str(job.job_id)).object_type, "job")


def read_repos(workspace):
    expect("Git folders", [(it.path, it.branch) for it in workspace.repos.list()], [("/Repos/team/etl", "main")])
    kind = workspace.workspace.get_status("/Repos/team/etl").object_type
    expect("a Git folder's type", kind, ObjectType.REPO)


if __name__ == "__main__":
    main()
