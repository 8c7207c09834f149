"""Writes with the service's own client library into a fake workspace that was started with --extras.

All that it makes lies below /Restored and in a folder of a volume, and is deleted at the end.
"""

import base64
import io
import json

from checks import client, expect, expect_error
from databricks.sdk.errors import AlreadyExists, BadRequest, InvalidParameterValue, NotFound, ResourceAlreadyExists
from databricks.sdk.service.iam import AccessControlRequest, PermissionLevel
from databricks.sdk.service.jobs import JobSettings, NotebookTask, Task
from databricks.sdk.service.workspace import ExportFormat, ImportFormat, Language, ObjectType

TOP = "/Restored/naïve %23 folder"
SOURCE = b"# Databricks notebook source\nprint(1)\n\n# COMMAND ----------\n\n# MAGIC %md\n# MAGIC # Head\n"
CHANGED = SOURCE.replace(b"print(1)", b"print(2)")


def main():
    workspace = client()
    if any(it.path == "/Restored" for it in workspace.workspace.list("/")):
        workspace.workspace.delete("/Restored", recursive=True)
    write_objects(workspace)
    overwrite(workspace)
    write_forms(workspace)
    write_permissions(workspace)
    delete(workspace)
    write_files(workspace)
    write_jobs(workspace)
    print("all writes are as expected")


def status(workspace, name):
    found = workspace.workspace.get_status(f"{TOP}/{name}")
    return found.object_type, found.language


def exported(workspace, name, form):
    return base64.b64decode(workspace.workspace.export(f"{TOP}/{name}", format=form).content)


def upload(workspace, name, content, **options):
    workspace.workspace.upload(f"{TOP}/{name}", io.BytesIO(content), **options)


def imported(workspace, name, content, **options):
    workspace.workspace.import_(f"{TOP}/{name}", content=base64.b64encode(content).decode(), **options)


def write_objects(workspace):
    early = lambda: upload(workspace, "early", SOURCE, format=ImportFormat.AUTO)
    expect_error("an import without the folder", NotFound, early)
    workspace.workspace.mkdirs(TOP)
    workspace.workspace.mkdirs(TOP)
    upload(workspace, "multipart", SOURCE, format=ImportFormat.SOURCE, language=Language.PYTHON)
    expect("an uploaded notebook", status(workspace, "multipart"), (ObjectType.NOTEBOOK, Language.PYTHON))
    expect("its source", exported(workspace, "multipart", ExportFormat.SOURCE), SOURCE)
    imported(workspace, "json", b"select 1", format=ImportFormat.SOURCE, language=Language.SQL)
    source = exported(workspace, "json", ExportFormat.SOURCE)
    expect("an imported source", source, b"-- Databricks notebook source\nselect 1")
    imported(workspace, "auto.py", SOURCE, format=ImportFormat.AUTO)
    expect("a notebook from a file", status(workspace, "auto"), (ObjectType.NOTEBOOK, Language.PYTHON))
    expect_error("the file it came from", NotFound, lambda: status(workspace, "auto.py"))
    upload(workspace, "plain.py", b"print(1)\n", format=ImportFormat.AUTO)
    expect("a file from a file", status(workspace, "plain.py"), (ObjectType.FILE, None))
    binary = bytes(range(256)) * 1000
    upload(workspace, "100% #1?.bin", binary, format=ImportFormat.AUTO)
    expect("a binary file", exported(workspace, "100% #1?.bin", ExportFormat.AUTO), binary)
    expect_error("a source without a language", Exception, lambda: upload(workspace, "none", SOURCE))


def overwrite(workspace):
    source = {"format": ImportFormat.SOURCE, "language": Language.PYTHON}
    again = lambda **options: imported(workspace, "multipart", CHANGED, **source, **options)
    expect_error("a notebook that exists", BadRequest, again)
    before = workspace.workspace.get_status(f"{TOP}/multipart")
    again(overwrite=True)
    expect("an overwritten notebook", exported(workspace, "multipart", ExportFormat.SOURCE), CHANGED)
    after = workspace.workspace.get_status(f"{TOP}/multipart")
    expect("its id", after.object_id, before.object_id)
    expect("that it changed", after.modified_at > before.modified_at, True)
    file = lambda **options: upload(workspace, "plain.py", b"2", format=ImportFormat.AUTO, **options)
    expect_error("a file that exists", (ResourceAlreadyExists, AlreadyExists), file)
    file(overwrite=True)
    other = lambda: imported(workspace, "plain.py", SOURCE, overwrite=True, **source)
    expect_error("a notebook over a file", InvalidParameterValue, other)


