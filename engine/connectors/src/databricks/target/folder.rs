//! A folder of a workspace that things are put into.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::target::{Beside, FileContent, Overwrite, Put, TargetDir, TargetError, TargetErrorKind};

use super::kind::{Wanted, WantedKind, attribute, is_of_workspace, looks_like_notebook};
use super::permissions::{permissions_in, set};
use super::spooled::Spooled;
use super::{WorkspaceTarget, failure, local, name_of, refused};
use crate::databricks::api::{self, Language, Object, ObjectKind};
use crate::databricks::change::{self, Import};
use crate::databricks::names::{NotebookFormat, folder_of, notebook_name};
use crate::databricks::source::from_millis;
use crate::rest::Refusal;

/// Imports of more bytes go another way, which only files can.
const IMPORT_MAX_BYTES: u64 = 10_000_000;

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
    /// Names that an entry became, or was to become.
    taken: Mutex<BTreeSet<String>>,
    /// What was put, with the size of files, to be looked at in the end.
    put: Mutex<Vec<(Wanted, u64)>>,
}

/// What something is put over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Nothing,
    WhatIsThere,
    /// Something was deleted for it: it is put there whatever else ends meanwhile.
    WhatWasDeleted,
}

impl FolderTarget {
    /// Makes the folder, or finds it.
    pub(super) fn open(target: &WorkspaceTarget, place: String, path: &[Vec<u8>]) -> Result<(Put, Self), TargetError> {
        let workspace = &target.workspace;
        let shown = shown(&place);
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
                    made.map_err(|error| failure("make the folder", shown, error))?;
                }
                (Put::Created, Vec::new())
            }
            Err(error) => return Err(failure("list", shown, error)),
        };
        let existing = objects.into_iter().map(|object| (object.name().to_owned(), object)).collect();
        let (target, path, is_new) = (target.clone(), path.to_vec(), put == Put::Created);
        Ok((put, Self { target, place, path, existing, is_new, taken: Mutex::default(), put: Mutex::default() }))
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// Decides what is to be done where something is there already, as far as that depends on no content; `None`: it is put,
    /// unless it is equal where that counts.
    fn decide(&self, wanted: &Wanted, entry: &Entry) -> Result<Option<Put>, TargetError> {
        let Some(there) = self.existing.get(&wanted.name) else { return Ok(None) };
        let path = self.path_of(&wanted.name);
        let overwrite = self.target.options.overwrite;
        let is_there = || refused("import", &path, format!("a {} is there, which is not replaced", there.object_type));
        match there.kind() {
            // what no backup can hold is not deleted for a restore, and no folder is
            ObjectKind::Folder | ObjectKind::Elsewhere => return Err(is_there()),
            // another kind of thing is no older state of this one
            _ if there.object_type != wanted.kind.object_type() => {
                return if overwrite == Overwrite::Always { Ok(None) } else { Err(is_there()) };
            }
            _ => {}
        }
        let modified = there.modified_at.map(from_millis).unwrap_or_default();
        let is_unknown = modified == Default::default();
        let is_untouched = || {
            let is_same = |id: &str| there.object_id.is_some_and(|there| there.to_string() == id);
            attribute(entry, "object-id").is_some_and(is_same) && modified == entry.mtime && !is_unknown
        };
        Ok(match overwrite {
            Overwrite::Never => Some(Put::Kept),
            // when it was changed may not be known: it may be newer
            Overwrite::IfNewer => (is_unknown || modified >= entry.mtime).then_some(Put::Kept),
            Overwrite::IfChanged => is_untouched().then_some(Put::Kept),
            Overwrite::Always => None,
        })
    }

    /// Tells whether what is there is what is to be put, byte for byte, where that counts.
    fn is_equal(&self, wanted: &Wanted, content: &Spooled) -> Result<bool, TargetError> {
        let Some(there) = self.existing.get(&wanted.name) else { return Ok(false) };
        let counts = matches!(self.target.options.overwrite, Overwrite::IfChanged | Overwrite::Always);
        let is_of_language = match wanted.kind {
            WantedKind::Notebook(_, language) => Language::parse(there.language.as_deref()) == language,
            WantedKind::File => true,
        };
        if !counts || there.object_type != wanted.kind.object_type() || !is_of_language {
            return Ok(false);
        }
        self.has_content(wanted, content)
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
        if matches!((wanted.kind, &content), (WantedKind::Notebook(..), Spooled::Local(..))) {
            return Err(refused("import", &path, "it is larger than any notebook can be"));
        }
        let Some(there) = self.existing.get(&wanted.name) else {
            return self.import_over(wanted, content, Over::Nothing);
        };
        // an archive replaces nothing by itself, and nothing replaces what is of another kind
        let is_archive = matches!(wanted.kind, WantedKind::Notebook(NotebookFormat::Dbc, _));
        if there.object_type == wanted.kind.object_type() && !is_archive {
            return self.import_over(wanted, content, Over::WhatIsThere);
        }
        let saved = self.save(there)?;
        let workspace = &self.target.workspace;
        let put_back = |error: TargetError| {
            let back = match self.import_over(&saved.0, Spooled::Memory(saved.1.clone()), Over::WhatWasDeleted) {
                Ok(()) if saved.0.kind == WantedKind::File => "what was there was put back".to_owned(),
                Ok(()) => "the source of what was there was put back".to_owned(),
                Err(lost) => format!("what was there was deleted, and could not be put back ({lost})"),
            };
            let why = format!("{back}; it failed because: {}", error.source);
            // that is told, whatever else ends
            TargetError { kind: TargetErrorKind::Other, source: why.into(), ..error }
        };
        match workspace.wait(change::delete(workspace.client(), &path)) {
            // an answer may have been lost after which it was asked for again
            Err(error) if error.kind.refusal().is_some_and(Refusal::is_absent) => {}
            Err(error) => {
                let is_refused = error.kind.refusal().is_some_and(|refusal| (400..500).contains(&refusal.status));
                let error = failure("delete what is in the place of", &path, error);
                return Err(if is_refused { error } else { put_back(error) });
            }
            Ok(()) => {}
        }
        self.import_over(wanted, content, Over::WhatWasDeleted).map_err(put_back)
    }

    /// Takes what is about to be deleted out of the workspace, so that it can be put back.
    fn save(&self, there: &Object) -> Result<(Wanted, Bytes), TargetError> {
        let path = self.path_of(there.name());
        let kind = match there.kind() {
            ObjectKind::Notebook => {
                WantedKind::Notebook(NotebookFormat::Source, Language::parse(there.language.as_deref()))
            }
            _ => WantedKind::File,
        };
        let format = if kind == WantedKind::File { "AUTO" } else { "SOURCE" };
        let workspace = &self.target.workspace;
        let saved = workspace.wait(api::export(workspace.client(), &path, format, true));
        let saved = saved.map_err(|error| failure("keep what is in the place of", &path, error))?;
        Ok((Wanted { name: there.name().to_owned(), kind }, saved))
    }

    fn import_over(&self, wanted: &Wanted, content: Spooled, over: Over) -> Result<(), TargetError> {
        let path = self.path_of(&wanted.name);
        let workspace = &self.target.workspace;
        let (overwrite, until_done) = (over == Over::WhatIsThere, over == Over::WhatWasDeleted);
        let import = |format, language| Import { path: &path, format, language, overwrite, until_done };
        let (sent, length) = (content.in_memory(), content.length());
        let result = match (wanted.kind, content) {
            (WantedKind::Notebook(format, language), Spooled::Memory(bytes)) => {
                let language = (format == NotebookFormat::Source).then(|| language.as_str());
                workspace.wait(change::import(workspace.client(), &import(format.as_str(), language), &bytes))
            }
            // a file that looks like a notebook would become one
            (WantedKind::File, Spooled::Memory(bytes))
                if looks_like_notebook(&wanted.name, &bytes) && bytes.len() as u64 <= IMPORT_MAX_BYTES =>
            {
                workspace.wait(change::import(workspace.client(), &import("RAW", None), &bytes))
            }
            (_, content) => {
                workspace.wait(change::import_file(workspace.client(), &import("AUTO", None), content.into_body()))
            }
        };
        match result {
            // an answer may have been lost after which the same was sent again
            Err(error) if !overwrite && error.kind.refusal().is_some_and(Refusal::is_taken) => {
                let is_it = match sent {
                    Some(sent) => self.has_content(wanted, &Spooled::Memory(sent))?,
                    None => {
                        let there = workspace.wait(api::look_at(workspace.client(), &path));
                        there.is_ok_and(|there| there.size == Some(length))
                    }
                };
                if is_it { Ok(()) } else { Err(failure("import", &path, error)) }
            }
            result => result.map_err(|error| failure("import", &path, error)),
        }
    }

    /// Lists the folder once more: what is not there as it was put is told.
    fn look_again(&self) -> Result<BTreeMap<String, Object>, TargetError> {
        let shown = shown(&self.place);
        let workspace = &self.target.workspace;
        let listed = workspace.wait(api::list(workspace.client(), shown));
        let objects = listed.map_err(|error| failure("list", shown, error))?;
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

/// Returns a folder's path as people and calls write it.
fn shown(place: &str) -> &str {
    if place.is_empty() { "/" } else { place }
}

impl TargetDir for FolderTarget {
    fn put(&self, entry: &Entry, content: &dyn FileContent, beside: &dyn Beside) -> Result<Put, TargetError> {
        let shown = self.path_of(&name_of(&entry.name)?);
        if entry.kind != EntryKind::File {
            return Err(refused("import", &shown, format!("a workspace has no {}", entry.kind.as_str())));
        }
        let failed = |error| local("read", &shown, error);
        // of what a workspace has said what it is nothing need be read to know where it goes
        let mut wanted = Wanted::of(entry, || Ok(Vec::new())).map_err(failed)?;
        if self.comes_otherwise(&wanted, entry, beside).map_err(failed)? {
            return Ok(Put::LeftOut);
        }
        if is_of_workspace(entry)
            && let Some(put) = self.decide(&wanted, entry)?
        {
            return Ok(put);
        }
        let spooled = Spooled::of(entry.size, content).map_err(failed)?;
        if !is_of_workspace(entry) {
            wanted = Wanted::of(entry, || spooled.beginning()).map_err(failed)?;
            if let Some(put) = self.decide(&wanted, entry)? {
                return Ok(put);
            }
        }
        if !self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.name.clone()) {
            return Err(refused("import", &shown, format!("another entry became `{}` already", wanted.name)));
        }
        if self.is_equal(&wanted, &spooled)? {
            return Ok(Put::Kept);
        }
        let put = if self.existing.contains_key(&wanted.name) { Put::Replaced } else { Put::Created };
        if !self.target.options.dry_run {
            let length = spooled.length();
            self.import(&wanted, spooled)?;
            self.put.lock().unwrap_or_else(PoisonError::into_inner).push((wanted, length));
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
        for (wanted, length) in put {
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
                Some(there) if wanted.kind == WantedKind::File && there.size.is_some_and(|size| size != length) => {
                    errors.push(refused("import", &path, format!("{length} bytes were sent, and it has others now")));
                }
                Some(there) if self.is_untouched(there) => {
                    errors.push(refused("import", &path, "it was sent, and what was there is there still"));
                }
                Some(there) => {
                    let list = permissions.objects.get(&wanted.name).filter(|list| *list != &serde_json::json!([]));
                    errors.extend(list.and_then(|list| set(&self.target, there, &path, list).err()));
                }
            }
        }
        errors
    }
}
