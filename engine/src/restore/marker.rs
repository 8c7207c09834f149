//! The mark of a restore that is going on.
//!
//! A restore into an empty folder writes files under their own names, which is quickest; if it is interrupted, a file may
//! be there in part. So it first puts a marker into the folder and takes it away at the end. Whoever finds the marker of
//! the same snapshot knows that files with the mode of an unfinished one are that restore's. If the machine was started
//! anew since, files may have lost bytes that were never written out, whatever their size and time say.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lakebed_core::id::SnapshotId;

use super::target::UNFINISHED_MODE;
use crate::error::{Error, Result};

/// Name of the marker, right in the target folder.
pub(super) const MARKER: &str = ".lakebed-restore";

/// How the target was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// It was not there or empty: everything in it is ours.
    Fresh,
    /// An interrupted restore of the same snapshot left it.
    Continued {
        /// The machine was started anew since.
        rebooted: bool,
    },
    /// It holds other things.
    Occupied,
}

/// Makes the names in a folder durable.
fn flush_names(folder: &Path) -> std::io::Result<()> {
    use std::io::ErrorKind;
    match std::fs::File::open(folder)?.sync_all() {
        // some file systems have no such call for folders and nothing in its place
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

#[derive(Debug)]
pub(super) struct Marker {
    path: Option<PathBuf>,
    pub(super) ground: Ground,
}

impl Marker {
    /// Looks at the target, without changing anything.
    pub(super) fn look(target: &Path, snapshot: SnapshotId) -> Result<Self> {
        let path = target.join(MARKER);
        let ground = match std::fs::read_to_string(&path) {
            Ok(text) => match text.split_once(' ') {
                Some((id, boot)) if id == snapshot.to_string() => {
                    Ground::Continued { rebooted: boot != crate::system::boot_id() }
                }
                // files may be there in part, and nobody could tell which are whole
                _ => {
                    let why = "a restore of another snapshot was interrupted there: finish that one, or choose another folder";
                    return Err(Error::Argument {
                        what: "The target",
                        value: target.display().to_string(),
                        why: why.into(),
                    });
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match std::fs::read_dir(target) {
                Ok(mut entries) => {
                    if entries.next().is_none() {
                        Ground::Fresh
                    } else {
                        Ground::Occupied
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ground::Fresh,
                Err(source) => return Err(Error::local("list the target folder", target, source)),
            },
            Err(source) => return Err(Error::local("read", path, source)),
        };
        Ok(Self { path: None, ground })
    }

    /// Puts the marker there, whole. The target exists by now. The marker of a restore that is continued stays as it is: it
    /// says in which boot the oldest of the files were written.
    pub(super) fn set(&mut self, target: &Path, snapshot: SnapshotId) -> Result<()> {
        let path = target.join(MARKER);
        if self.ground == Ground::Fresh {
            let unfinished = target.join(format!("{MARKER}-new"));
            // a file system that keeps no modes cannot show which files are unfinished: there each is written aside
            let mut write = || {
                let mut file = std::fs::File::create(&unfinished)?;
                file.set_permissions(std::fs::Permissions::from_mode(UNFINISHED_MODE))?;
                if file.metadata()?.permissions().mode() & 0o7777 != UNFINISHED_MODE {
                    self.ground = Ground::Occupied;
                    return std::fs::remove_file(&unfinished);
                }
                file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
                file.write_all(format!("{snapshot} {}", crate::system::boot_id()).as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&unfinished, &path)?;
                // nothing that it is about may be durable without it
                flush_names(target)
            };
            write().map_err(|source| Error::local("write", &path, source))?;
        }
        if self.ground != Ground::Occupied {
            self.path = Some(path);
        }
        Ok(())
    }

    /// Takes the marker away: the restore is whole.
    pub(super) fn clear(self) -> Result<()> {
        match self.path {
            Some(path) => std::fs::remove_file(&path).map_err(|source| Error::local("remove", path, source)),
            None => Ok(()),
        }
    }
}