def write_forms(workspace):
    jupyter = exported(workspace, "multipart", ExportFormat.JUPYTER)
    imported(workspace, "jupyter", jupyter, format=ImportFormat.JUPYTER)
    expect("a notebook from Jupyter's form", exported(workspace, "jupyter", ExportFormat.SOURCE), CHANGED)
    cells = lambda name: json.loads(exported(workspace, name, ExportFormat.JUPYTER))["cells"]
    expect("its cells", cells("jupyter"), cells("multipart"))
    archive = exported(workspace, "multipart", ExportFormat.DBC)
    upload(workspace, "archive", archive, format=ImportFormat.DBC)
    expect("a notebook from an archive", exported(workspace, "archive", ExportFormat.SOURCE), CHANGED)
    folder = base64.b64decode(workspace.workspace.export(TOP, format=ExportFormat.DBC).content)
    workspace.workspace.upload("/Restored/unpacked", io.BytesIO(folder), format=ImportFormat.DBC)
    notebooks = lambda path: sorted(it.path.rsplit("/", 1)[1] for it in workspace.workspace.list(path) if it.language)
    expect("the notebooks of an archive", notebooks("/Restored/unpacked"), notebooks(TOP))
    twice = lambda: workspace.workspace.upload("/Restored/unpacked", io.BytesIO(folder), format=ImportFormat.DBC)
    expect_error("an archive over a folder", (ResourceAlreadyExists, AlreadyExists), twice)


def write_permissions(workspace):
    notebook = str(workspace.workspace.get_status(f"{TOP}/multipart").object_id)
    entry = lambda name, level: AccessControlRequest(group_name=name, permission_level=level)
    workspace.permissions.set("notebooks", notebook, access_control_list=[entry("a", PermissionLevel.CAN_READ)])
    workspace.permissions.update("notebooks", notebook, access_control_list=[entry("b", PermissionLevel.CAN_RUN)])
    workspace.permissions.update("notebooks", notebook, access_control_list=[entry("a", PermissionLevel.CAN_EDIT)])
    expect("permissions that were added", own(workspace, notebook), {"a": "CAN_EDIT", "b": "CAN_RUN"})
    workspace.permissions.set("notebooks", notebook, access_control_list=[entry("c", PermissionLevel.CAN_READ)])
    expect("permissions that were replaced", own(workspace, notebook), {"c": "CAN_READ"})


def own(workspace, notebook):
    entries = workspace.permissions.get("notebooks", notebook).access_control_list
    levels = ((entry.group_name, it) for entry in entries for it in entry.all_permissions)
    return {name: it.permission_level.value for name, it in levels if not it.inherited}


def delete(workspace):
    expect_error("a folder that is not empty", BadRequest, lambda: workspace.workspace.delete(TOP))
    workspace.workspace.delete(f"{TOP}/json")
    expect_error("a deleted notebook", NotFound, lambda: status(workspace, "json"))
    workspace.workspace.delete("/Restored", recursive=True)
    expect_error("a deleted folder", NotFound, lambda: workspace.workspace.get_status(TOP))


def write_files(workspace):
    folder = "/Volumes/main/sales/landing/new folder"
    path = f"{folder}/50% #1?.bin"
    workspace.files.create_directory(folder)
    workspace.files.create_directory(folder)
    content = bytes(range(256)) * 5000
    workspace.files.upload(path, io.BytesIO(content), overwrite=False)
    expect("an uploaded file", workspace.files.download(path).contents.read(), content)
    again = lambda **options: workspace.files.upload(path, io.BytesIO(b"2"), **options)
    expect_error("a file that exists", (AlreadyExists, ResourceAlreadyExists), lambda: again(overwrite=False))
    again()
    expect("a replaced file", workspace.files.download(path).contents.read(), b"2")
    expect_error("a folder that is not empty", BadRequest, lambda: workspace.files.delete_directory(folder))
    workspace.files.delete(path)
    expect_error("a deleted file", NotFound, lambda: workspace.files.delete(path))
    workspace.files.delete_directory(folder)
    expect_error("a file in no volume", NotFound, lambda: workspace.files.upload("/Volumes/a/b/c/d", io.BytesIO(b"")))


def write_jobs(workspace):
    tasks = [Task(task_key=f"t{number}", notebook_task=NotebookTask(notebook_path="/a")) for number in range(120)]
    job = workspace.jobs.create(name="made", tasks=tasks).job_id
    expect("a job that was made", len(workspace.jobs.get(job).settings.tasks), 120)
    workspace.jobs.reset(job, JobSettings(name="reset", tasks=tasks[:1]))
    settings = workspace.jobs.get(job).settings
    expect("a job that was reset", (settings.name, len(settings.tasks)), ("reset", 1))
    workspace.jobs.delete(job)
    expect_error("a deleted job", NotFound, lambda: workspace.jobs.get(job))


if __name__ == "__main__":
    main()
