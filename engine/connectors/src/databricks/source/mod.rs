//! `WorkspaceSource`: a workspace, or folders of one, as a backup reads it.
//!
//! Objects lie in the snapshot under their paths in the workspace. Each folder is one call; what it says of an object (id,
//! time of change, size, language) is the fingerprint by which the next night knows that nothing was done to it. What
//! cannot be seen is never taken for deleted, since a workspace gives the same answer for both.

mod content;
mod described;
mod folder;
mod permissions;
mod volumes;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::{Source, SourceDir, SourceError, SourceErrorKind, SourceFile, SourceManner};
use lakebed_core::text::escape_path;
use lakebed_core::time::Timestamp;
use tokio::sync::Semaphore;

use self::described::DescribedDir;
pub(super) use self::folder::from_millis;
use self::folder::{FolderDir, folder_entry};
pub(super) use self::permissions::{FolderPermissions, PERMISSIONS_FILE, permissions_kind};
use self::volumes::{VolumeDir, large_files};
use super::api::{self, Object, ObjectKind};
use super::names::{NotebookFormat, folder_of};
use super::{SettingsError, Workspace, settings};
use crate::rest::CallError;

/// So many objects are asked for at a time: enough for the documented rates at a third of a second an answer.
const READERS: usize = 48;

/// An object that was changed so shortly before a backup began may have been changed again, unseen, with the same time: the
/// clocks of a workspace and of this machine differ.
const CLOCKS_DIFFER_SECS: i64 = 60;

/// Names at the top of a snapshot that mean something else than a folder of the workspace.
const ROOT_RESERVED: [&str; 2] = [VOLUMES, DESCRIPTIONS];
/// Where files of volumes lie, as in the workspace.
const VOLUMES: &str = "Volumes";
/// Where what describes the workspace lies.
const DESCRIPTIONS: &str = ".databricks";

/// What is taken besides what lies below the roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Include {
    /// Files in volumes.
    Volumes,
    /// Jobs.
    Jobs,
    /// Pipelines.
    Pipelines,
    /// What is in Unity Catalog: catalogs, schemas, tables, volumes, functions, and what is granted on them.
    Catalogs,
    /// Dashboards.
    Dashboards,
    /// Who may do what with objects below the roots.
    Permissions,
    /// Secret scopes: names of secrets, and never a secret.
    SecretScopes,
}

impl Include {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Volumes,
        Self::Jobs,
        Self::Pipelines,
        Self::Catalogs,
        Self::Dashboards,
        Self::Permissions,
        Self::SecretScopes,
    ];

    /// Returns the folder among the descriptions, of what is one.
    fn folder(self) -> Option<&'static str> {
        match self {
            Self::Volumes => None,
            described => Some(described.as_str()),
        }
    }

    /// Returns the word that people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::Jobs => "jobs",
            Self::Pipelines => "pipelines",
            Self::Catalogs => "catalogs",
            Self::Dashboards => "dashboards",
            Self::Permissions => "permissions",
            Self::SecretScopes => "secret-scopes",
        }
    }
}

/// What is taken of a workspace.
#[derive(Debug, Clone)]
pub struct WorkspaceOptions {
    /// Paths in the workspace.
    pub roots: Vec<String>,
    /// As what notebooks are taken.
    pub formats: Vec<NotebookFormat>,
    /// Leave out what users have thrown away.
    pub without_trash: bool,
    /// Leave out Git folders: another place has what was committed in them.
    pub without_git_folders: bool,
    /// What is taken besides.
    pub include: Vec<Include>,
}

impl Default for WorkspaceOptions {
    fn default() -> Self {
        Self {
            roots: vec!["/".into()],
            formats: vec![NotebookFormat::Source],
            without_trash: false,
            without_git_folders: false,
            include: Vec::new(),
        }
    }
}

/// A workspace as a source. Clones share it.
#[derive(Debug, Clone)]
pub struct WorkspaceSource {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    workspace: Workspace,
    options: WorkspaceOptions,
    /// Listings of the roots, until they are walked.
    looked_at: Mutex<HashMap<String, Vec<Object>>>,
    /// Objects by kind that no export gives.
    left_out: Mutex<BTreeMap<String, u64>>,
    /// Permits to read large files.
    large_files: Arc<Semaphore>,
}

