//! Who may do what with the objects of a workspace: one document for each folder, in `.databricks/permissions`.

use std::collections::BTreeMap;

use lakebed_core::record::tree::Entry;
use lakebed_core::source::{Listing, SourceDir, SourceError, SourceFile};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::content::in_memory;
use super::described::document_entry;
use super::folder::folder_entry;
use super::{ROOT_RESERVED, WorkspaceSource, below, failure, lies_in};
use crate::databricks::api::{self, Object, ObjectKind};
use crate::databricks::change;
use crate::databricks::describe::canonical;
use crate::databricks::names::{folder_name, folder_of};

/// Name of the document of a folder.
pub(in crate::databricks) const PERMISSIONS_FILE: &str = "permissions.json";

/// Who may do what with the objects in a folder, folders among them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::databricks) struct FolderPermissions {
    /// By the names of objects: what was granted for them alone, as the calls for permissions take it. What they have from
    /// folders above is not in it.
    pub(in crate::databricks) objects: BTreeMap<String, Value>,
}

/// Returns the word by which calls for permissions name a kind of object; `None` for what has none.
pub(in crate::databricks) fn permissions_kind(object: &Object) -> Option<&'static str> {
    Some(match object.object_type.as_str() {
        "NOTEBOOK" => "notebooks",
        "DIRECTORY" => "directories",
        "FILE" => "files",
        "REPO" => "repos",
        _ => return None,
    })
}

/// Keeps of an access control list what was granted for the object itself, in the form in which it can be granted again.
pub(in crate::databricks) fn own_grants(answer: &Value) -> Option<Value> {
    let entries = answer.get("access_control_list")?.as_array()?;
    let mut grants: Vec<Value> = Vec::new();
    for entry in entries {
        let who = ["user_name", "group_name", "service_principal_name"];
        let Some((key, name)) = who.iter().find_map(|key| Some((*key, entry.get(*key)?))) else { continue };
        for permission in entry.get("all_permissions").and_then(Value::as_array).into_iter().flatten() {
            let is_inherited = permission.get("inherited").and_then(Value::as_bool).unwrap_or(false);
            if let (false, Some(level)) = (is_inherited, permission.get("permission_level")) {
                let grant = [(key.to_owned(), name.clone()), ("permission_level".to_owned(), level.clone())];
                grants.push(Value::Object(Map::from_iter(grant)));
            }
        }
    }
    // the order in which they come means nothing
    grants.sort_by_key(Value::to_string);
    Some(Value::Array(grants))
}

pub(super) struct PermissionsDir {
    source: WorkspaceSource,
    path: String,
    folders: Vec<String>,
    /// Objects whose permissions are in the document.
    objects: Vec<Object>,
}

/// Tells whether a folder of that name must be called otherwise, here or in the tree of the folders themselves.
fn is_reserved(folder: &str, name: &str) -> bool {
    name == PERMISSIONS_FILE || (folder == "/" && ROOT_RESERVED.contains(&name))
}

impl PermissionsDir {
    /// Lists the folder of the workspace that these names lead to.
    pub(super) fn open(source: &WorkspaceSource, names: &[&str]) -> Result<Self, SourceError> {
        let path = names.iter().fold("/".to_owned(), |path, name| below(&path, folder_of(name)));
        let roots = &source.options().roots;
        let objects = match roots.iter().any(|root| lies_in(&path, root)) {
            true => source.list(&path)?,
            // of a folder above only the roots are looked at
            false => {
                let here = roots.iter().filter(|root| lies_in(root, &path));
                let mut children: Vec<String> = here
                    .filter_map(|root| {
                        let rest = root.strip_prefix(&path)?.trim_start_matches('/');
                        Some(below(&path, rest.split('/').next()?))
                    })
                    .collect();
                children.dedup();
                let workspace = source.workspace();
                let look = |child: &String| {
                    let looked = workspace.wait(api::look_at(workspace.client(), child));
                    looked.map_err(|error| failure("look at", child, error))
                };
                children.iter().map(look).collect::<Result<Vec<_>, _>>()?
            }
        };
        let wanted: Vec<Object> = objects.into_iter().filter(|object| source.is_wanted(&path, object)).collect();
        let folders = wanted.iter().filter(|object| object.kind() == ObjectKind::Folder);
        let mut folders: Vec<String> =
            folders.map(|object| folder_name(object.name(), is_reserved(&path, object.name()))).collect();
        folders.sort();
        Ok(Self { source: source.clone(), path, folders, objects: wanted })
    }
}

impl SourceDir for PermissionsDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let folders = self.folders.iter().map(|name| folder_entry(name));
        let mut entries: Vec<Entry> = folders.chain([document_entry(PERMISSIONS_FILE)]).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Box::new(entries.into_iter().map(Ok)))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, _: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let workspace = self.source.workspace();
        let mut document = FolderPermissions::default();
        for object in &self.objects {
            let (Some(kind), Some(id)) = (permissions_kind(object), object.object_id) else { continue };
            let asked = change::permissions(workspace.client(), kind, id, &object.path);
            let answer = workspace.wait(asked);
            let answer = answer.map_err(|error| failure("ask for the permissions of", &object.path, error))?;
            let Some(grants) = own_grants(&answer) else {
                let why = std::io::Error::other("the answer has no `access_control_list`");
                return Err(SourceError::new("ask for the permissions of", object.path.clone(), why));
            };
            document.objects.insert(object.name().to_owned(), grants);
        }
        let bytes = canonical(&serde_json::to_value(&document).unwrap_or_default());
        Ok(in_memory(bytes.into(), format!("{}/{PERMISSIONS_FILE}", self.path)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_granted_for_the_object_itself_is_kept() {
        let answer = json!({ "object_id": "/notebooks/1", "access_control_list": [
            { "user_name": "b", "all_permissions": [
                { "permission_level": "CAN_MANAGE", "inherited": true, "inherited_from_object": ["/directories/1"] },
                { "permission_level": "CAN_READ", "inherited": false } ] },
            { "group_name": "admins", "all_permissions": [{ "permission_level": "CAN_MANAGE", "inherited": true }] },
            { "group_name": "a", "all_permissions": [{ "permission_level": "CAN_RUN" }] } ] });
        let own = json!([
            { "group_name": "a", "permission_level": "CAN_RUN" },
            { "user_name": "b", "permission_level": "CAN_READ" } ]);
        assert_eq!(own_grants(&answer), Some(own));
        assert_eq!(own_grants(&json!({ "access_control_list": [] })), Some(json!([])));
        assert_eq!(own_grants(&json!({})), None, "that nobody was granted anything must be said");
    }
}
