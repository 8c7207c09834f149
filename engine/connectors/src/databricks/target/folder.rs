//! A folder of a workspace that things are put into.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::target::{Beside, FileContent, Overwrite, Put, TargetDir, TargetError};

use super::kind::{Wanted, WantedKind, attribute, looks_like_notebook};
use super::permissions::{permissions_in, set};
use super::{WorkspaceTarget, failure, local, refused};
use crate::databricks::api::{self, Language, Object, ObjectKind};
use crate::databricks::change::{self, Import};
use crate::databricks::names::{NotebookFormat, folder_of, notebook_name};
use crate::databricks::source::from_millis;
use crate::rest::{Body, CallError, Refusal};

/// Imports of more bytes go another way, which only files can.
const IMPORT_MAX_BYTES: u64 = 10_000_000;

/// Content of at least so many bytes goes by way of a local file.
const SPOOLED_BYTES: u64 = 16 << 20;

pub(super) struct FolderTarget {
    target: WorkspaceTarget,
    /// Its path in the workspace.
    place: String,
    /// Its names in the snapshot.
    path: Vec<Vec<u8>>,
    /// What was there before, by name.
    existing: BTreeMap<String, Object>,
    /// It was made now.
    is_new: bool,
    /// What was put, to be looked at in the end.
    put: Mutex<Vec<Wanted>>,
}

