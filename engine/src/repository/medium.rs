//! What the medium of a repository can do, where that is not known from its kind: it was tried, and that is recorded in
//! the repository, for that one place. A repository that was moved elsewhere is tried again there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lakebed_core::id::{ID_LEN, to_hex};
use lakebed_core::layout;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::storage_probe::StorageProbe;
use lakebed_core::storage::{Promise, Storage, StorageErrorKind};

use super::Repository;
use crate::error::{Error, Result};
use crate::storage::CarefulStorage;
use crate::storage::probe::{Findings, probe};

/// What is known of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Medium {
    put_if_absent: bool,
    consistent_listing: bool,
}

impl Medium {
    /// Everything is as it should be.
    const STRICT: Self = Self { put_if_absent: true, consistent_listing: true };

    /// What no store does, as a file has it.
    fn describe(self) -> &'static str {
        match (self.put_if_absent, self.consistent_listing) {
            (true, true) => "strict\n",
            (false, true) => "replaces\n",
            (true, false) => "lists late\n",
            (false, false) => "replaces, lists late\n",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [(true, true), (false, true), (true, false), (false, false)];
        let all = all.map(|(put_if_absent, consistent_listing)| Self { put_if_absent, consistent_listing });
        all.into_iter().find(|medium| medium.describe() == text)
    }

    /// What is wanting, in words.
    fn lacks(self) -> &'static str {
        match (self.put_if_absent, self.consistent_listing) {
            (false, true) => "it replaces what has a name when another thing is put under it",
            (true, false) => "it does not list at once what was put",
            _ => {
                "it replaces what has a name when another thing is put under it, and does not list at once what was put"
            }
        }
    }
}

/// Tells whether all that this medium can do is known from its kind.
fn is_known(storage: &dyn Storage) -> bool {
    let capabilities = storage.capabilities();
    capabilities.put_if_absent != Promise::Unproven && capabilities.consistent_listing != Promise::Unproven
}

fn place(storage: &dyn Storage) -> [u8; ID_LEN] {
    *lakebed_core::hash::object_hash(storage.identity().as_bytes()).as_bytes()
}

/// Returns what the keys of the probes of a medium begin with.
pub(super) fn probes_of(storage: &dyn Storage) -> String {
    layout::storage_probes(&place(storage))
}

/// What this machine remembers of a place: the repository need not be asked then.
fn memory(cache: Option<&Path>, place: &[u8; ID_LEN]) -> Option<PathBuf> {
    cache.map(|cache| cache.join("storage").join(to_hex(place)))
}

fn remember(cache: Option<&Path>, place: &[u8; ID_LEN], medium: Medium) {
    // a cache that cannot be written remembers nothing, and that is all
    if let Some(file) = memory(cache, place)
        && let Some(folder) = file.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        let _ = std::fs::write(file, medium.describe());
    }
}

/// Tries a medium of which not everything is known from its kind, before anything is kept there.
///
/// # Errors
/// It cannot keep a repository; storage.
pub(super) fn check_fitness(
    storage: &dyn Storage,
    random: &dyn lakebed_core::time::Random,
) -> Result<Option<Findings>> {
    if is_known(storage) {
        return Ok(None);
    }
    let findings = probe(storage, random)?;
    match findings.can_keep_a_repository() {
        true => Ok(Some(findings)),
        false => Err(Error::UnfitStorage { location: storage.location() }),
    }
}

impl Repository {
    /// Finds out what the medium can do: by its kind, from what this machine remembers, from the record of an earlier
    /// probe, or by trying. Where a name that is taken is not refused, the storage looks before it puts from here on.
    pub(super) fn know_medium(mut self) -> Result<Self> {
        if is_known(&*self.bare) {
            let capabilities = self.bare.capabilities();
            self.medium = Medium {
                put_if_absent: capabilities.put_if_absent == Promise::Kept,
                consistent_listing: capabilities.consistent_listing == Promise::Kept,
            };
            return Ok(self);
        }
        let place = place(&*self.bare);
        let remembered = memory(self.cache.as_deref(), &place).and_then(|file| std::fs::read_to_string(file).ok());
        let medium = match remembered.and_then(|text| Medium::parse(&text)) {
            Some(medium) => medium,
            None => {
                let medium = match self.newest_probe(&place)? {
                    Some(medium) => medium,
                    None => self.probe_storage()?.0,
                };
                remember(self.cache.as_deref(), &place, medium);
                medium
            }
        };
        Ok(self.with_medium(medium))
    }

