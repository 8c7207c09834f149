//! A folder of a volume that files are put into.

use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::target::{Beside, FileContent, Overwrite, Put, TargetDir, TargetError};

use super::spooled::Spooled;
use super::{WorkspaceTarget, failure, local, name_of, refused};
use crate::databricks::change;
use crate::databricks::files::{self, VolumeEntry};
use crate::databricks::source::from_millis;
use crate::rest::Refusal;

/// `Volumes`, the catalog, the schema and the volume: these are there, or files cannot be put.
const VOLUME_DEPTH: usize = 4;

/// A larger file is not taken by one call.
const PUT_MAX_BYTES: u64 = 5 << 30;

pub(super) struct VolumeTarget {
    target: WorkspaceTarget,
    place: String,
    /// What was there before; none above the volume.
    existing: Vec<VolumeEntry>,
}

impl VolumeTarget {
    /// Makes the folder, or finds it.
    pub(super) fn open(target: &WorkspaceTarget, names: Vec<String>) -> Result<(Put, Self), TargetError> {
        let place = format!("/{}", names.join("/"));
        let dir = |existing| Self { target: target.clone(), place: place.clone(), existing };
        if names.len() < VOLUME_DEPTH {
            return Ok((Put::Kept, dir(Vec::new())));
        }
        let workspace = &target.workspace;
        match workspace.wait(files::list(workspace.client(), &place)) {
            Ok(existing) => Ok((Put::Kept, dir(existing))),
            Err(error) if error.kind.refusal().is_some_and(Refusal::is_absent) => {
                if names.len() == VOLUME_DEPTH {
                    return Err(refused("find the volume", &place, "it is not there: make it first"));
                }
                if !target.options.dry_run {
                    let made = workspace.wait(change::make_volume_folder(workspace.client(), &place));
                    made.map_err(|error| failure("make the folder", &place, error))?;
                }
                Ok((Put::Created, dir(Vec::new())))
            }
            Err(error) => Err(failure("list", &place, error)),
        }
    }
}

impl TargetDir for VolumeTarget {
    fn put(&self, entry: &Entry, content: &dyn FileContent, _: &dyn Beside) -> Result<Put, TargetError> {
        let path = format!("{}/{}", self.place, name_of(&entry.name)?);
        if entry.kind != EntryKind::File {
            return Err(refused("put", &path, format!("a volume has no {}", entry.kind.as_str())));
        }
        if entry.size > PUT_MAX_BYTES {
            return Err(refused("put", &path, "it is larger than the 5 GiB that a volume takes at once"));
        }
        let there = self.existing.iter().find(|there| there.name.as_bytes() == entry.name);
        if let Some(there) = there {
            if there.is_directory {
                return Err(refused("put", &path, "a folder is there: no folder is replaced"));
            }
            let modified = there.last_modified.map(from_millis).unwrap_or_default();
            let is_same = there.file_size == Some(entry.size) && modified == entry.mtime;
            let stays = match self.target.options.overwrite {
                Overwrite::Never => true,
                Overwrite::IfChanged => is_same,
                // when it was changed may not be known
                Overwrite::IfNewer => modified == Default::default() || modified >= entry.mtime,
                Overwrite::Always => false,
            };
            if stays {
                return Ok(Put::Kept);
            }
        }
        if !self.target.options.dry_run {
            let body = Spooled::of(entry.size, content).map_err(|error| local("read", &path, error))?.into_body();
            let workspace = &self.target.workspace;
            let sent = workspace.wait(change::put_volume_file(workspace.client(), &path, body, there.is_some()));
            match sent {
                // an answer may have been lost after which it was sent again: its size is looked at below
                Err(error) if there.is_none() && error.kind.refusal().is_some_and(Refusal::is_taken) => {}
                sent => sent.map_err(|error| failure("put", &path, error))?,
            }
            let size = workspace.wait(files::size(workspace.client(), &path));
            if size.map_err(|error| failure("look at", &path, error))? != entry.size {
                return Err(refused("put", &path, "it was sent, and has another size now"));
            }
        }
        Ok(if there.is_some() { Put::Replaced } else { Put::Created })
    }
}
