//! What describes a workspace, as files of a snapshot: `.databricks/jobs/<id>.json` and the like.

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Listing, SourceDir, SourceError, SourceFile};
use serde_json::Value;

use super::content::in_memory;
use super::folder::folder_entry;
use super::permissions::PermissionsDir;
use super::{Include, WorkspaceSource, failure};
use crate::databricks::describe::{Kind, Subject, canonical, names};
use crate::databricks::{Workspace, catalog};
use crate::rest::CallError;

/// A directory of descriptions.
pub(super) struct DescribedDir {
    workspace: Workspace,
    path: String,
    folders: Vec<String>,
    /// By the names of their files.
    files: Vec<(String, Subject)>,
}

/// Returns a name under which a file can be kept, whatever something is called.
pub(super) fn file_name_of(name: &str) -> String {
    let mut safe = String::with_capacity(name.len() + 5);
    for c in name.chars() {
        match c {
            '/' | '%' | '\0'..='\x1f' => safe.push_str(&format!("%{:02X}", u32::from(c))),
            c => safe.push(c),
        }
    }
    safe
}

/// Kinds of objects in a schema: folder, kind in the paths of calls, and as grants call it.
const IN_SCHEMA: [(&str, &str, &str); 3] =
    [("tables", "tables", "table"), ("volumes", "volumes", "volume"), ("functions", "functions", "function")];

impl DescribedDir {
    /// Lists what is below `.databricks` by these names.
    pub(super) fn open(source: &WorkspaceSource, below: &[String]) -> Result<Box<dyn SourceDir>, SourceError> {
        let workspace = source.workspace();
        let mut dir = Self {
            workspace: workspace.clone(),
            path: below.iter().fold(".databricks".to_owned(), |path, name| format!("{path}/{name}")),
            folders: Vec::new(),
            files: Vec::new(),
        };
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        let listed = match below[..] {
            [] => {
                let described = Include::ALL.into_iter().filter(|include| source.options().include.contains(include));
                dir.folders.extend(described.filter_map(Include::folder).map(str::to_owned));
                Ok(())
            }
            ["permissions", ref path @ ..] => return Ok(Box::new(PermissionsDir::open(source, path)?)),
            ["jobs"] => dir.list_named(Kind::Jobs, Subject::Job),
            ["pipelines"] => dir.list_named(Kind::Pipelines, Subject::Pipeline),
            ["dashboards"] => dir.list_named(Kind::Dashboards, Subject::Dashboard),
            ["secret-scopes"] => dir.list_named(Kind::SecretScopes, Subject::SecretScope),
            ["catalogs", ref names @ ..] => dir.list_catalog(names),
            _ => Ok(()),
        };
        listed.map_err(|error| failure("list", &dir.path, error))?;
        dir.folders.sort();
        dir.files.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Box::new(dir))
    }

    fn list_named(&mut self, kind: Kind, subject: fn(String) -> Subject) -> Result<(), CallError> {
        let names = self.workspace.wait(names(self.workspace.client(), kind))?;
        self.files.extend(names.into_iter().map(|name| (format!("{}.json", file_name_of(&name)), subject(name))));
        Ok(())
    }

    fn list_catalog(&mut self, names: &[&str]) -> Result<(), CallError> {
        let client = self.workspace.client();
        let named = |objects: &[Value]| -> Vec<String> {
            objects.iter().filter_map(|object| Some(object.get("name")?.as_str()?.to_owned())).collect()
        };
        let description = |what, securable, full_name: String| Subject::Catalog { what, securable, full_name };
        match *names {
            [] => self.folders = named(&self.workspace.wait(catalog::catalogs(client))?),
            [of] => {
                self.folders = named(&self.workspace.wait(catalog::schemas(client, of))?);
                self.files.push(("catalog.json".into(), description("catalogs", "catalog", of.into())));
            }
            [of, schema] => {
                self.folders = IN_SCHEMA.map(|(folder, ..)| folder.to_owned()).to_vec();
                self.files.push(("schema.json".into(), description("schemas", "schema", format!("{of}.{schema}"))));
            }
            [of, schema, folder] => {
                if let Some((_, what, securable)) = IN_SCHEMA.into_iter().find(|(known, ..)| *known == folder) {
                    let objects = self.workspace.wait(catalog::objects(client, what, of, schema))?;
                    self.files.extend(named(&objects).into_iter().map(|name| {
                        let full_name = format!("{of}.{schema}.{name}");
                        (format!("{}.json", file_name_of(&name)), description(what, securable, full_name))
                    }));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Makes the entry of a document, of which neither size nor time are known before it is read.
pub(super) fn document_entry(name: &str) -> Entry {
    let mut entry = Entry::new(name, EntryKind::File);
    entry.mode = 0o644;
    entry.attributes = vec![("type".into(), b"DESCRIPTION".to_vec())];
    entry
}

impl SourceDir for DescribedDir {
    fn list(&self) -> Result<Listing<'_>, SourceError> {
        let folders = self.folders.iter().map(|name| folder_entry(name));
        let mut entries: Vec<Entry> = folders.chain(self.files.iter().map(|(name, _)| document_entry(name))).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        entries.dedup_by(|one, other| one.name == other.name);
        Ok(Box::new(entries.into_iter().map(Ok)))
    }

    fn complete(&self, _: &mut Entry) -> Result<(), SourceError> {
        Ok(())
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn SourceFile>, SourceError> {
        let shown = format!("{}/{}", self.path, String::from_utf8_lossy(&entry.name));
        let found = self.files.iter().find(|(name, _)| name.as_bytes() == entry.name);
        let Some((_, subject)) = found else {
            return Err(SourceError::new("describe", shown, std::io::ErrorKind::NotFound.into()));
        };
        let described = self.workspace.wait(subject.describe(self.workspace.client()));
        let document = described.map_err(|error| failure("describe", &shown, error))?;
        Ok(in_memory(canonical(&document).into(), shown))
    }
}