impl FolderTarget {
    /// Makes the folder, or finds it.
    pub(super) fn open(target: &WorkspaceTarget, place: String, path: &[Vec<u8>]) -> Result<(Put, Self), TargetError> {
        let workspace = &target.workspace;
        let shown = if place.is_empty() { "/" } else { &place };
        let listed = workspace.wait(api::list(workspace.client(), shown));
        let (put, objects) = match listed {
            Ok(objects) => match &objects[..] {
                [object] if object.path == place && object.kind() != ObjectKind::Folder => {
                    let why = format!("a {} is there", object.object_type);
                    return Err(refused("make the folder", &place, why));
                }
                _ => (Put::Kept, objects),
            },
            Err(error) if error.kind.refusal().is_some_and(Refusal::is_absent) => {
                if !target.options.dry_run {
                    let made = workspace.wait(change::make_folder(workspace.client(), shown));
                    made.map_err(|error| failure("make the folder", &place, error))?;
                }
                (Put::Created, Vec::new())
            }
            Err(error) => return Err(failure("list", &place, error)),
        };
        let existing = objects.into_iter().map(|object| (object.name().to_owned(), object)).collect();
        let (target, path, is_new) = (target.clone(), path.to_vec(), put == Put::Created);
        Ok((put, Self { target, place, path, existing, is_new, put: Mutex::default() }))
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// Decides what is to be done where something is there already; `None`: it is put.
    fn decide(&self, wanted: &Wanted, entry: &Entry, content: &Spooled) -> Result<Option<Put>, TargetError> {
        let Some(there) = self.existing.get(&wanted.name) else { return Ok(None) };
        let path = self.path_of(&wanted.name);
        let overwrite = self.target.options.overwrite;
        if there.kind() == ObjectKind::Folder {
            return Err(refused("import", &path, "a folder is there: no folder is replaced"));
        }
        if there.object_type != wanted.kind.object_type() {
            // another kind of thing is no older state of this one
            return match overwrite {
                Overwrite::Always => Ok(None),
                _ => Err(refused("import", &path, format!("a {} is there", there.object_type))),
            };
        }
        let modified = there.modified_at.map(from_millis).unwrap_or_default();
        let is_untouched = || {
            attribute(entry, "object-id").is_some_and(|id| there.object_id.is_some_and(|there| there.to_string() == id))
                && modified == entry.mtime
                && modified != Default::default()
        };
        let is_equal = || match wanted.kind {
            WantedKind::Notebook(_, language) if Language::parse(there.language.as_deref()) != language => Ok(false),
            _ => self.has_content(wanted, content),
        };
        Ok(match overwrite {
            Overwrite::Never => Some(Put::Kept),
            Overwrite::IfNewer => (modified >= entry.mtime).then_some(Put::Kept),
            Overwrite::IfChanged => (is_untouched() || is_equal()?).then_some(Put::Kept),
            Overwrite::Always => is_equal()?.then_some(Put::Kept),
        })
    }

    /// Tells whether what is there has the content that is to be put. What cannot be taken out is not equal.
    fn has_content(&self, wanted: &Wanted, content: &Spooled) -> Result<bool, TargetError> {
        let format = match wanted.kind {
            WantedKind::Notebook(format, _) => format.as_str(),
            WantedKind::File => "AUTO",
        };
        let Spooled::Memory(bytes) = content else { return Ok(false) };
        let workspace = &self.target.workspace;
        match workspace.wait(api::export(workspace.client(), &self.path_of(&wanted.name), format, true)) {
            Ok(exported) => Ok(exported == bytes),
            Err(error) if error.kind.ends_everything() => Err(failure("export", &self.path_of(&wanted.name), error)),
            Err(_) => Ok(false),
        }
    }

    /// Puts what is wanted into the workspace.
    fn import(&self, wanted: &Wanted, content: Spooled) -> Result<(), TargetError> {
        let path = self.path_of(&wanted.name);
        let workspace = &self.target.workspace;
        let failed = |error: CallError| failure("import", &path, error);
        let there = self.existing.get(&wanted.name);
        let is_of_a_kind = there.is_some_and(|there| there.object_type == wanted.kind.object_type());
        // an archive replaces nothing by itself, and nothing replaces what is of another kind
        let goes_first = matches!(wanted.kind, WantedKind::Notebook(NotebookFormat::Dbc, _)) || !is_of_a_kind;
        if there.is_some() && goes_first {
            workspace.wait(change::delete(workspace.client(), &path)).map_err(failed)?;
        }
        let overwrite = there.is_some() && !goes_first;
        let small = |format, language| Import { path: &path, format, language, overwrite };
        let sent = content.in_memory();
        let result = match (wanted.kind, content) {
            (WantedKind::Notebook(format, language), Spooled::Memory(bytes)) => {
                let language = (format == NotebookFormat::Source).then(|| language.as_str());
                workspace.wait(change::import(workspace.client(), &small(format.as_str(), language), &bytes))
            }
            (WantedKind::Notebook(..), Spooled::Local(..)) => {
                return Err(refused("import", &path, "it is larger than any notebook can be"));
            }
            // a file that looks like a notebook would become one
            (WantedKind::File, Spooled::Memory(bytes))
                if looks_like_notebook(&wanted.name, &bytes) && bytes.len() as u64 <= IMPORT_MAX_BYTES =>
            {
                workspace.wait(change::import(workspace.client(), &small("RAW", None), &bytes))
            }
            (WantedKind::File, content) => {
                workspace.wait(change::import_file(workspace.client(), &path, content.into_body(), overwrite))
            }
        };
        match (result, sent) {
            // an answer may have been lost after which the same was sent again
            (Err(error), Some(sent))
                if there.is_none()
                    && error.kind.refusal().is_some_and(Refusal::is_taken)
                    && self.has_content(wanted, &Spooled::Memory(sent.clone()))? =>
            {
                Ok(())
            }
            (result, _) => result.map_err(failed),
        }
    }

    /// Lists the folder once more: what is not there as it was put is told.
    fn look_again(&self) -> Result<BTreeMap<String, Object>, TargetError> {
        let shown = if self.place.is_empty() { "/" } else { &self.place };
        let workspace = &self.target.workspace;
        let listed = workspace.wait(api::list(workspace.client(), shown));
        let objects = listed.map_err(|error| failure("list", &self.place, error))?;
        Ok(objects.into_iter().map(|object| (object.name().to_owned(), object)).collect())
    }

    /// Says who may do what with the folder itself, as what the snapshot says of the one above has it.
    fn set_own_permissions(&self, beside: &dyn Beside) -> Result<(), TargetError> {
        let Some((name, above)) = self.path.split_last() else { return Ok(()) };
        let permissions = permissions_in(above, beside)?;
        let list = permissions.objects.get(folder_of(&String::from_utf8_lossy(name)));
        let Some(list) = list else { return Ok(()) };
        let workspace = &self.target.workspace;
        let looked = workspace.wait(api::look_at(workspace.client(), &self.place));
        let object = looked.map_err(|error| failure("look at", &self.place, error))?;
        set(&self.target, &object, &self.place, list)
    }

    /// Tells whether an object is certainly the one that was there before, unchanged.
    fn is_untouched(&self, now: &Object) -> bool {
        let before = self.existing.get(now.name());
        before.is_some_and(|before| {
            now.modified_at.is_some_and(|time| time != 0)
                && (before.modified_at, before.object_id) == (now.modified_at, now.object_id)
        })
    }

    /// Tells whether the snapshot has the same object in a format that says more about it.
    fn comes_otherwise(&self, wanted: &Wanted, entry: &Entry, beside: &dyn Beside) -> std::io::Result<bool> {
        let WantedKind::Notebook(format, language) = wanted.kind else { return Ok(false) };
        let better = NotebookFormat::ALL.into_iter().filter(|better| *better < format);
        for better in better {
            for taken in [false, true] {
                let name = notebook_name(&wanted.name, language, better, |_| taken);
                let path = [&self.path[..], &[name.into_bytes()]].concat();
                let other = beside.entry(&path)?;
                let id = |entry: &Entry| attribute(entry, "object-id").map(str::to_owned);
                if other.is_some_and(|other| id(&other).is_some() && id(&other) == id(entry)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Content that is ready to be sent.
enum Spooled {
    Memory(Bytes),
    Local(std::fs::File, u64),
}

impl Spooled {
    fn of(size: u64, content: &dyn FileContent) -> std::io::Result<Self> {
        if size < SPOOLED_BYTES {
            let mut bytes = Vec::new();
            content.write_to(&mut bytes)?;
            return Ok(Self::Memory(bytes.into()));
        }
        let mut file = tempfile::tempfile()?;
        let mut out = std::io::BufWriter::new(&mut file);
        content.write_to(&mut out)?;
        out.flush()?;
        drop(out);
        let length = file.metadata()?.len();
        file.rewind()?;
        Ok(Self::Local(file, length))
    }

    /// Returns the same once more, where it is in memory.
    fn in_memory(&self) -> Option<Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes.clone()),
            Self::Local(..) => None,
        }
    }

    fn beginning(&self) -> std::io::Result<Vec<u8>> {
        const ENOUGH: usize = 64;
        match self {
            Self::Memory(bytes) => Ok(bytes[..bytes.len().min(ENOUGH)].to_vec()),
            Self::Local(file, _) => {
                let mut beginning = Vec::new();
                let mut file = file;
                file.take(ENOUGH as u64).read_to_end(&mut beginning)?;
                file.rewind()?;
                Ok(beginning)
            }
        }
    }

    fn into_body(self) -> Body {
        match self {
            Self::Memory(bytes) => Body::Memory(bytes, "application/octet-stream"),
            Self::Local(file, length) => Body::Local(file, length),
        }
    }
}

/// Reads content, and makes it ready to be sent.
pub(super) fn body_of(size: u64, content: &dyn FileContent) -> std::io::Result<Body> {
    Spooled::of(size, content).map(Spooled::into_body)
}

impl TargetDir for FolderTarget {
    fn put(&self, entry: &Entry, content: &dyn FileContent, beside: &dyn Beside) -> Result<Put, TargetError> {
        let shown = self.path_of(&String::from_utf8_lossy(&entry.name));
        if entry.kind != EntryKind::File {
            return Err(refused("import", &shown, format!("a workspace has no {}", entry.kind.as_str())));
        }
        let failed = |error| local("read", &shown, error);
        // what stays whatever it is need not be read
        let known = Wanted::of(entry, || Ok(Vec::new())).map_err(failed)?;
        if self.comes_otherwise(&known, entry, beside).map_err(failed)? {
            return Ok(Put::LeftOut);
        }
        let spooled = Spooled::of(entry.size, content).map_err(failed)?;
        let wanted = Wanted::of(entry, || spooled.beginning()).map_err(failed)?;
        if let Some(put) = self.decide(&wanted, entry, &spooled)? {
            return Ok(put);
        }
        let put = if self.existing.contains_key(&wanted.name) { Put::Replaced } else { Put::Created };
        if !self.target.options.dry_run {
            self.import(&wanted, spooled)?;
            self.put.lock().unwrap_or_else(PoisonError::into_inner).push(wanted);
        }
        Ok(put)
    }

    fn finish(&self, beside: &dyn Beside) -> Vec<TargetError> {
        let put = std::mem::take(&mut *self.put.lock().unwrap_or_else(PoisonError::into_inner));
        let sets_permissions = self.target.options.permissions && !self.target.options.dry_run;
        let mut errors = Vec::new();
        if sets_permissions && self.is_new {
            errors.extend(self.set_own_permissions(beside).err());
        }
        if put.is_empty() {
            return errors;
        }
        let now = match self.look_again() {
            Ok(now) => now,
            Err(error) => {
                errors.push(error);
                return errors;
            }
        };
        let permissions = match sets_permissions.then(|| permissions_in(&self.path, beside)).transpose() {
            Ok(permissions) => permissions.unwrap_or_default(),
            Err(error) => {
                errors.push(error);
                Default::default()
            }
        };
        for wanted in put {
            let path = self.path_of(&wanted.name);
            let language = |there: &Object| match wanted.kind {
                WantedKind::Notebook(NotebookFormat::Source, language) => {
                    Language::parse(there.language.as_deref()) == language
                }
                _ => true,
            };
            match now.get(&wanted.name) {
                None => errors.push(refused("import", &path, "it was sent, and is not there")),
                Some(there) if there.object_type != wanted.kind.object_type() || !language(there) => {
                    let became =
                        format!("it became a {} {}", there.object_type, there.language.as_deref().unwrap_or_default());
                    errors.push(refused("import", &path, became.trim_end()));
                }
                Some(there) if self.is_untouched(there) => {
                    errors.push(refused("import", &path, "it was sent, and what was there is there still"));
                }
                Some(there) => {
                    let list = permissions.objects.get(&wanted.name);
                    errors.extend(list.and_then(|list| set(&self.target, there, &path, list).err()));
                }
            }
        }
        errors
    }
}
