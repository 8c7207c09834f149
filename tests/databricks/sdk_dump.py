"""Prints one JSON document of all objects below a path, to compare a workspace before and after it was restored.

Objects have their type and language, the hash of their content, and the permissions that they have themselves. What
cannot be the same in a restored workspace, ids and times, is left out.
"""

import base64
import hashlib
import json
import sys

from checks import client
from databricks.sdk.service.workspace import ExportFormat

COLLECTIONS = {"NOTEBOOK": "notebooks", "DIRECTORY": "directories", "FILE": "files", "REPO": "repos"}
CONTENTS = {"NOTEBOOK": ExportFormat.SOURCE, "FILE": ExportFormat.AUTO}
FOLDERS = ("DIRECTORY", "REPO")


def main():
    workspace = client()
    top = sys.argv[1] if len(sys.argv) > 1 else "/"
    objects = {}
    folders = [top]
    while folders:
        # the client library leaves out objects of types that it does not know
        listing = workspace.api_client.do("GET", "/api/2.0/workspace/list", query={"path": folders.pop()})
        for it in listing.get("objects", []):
            objects[it["path"]] = described(workspace, it)
            if it["object_type"] in FOLDERS:
                folders.append(it["path"])
    json.dump(objects, sys.stdout, indent=1, sort_keys=True, ensure_ascii=False)
    print()


def described(workspace, it):
    kind = it["object_type"]
    described = {"type": kind}
    if "language" in it:
        described["language"] = it["language"]
    if kind in CONTENTS:
        content = base64.b64decode(workspace.workspace.export(it["path"], format=CONTENTS[kind]).content)
        described["sha256"] = hashlib.sha256(content).hexdigest()
    if kind in COLLECTIONS:
        described["permissions"] = permissions(workspace, COLLECTIONS[kind], str(it["object_id"]))
    return described


def permissions(workspace, collection, object_id):
    own = []
    for entry in workspace.permissions.get(collection, object_id).access_control_list:
        name = entry.user_name or entry.group_name or entry.service_principal_name
        own += [[name, it.permission_level.value] for it in entry.all_permissions if not it.inherited]
    return sorted(own)


if __name__ == "__main__":
    main()
