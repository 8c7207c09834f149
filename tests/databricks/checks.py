"""What the scripts in this folder have in common: a client, and expectations that end a script with what was wrong."""

import json
import os
import sys
import urllib.request

from databricks.sdk import WorkspaceClient


def client(**changes):
    """Returns a client of the workspace that the environment names."""
    return WorkspaceClient(
        **{"host": os.environ["DATABRICKS_HOST"], "token": os.environ["DATABRICKS_TOKEN"], "auth_type": "pat", **changes}
    )


def expect(what, seen, wanted):
    """Ends the script where something is not what it is to be."""
    if seen != wanted:
        sys.exit(f"{what}: {seen!r}, not {wanted!r}")


def expect_error(what, kinds, call):
    """Ends the script where a call does not fail in one of these ways."""
    try:
        answer = call()
    except kinds:
        return
    except Exception as error:  # noqa: BLE001, whatever it is, it is told
        sys.exit(f"{what}: {type(error).__name__} {error}, not {kinds}")
    sys.exit(f"{what}: {answer!r}, not {kinds}")


def control(name, **body):
    """Asks the fake workspace itself for something. Returns its answer."""
    url = f"{os.environ['DATABRICKS_HOST']}/_fake/{name}"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), method="POST")) as answer:
        return json.load(answer)