impl WorkspaceSource {
    /// Makes a source. Nothing is asked of the workspace yet.
    ///
    /// # Errors
    /// A path that is none.
    pub fn new(workspace: Workspace, mut options: WorkspaceOptions) -> Result<Self, SettingsError> {
        for root in &mut options.roots {
            *root = settings::clean_path(root)?;
            if lies_in(root, "/Volumes") {
                let why = "files of volumes are taken besides a path of the workspace, with --include volumes";
                return Err(SettingsError::Uri { why });
            }
        }
        // what lies in another one comes with it
        let all = std::mem::take(&mut options.roots);
        let comes_with = |root: &str| all.iter().any(|other| other != root && lies_in(root, other));
        options.roots = all.iter().filter(|root| !comes_with(root)).cloned().collect();
        options.roots.sort();
        options.roots.dedup();
        options.formats.sort();
        options.formats.dedup();
        let (looked_at, left_out) = (Mutex::default(), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { workspace, options, looked_at, left_out, large_files: large_files() }) })
    }

    /// Returns how many objects, by their kind, were left out because no call takes them out of the workspace.
    pub fn left_out(&self) -> BTreeMap<String, u64> {
        self.inner.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the connection.
    pub fn workspace(&self) -> &Workspace {
        &self.inner.workspace
    }

    fn options(&self) -> &WorkspaceOptions {
        &self.inner.options
    }

    /// Lists a folder of the workspace.
    fn list(&self, path: &str) -> Result<Vec<Object>, SourceError> {
        let workspace = &self.inner.workspace;
        workspace.wait(api::list(workspace.client(), path)).map_err(|error| failure("list", path, error))
    }

    /// Tells whether an object in a folder is to be taken.
    fn is_wanted(&self, folder: &str, object: &Object) -> bool {
        let options = self.options();
        let is_trash = || {
            let names: Vec<&str> = folder.split('/').collect();
            matches!(names[..], ["", "Users", _]) && object.name() == "Trash" && object.kind() == ObjectKind::Folder
        };
        let is_left_out = options.without_git_folders && object.is_git_folder() || options.without_trash && is_trash();
        !is_left_out
    }

    fn note_left_out(&self, object_type: &str) {
        let mut left_out = self.inner.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        *left_out.entry(object_type.to_owned()).or_default() += 1;
    }
}