    fn with_medium(mut self, medium: Medium) -> Self {
        self.medium = medium;
        if !medium.put_if_absent {
            self.store = self.store.over(Arc::new(CarefulStorage::new(self.bare.clone())));
        }
        self
    }

    /// Returns what was recorded last of a place. A record that cannot be read is none: the place is tried again.
    fn newest_probe(&self, place: &[u8; ID_LEN]) -> Result<Option<Medium>> {
        let newest = self.store.storage().list(&layout::storage_probes(place))?.pop();
        let Some(newest) = newest else { return Ok(None) };
        match self.store.read_record::<StorageProbe>(&newest.key) {
            Ok(probe) => {
                Ok(Some(Medium { put_if_absent: probe.put_if_absent, consistent_listing: probe.listing_after_write }))
            }
            Err(Error::Storage(error)) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Tries the medium and records what was seen. Of a medium whose kind says all, what is seen is not recorded.
    ///
    /// # Errors
    /// Storage.
    pub fn probe_medium(&self) -> Result<Findings> {
        if is_known(&*self.bare) {
            return Ok(probe(&*self.bare, self.random())?);
        }
        let (medium, findings) = self.probe_storage()?;
        remember(self.cache.as_deref(), &place(&*self.bare), medium);
        Ok(findings)
    }

    fn probe_storage(&self) -> Result<(Medium, Findings)> {
        let findings = probe(&*self.bare, self.random())?;
        self.record_findings(&findings)
    }

    /// Records what was seen of the medium.
    pub(super) fn record_findings(&self, findings: &Findings) -> Result<(Medium, Findings)> {
        let storage = self.store.storage();
        let place = place(storage);
        let newest = storage.list(&layout::storage_probes(&place))?.pop();
        let newest = newest.and_then(|object| u32::from_str_radix(layout::last_part(&object.key), 16).ok());
        let number = newest.map_or(Some(0), |number| number.checked_add(1));
        let record = StorageProbe {
            version: RECORD_VERSION,
            time: self.clock().now(),
            place: storage.identity(),
            put_if_absent: findings.put_if_absent,
            listing_after_write: findings.listing_after_write,
            tool: concat!("lakebed ", env!("CARGO_PKG_VERSION")).into(),
            unknown: Default::default(),
        };
        if let Some(number) = number {
            match self.store.put_record(&layout::storage_probe(&place, number), &record, self.random()) {
                // somebody else has tried it at the same time
                Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {}
                result => drop(result?),
            }
        }
        let medium = Medium { put_if_absent: findings.put_if_absent, consistent_listing: findings.listing_after_write };
        Ok((medium, *findings))
    }

    /// Refuses what is only safe on this medium while nobody else works with the repository, unless somebody has seen to
    /// that.
    ///
    /// # Errors
    /// `NeedsExclusive`.
    pub(crate) fn check_exclusive(&self, what: &'static str, exclusive: bool) -> Result<()> {
        if exclusive || self.medium == Medium::STRICT {
            return Ok(());
        }
        let location = self.store.storage().location();
        Err(Error::NeedsExclusive { what, location, lacks: self.medium.lacks() })
    }
}

impl Default for Medium {
    fn default() -> Self {
        Self::STRICT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_read_as_it_was_written() {
        for put_if_absent in [true, false] {
            for consistent_listing in [true, false] {
                let medium = Medium { put_if_absent, consistent_listing };
                assert_eq!(Medium::parse(medium.describe()), Some(medium));
            }
        }
        assert_eq!(Medium::parse("stri"), None);
    }
}
