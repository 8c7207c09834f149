//! `WorkspaceTarget`: a workspace that a snapshot is restored into.
//!
//! * Objects come back under their paths, below the target's path, as what they were: a notebook in its language, a file as
//!   a file.
//! * What is there is changed only as the overwrite policy says. Nothing of another kind is replaced without being asked
//!   for, and no folder is ever deleted.
//! * A folder that was filled is listed once more at the end: what is not there as it should be is a failure.

mod folder;
mod kind;
mod permissions;
mod spooled;
mod volume;

use lakebed_core::record::tree::Entry;
use lakebed_core::target::{Beside, FileContent, Overwrite, Put, Target, TargetDir, TargetError, TargetErrorKind};
use lakebed_core::text::escape_path;

use self::folder::FolderTarget;
use self::volume::VolumeTarget;
use super::names::folder_of;
use super::{SettingsError, Workspace, settings};
use crate::rest::CallError;

/// So many objects are put at a time.
const WRITERS: usize = 32;

/// How a snapshot is put into a workspace.
#[derive(Debug, Clone)]
pub struct WorkspaceTargetOptions {
    /// Path in the workspace under which everything comes; `/`: where it was.
    pub path: String,
    /// What to do with what is there already.
    pub overwrite: Overwrite,
    /// Say who may do what with the objects, as the snapshot has it.
    pub permissions: bool,
    /// Change nothing, only look.
    pub dry_run: bool,
}

/// A workspace as a target. Clones share it.
#[derive(Debug, Clone)]
pub struct WorkspaceTarget {
    workspace: Workspace,
    options: WorkspaceTargetOptions,
}

impl WorkspaceTarget {
    /// Makes a target. Nothing is asked of the workspace yet.
    ///
    /// # Errors
    /// A path that is none.
    pub fn new(workspace: Workspace, mut options: WorkspaceTargetOptions) -> Result<Self, SettingsError> {
        options.path = settings::clean_path(&options.path)?;
        Ok(Self { workspace, options })
    }

    /// Returns the connection.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }
}

/// Says what a call that failed means for an entry.
fn failure(operation: &'static str, path: &str, error: CallError) -> TargetError {
    let kind = if error.kind.ends_everything() { TargetErrorKind::TargetEnded } else { TargetErrorKind::Other };
    TargetError { kind, operation, path: escape_path(path.as_bytes()), source: error.into() }
}

/// Says that an entry cannot be put.
fn refused(operation: &'static str, path: &str, why: impl Into<String>) -> TargetError {
    let source = why.into().into();
    TargetError { kind: TargetErrorKind::Other, operation, path: escape_path(path.as_bytes()), source }
}

/// Returns a name as a workspace has it: text.
fn name_of(name: &[u8]) -> Result<String, TargetError> {
    let no_text = |_| refused("put", &escape_path(name), "its name is no text, which names in a workspace are");
    String::from_utf8(name.to_vec()).map_err(no_text)
}

/// Says that this machine cannot read or keep something.
fn local(operation: &'static str, path: &str, error: std::io::Error) -> TargetError {
    TargetError { kind: TargetErrorKind::Other, operation, path: escape_path(path.as_bytes()), source: error.into() }
}

/// A directory of which nothing is put.
struct Nowhere;

impl TargetDir for Nowhere {
    fn put(&self, _: &Entry, _: &dyn FileContent, _: &dyn Beside) -> Result<Put, TargetError> {
        Ok(Put::LeftOut)
    }
}

impl Target for WorkspaceTarget {
    fn location(&self) -> String {
        format!("databricks://{}{}", self.workspace.host(), self.options.path)
    }

    fn writers(&self) -> usize {
        WRITERS
    }

    fn stop(&self) {
        self.workspace.stop();
    }

    fn directory(&self, path: &[Vec<u8>], _: &Entry) -> Result<(Put, Box<dyn TargetDir>), TargetError> {
        let names: Vec<String> = path.iter().map(|name| name_of(name)).collect::<Result<_, _>>()?;
        match names.first().map(String::as_str) {
            Some(".databricks") => Ok((Put::LeftOut, Box::new(Nowhere))),
            Some("Volumes") => {
                let (put, dir) = VolumeTarget::open(self, names)?;
                Ok((put, Box::new(dir)))
            }
            _ => {
                let below = names.iter().map(|name| folder_of(name));
                let base = if self.options.path == "/" { String::new() } else { self.options.path.clone() };
                let place = below.fold(base, |place, name| format!("{place}/{name}"));
                let (put, dir) = FolderTarget::open(self, place, path)?;
                Ok((put, Box::new(dir)))
            }
        }
    }
}