/// Tells whether a path is another one, or lies below it.
fn lies_in(path: &str, folder: &str) -> bool {
    folder == "/" || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the path of something in a folder.
fn below(folder: &str, name: &str) -> String {
    if folder == "/" { format!("/{name}") } else { format!("{folder}/{name}") }
}

/// Says what a call that failed means for an entry.
fn failure(operation: &'static str, path: &str, error: CallError) -> SourceError {
    let refusal = error.kind.refusal();
    let kind = match refusal {
        _ if error.kind.ends_everything() => SourceErrorKind::SourceEnded,
        Some(refusal) if refusal.is_absent() => SourceErrorKind::Vanished,
        Some(refusal) if refusal.is_forbidden() => SourceErrorKind::PermissionDenied,
        _ => SourceErrorKind::Other,
    };
    SourceError { kind, operation, path: escape_path(path.as_bytes()), source: std::io::Error::other(error) }
}

impl Source for WorkspaceSource {
    fn uri(&self) -> String {
        format!("databricks://{}/", self.inner.workspace.host())
    }

    fn parts(&self) -> Vec<(Vec<Vec<u8>>, String)> {
        let part = |root: &String| {
            let names = root.split('/').filter(|name| !name.is_empty());
            (
                names.map(|name| name.as_bytes().to_vec()).collect(),
                format!("databricks://{}{root}", self.inner.workspace.host()),
            )
        };
        self.options().roots.iter().map(part).collect()
    }

    fn manner(&self) -> SourceManner {
        SourceManner { readers: READERS, keeps_unseen: true }
    }

    fn stop(&self) {
        self.inner.workspace.stop();
    }

    fn object_id(&self, entry: &Entry) -> Option<u64> {
        let attribute = |wanted: &str| entry.attributes.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let id = std::str::from_utf8(attribute("object-id")?).ok()?.parse::<i64>().ok()?;
        // a notebook that is taken in several formats is several entries
        let format = attribute("format").and_then(|format| NotebookFormat::parse(std::str::from_utf8(format).ok()?));
        let hash = lakebed_core::hash::object_hash(format!("{id} {format:?}").as_bytes());
        hash.as_bytes().first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn has_content_of(&self, entry: &Entry, known: &Entry, began: Timestamp) -> Option<bool> {
        if entry.kind != EntryKind::File {
            return Some(false);
        }
        let is_known = entry.mtime != Timestamp::default();
        let is_settled = entry.mtime.secs + CLOCKS_DIFFER_SECS < began.secs;
        // a name that is marked otherwise is another name of the same object
        let told = |entry: &Entry| -> Vec<(String, Vec<u8>)> {
            entry.attributes.iter().filter(|(name, _)| name != "name").cloned().collect()
        };
        let is_as_long = entry.size == 0 || entry.size == known.size;
        Some(is_known && is_settled && is_as_long && entry.mtime == known.mtime && told(entry) == told(known))
    }

    /// Looks at each root, so that a workspace that cannot be reached, or a path that is none, is told at once.
    fn root(&self) -> Result<Entry, SourceError> {
        let mut seen = HashMap::new();
        let mut first_error = None;
        for root in &self.options().roots {
            match self.list(root) {
                Ok(objects) => {
                    seen.insert(root.clone(), objects);
                }
                Err(error) if error.kind == SourceErrorKind::SourceEnded => return Err(error),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) if seen.is_empty() => Err(error),
            // those that cannot be looked at now are told of when they are walked
            _ => {
                *self.inner.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = seen;
                Ok(folder_entry(""))
            }
        }
    }

    fn open_dir(&self, path: &[Vec<u8>], _: &Entry) -> Result<Box<dyn SourceDir>, SourceError> {
        let names: Vec<String> = path.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        match names.split_first() {
            Some((first, names)) if first == VOLUMES => return Ok(Box::new(VolumeDir::open(self, names)?)),
            Some((first, names)) if first == DESCRIPTIONS => return DescribedDir::open(self, names),
            _ => {}
        }
        let path = names.iter().fold("/".to_owned(), |path, name| below(&path, folder_of(name)));
        let roots = &self.options().roots;
        if !roots.iter().any(|root| lies_in(&path, root)) {
            return Ok(Box::new(self.above_roots(path)));
        }
        let looked_at = self.inner.looked_at.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
        let objects = looked_at.map_or_else(|| self.list(&path), Ok)?;
        let mut dir = FolderDir::new(self.clone(), path, objects);
        self.add_beside(&mut dir);
        Ok(Box::new(dir))
    }

    fn open_root(&self) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::new("open", "/", std::io::ErrorKind::IsADirectory.into()))
    }
}

impl WorkspaceSource {
    /// Makes a folder of which nothing is wanted but what leads to roots.
    fn above_roots(&self, path: String) -> FolderDir {
        let mut folders = Vec::new();
        let mut objects = Vec::new();
        let mut unseen = Vec::new();
        let mut looked_at = self.inner.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        for root in self.options().roots.iter().filter(|root| lies_in(root, &path)) {
            let rest = root.strip_prefix(&path).unwrap_or_default().trim_start_matches('/');
            let (name, is_root) = rest.split_once('/').map_or((rest, true), |(name, _)| (name, false));
            // the listing of what is no folder is that one object
            match looked_at.get(root).map(Vec::as_slice) {
                Some([object]) if is_root && object.path == *root && object.kind() != ObjectKind::Folder => {
                    objects.push(object.clone());
                    looked_at.remove(root);
                }
                // what it was, a folder or one object, nobody can say now
                None if is_root => unseen.push(root.clone()),
                _ => folders.push(name.to_owned()),
            }
        }
        folders.sort();
        folders.dedup();
        let is_top = path == "/";
        drop(looked_at);
        let mut dir = FolderDir::new(self.clone(), path, objects);
        unseen.into_iter().for_each(|root| dir.add_unseen(root));
        dir.add(folders.iter().map(|name| {
            let reserved = is_top && ROOT_RESERVED.contains(&name.as_str());
            folder_entry(&super::names::folder_name(name, reserved))
        }));
        self.add_beside(&mut dir);
        dir
    }

    /// Adds to the top what lies beside the folders of the workspace.
    fn add_beside(&self, dir: &mut FolderDir) {
        if dir.path() == "/" {
            let include = &self.options().include;
            dir.add(include.contains(&Include::Volumes).then(|| folder_entry(VOLUMES)));
            let is_described = include.iter().any(|include| include.folder().is_some());
            dir.add(is_described.then(|| folder_entry(DESCRIPTIONS)));
        }
    }
}
