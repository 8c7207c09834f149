//! Listing the objects of a repository: a walk through its folders.

use std::fs;
use std::io;

use lakebed_core::storage::{ObjectInfo, ObjectKey};

use super::calls::retry_interrupted;
use super::{Inner, is_reserved};

impl Inner {
    /// Lists the objects below a prefix, sorted by key.
    pub(super) fn list(&self, prefix: &str) -> io::Result<Vec<ObjectInfo>> {
        if !prefix.is_empty() && prefix.strip_suffix('/').and_then(ObjectKey::new).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a prefix is empty or a key followed by `/`"));
        }
        if is_reserved(prefix) {
            return Ok(Vec::new());
        }
        let mut objects = Vec::new();
        let mut folders = vec![prefix.to_owned()];
        while let Some(folder) = folders.pop() {
            self.list_folder(&folder, &mut folders, &mut objects)?;
        }
        if objects.is_empty() && !self.is_in_place() {
            return Err(self.gone());
        }
        // A folder that changes while it is read may name a file twice.
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        objects.dedup_by(|a, b| a.key == b.key);
        Ok(objects)
    }

    fn list_folder(&self, prefix: &str, folders: &mut Vec<String>, objects: &mut Vec<ObjectInfo>) -> io::Result<()> {
        let within = |error: io::Error| match self.explain_absence(error) {
            error if prefix.is_empty() => error,
            error => io::Error::new(error.kind(), FolderError { folder: prefix.to_owned(), error }),
        };
        let entries = match fs::read_dir(self.root.join(prefix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_in_place() => return Ok(()),
            entries => entries.map_err(within)?,
        };
        for entry in entries {
            let entry = entry.map_err(within)?;
            // What has no name that we would give is not ours.
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| ObjectKey::new(format!("{prefix}{name}"))) else { continue };
            if is_reserved(key.as_str()) {
                continue;
            }
            match retry_interrupted(|| look_at(&entry)) {
                Ok(Seen::Folder) => folders.push(format!("{key}/")),
                Ok(Seen::Object { size_bytes }) => objects.push(ObjectInfo { key, size_bytes }),
                Ok(Seen::Other) => {}
                // It was deleted since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(within(error)),
            }
        }
        Ok(())
    }
}

/// Says which folder below the listed prefix could not be read.
#[derive(Debug, thiserror::Error)]
#[error("in folder `{folder}`")]
struct FolderError {
    folder: String,
    #[source]
    error: io::Error,
}

/// What a name in a folder of the repository leads to.
enum Seen {
    Folder,
    Object {
        size_bytes: u64,
    },
    /// A pipe, a socket or a device, which are not ours.
    Other,
}

fn look_at(entry: &fs::DirEntry) -> io::Result<Seen> {
    let kind = entry.file_type()?;
    if kind.is_dir() {
        return Ok(Seen::Folder);
    }
    let metadata = if kind.is_symlink() { fs::metadata(entry.path())? } else { entry.metadata()? };
    Ok(match metadata {
        metadata if metadata.is_file() => Seen::Object { size_bytes: metadata.len() },
        metadata if metadata.is_dir() => Seen::Folder,
        _ => Seen::Other,
    })
}
