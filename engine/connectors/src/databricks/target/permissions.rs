//! Who may do what with what was restored.

use lakebed_core::target::{Beside, TargetError};
use serde_json::Value;

use super::{WorkspaceTarget, failure, local};
use crate::databricks::api::Object;
use crate::databricks::change;
use crate::databricks::source::{FolderPermissions, PERMISSIONS_FILE, permissions_kind};

/// Reads what the snapshot says of the objects in a folder, by its names in the snapshot.
pub(super) fn permissions_in(path: &[Vec<u8>], beside: &dyn Beside) -> Result<FolderPermissions, TargetError> {
    let names = [".databricks", "permissions"].into_iter().map(|name| name.as_bytes().to_vec());
    let file: Vec<Vec<u8>> = names.chain(path.iter().cloned()).chain([PERMISSIONS_FILE.as_bytes().to_vec()]).collect();
    let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes).map_err(std::io::Error::other);
    let read = beside.read(&file).and_then(|bytes| bytes.map_or_else(|| Ok(FolderPermissions::default()), parse));
    read.map_err(|error| local("read the permissions in", &String::from_utf8_lossy(&path.join(&b'/')), error))
}

/// Says who may do what with an object.
pub(super) fn set(target: &WorkspaceTarget, object: &Object, path: &str, list: &Value) -> Result<(), TargetError> {
    let (Some(kind), Some(id)) = (permissions_kind(object), object.object_id) else { return Ok(()) };
    let workspace = &target.workspace;
    let call = change::set_permissions(workspace.client(), kind, id, path, list);
    workspace.wait(call).map_err(|error| failure("set the permissions of", path, error))
}
