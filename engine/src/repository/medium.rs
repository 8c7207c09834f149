//! What the medium of a repository can do, where that is not known from its kind: it was tried, and that is recorded in
//! the repository, for that one place. A repository that was moved elsewhere is tried again there.

use std::sync::Arc;

use lakebed_core::id::ID_LEN;
use lakebed_core::layout;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::storage_probe::StorageProbe;
use lakebed_core::storage::{Promise, Storage, StorageErrorKind};

use super::{Repository, trust};
use crate::error::{Error, Result};
use crate::storage::probe::{Findings, probe};
use crate::storage::{CarefulStorage, Clause, ContractViolation, contract};

/// What is known of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Medium {
    /// A name that is taken is refused.
    put_if_absent: bool,
}

impl Default for Medium {
    fn default() -> Self {
        Self { put_if_absent: true }
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
            self.medium = Medium { put_if_absent: self.bare.capabilities().put_if_absent == Promise::Kept };
            return Ok(self);
        }
        let place = place(&*self.bare);
        let medium = match trust::known_medium(self.cache.as_deref(), &place) {
            Some(put_if_absent) => Medium { put_if_absent },
            None => {
                let medium = match self.newest_probe(&place)? {
                    Some(medium) => medium,
                    None => self.probe_storage()?.0,
                };
                trust::remember_medium(self.cache.as_deref(), &place, medium.put_if_absent);
                medium
            }
        };
        Ok(self.with_medium(medium))
    }

    fn with_medium(mut self, medium: Medium) -> Self {
        self.medium = medium;
        if !medium.put_if_absent {
            self.store = self.store.with_care(Arc::new(CarefulStorage::new(self.bare.clone())));
        }
        self
    }

    /// Returns what was recorded last of a place. A record that cannot be read is none: the place is tried again.
    fn newest_probe(&self, place: &[u8; ID_LEN]) -> Result<Option<Medium>> {
        let newest = self.store.storage().list(&layout::storage_probes(place))?.pop();
        let Some(newest) = newest else { return Ok(None) };
        match self.store.read_record::<StorageProbe>(&newest.key) {
            // a place that lists late is tried again: it cannot be used as it is
            Ok(probe) => Ok(probe.listing_after_write.then_some(Medium { put_if_absent: probe.put_if_absent })),
            Err(Error::Storage(error)) => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Tries the medium and records what was seen. Of a medium whose kind says all, what is seen is not recorded. With
    /// `thoroughly`, every rule that storage must keep is checked as well, with races of writers; the first that is broken
    /// is returned, and counts.
    ///
    /// # Errors
    /// Storage.
    pub fn probe_medium(&self, thoroughly: bool) -> Result<(Findings, Option<ContractViolation>)> {
        let mut findings = probe(&*self.bare, self.random())?;
        let broken = if thoroughly { contract::check(&*self.bare).err() } else { None };
        if broken.as_ref().is_some_and(|broken| matches!(broken.clause, Clause::NoOverwrite | Clause::OneWinner)) {
            findings.put_if_absent = false;
        }
        if !is_known(&*self.bare) {
            let (medium, _) = self.record_findings(&findings)?;
            trust::remember_medium(self.cache.as_deref(), &place(&*self.bare), medium.put_if_absent);
        }
        Ok((findings, broken))
    }

    fn probe_storage(&self) -> Result<(Medium, Findings)> {
        let findings = probe(&*self.bare, self.random())?;
        match findings.can_keep_a_repository() {
            true => self.record_findings(&findings),
            false => Err(Error::UnfitStorage { location: self.bare.location() }),
        }
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
        Ok((Medium { put_if_absent: findings.put_if_absent }, *findings))
    }

    /// Refuses what is only safe on this medium while nobody else works with the repository, unless somebody has seen to
    /// that.
    ///
    /// # Errors
    /// `NeedsExclusive`.
    pub(crate) fn check_exclusive(&self, what: &'static str, exclusive: bool) -> Result<()> {
        // what this machine remembers may be older than what somebody has found out since
        let knows_better = || match is_known(&*self.bare) {
            true => Ok(None),
            false => self.newest_probe(&place(&*self.bare)),
        };
        if exclusive || knows_better()?.unwrap_or(self.medium).put_if_absent {
            return Ok(());
        }
        Err(Error::NeedsExclusive { what, location: self.store.storage().location() })
    }
}
