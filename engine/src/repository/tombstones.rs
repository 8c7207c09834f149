//! Tombstones: that a snapshot was forgotten, and what became of that. The one place that reads and puts them.
//!
//! The tombstones of a snapshot are numbered, and the newest counts. It is undone and it is condemned by putting the same
//! key, so exactly one of the two happens. A condemned snapshot is gone for ever, whether or not its record is still there.

use std::collections::BTreeMap;

use lakebed_core::id::SnapshotId;
use lakebed_core::layout;
use lakebed_core::record::RECORD_VERSION;
use lakebed_core::record::gc::{Resolution, Tombstone, Verdict};
use lakebed_core::storage::{ObjectKey, StorageErrorKind};

use super::{Repository, parallel};
use crate::error::{Error, Result};

/// What became of a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TombstoneState {
    /// The snapshot is forgotten and can be brought back.
    Open,
    /// The snapshot was brought back.
    Undone,
    /// The snapshot is gone for ever.
    Condemned,
    /// The resolution cannot be read, so nobody can say which way it went: the snapshot is rather shown than hidden.
    Unreadable,
}

/// The newest tombstone of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewestTombstone {
    pub(crate) number: u32,
    pub(crate) state: TombstoneState,
}

impl NewestTombstone {
    /// Tells whether the snapshot is hidden.
    pub(crate) fn hides(&self) -> bool {
        matches!(self.state, TombstoneState::Open | TombstoneState::Condemned)
    }

    /// Returns the number of the next one of that snapshot.
    pub(crate) fn next(&self, id: SnapshotId) -> Result<u32> {
        let next = self.number.checked_add(1).filter(|&next| next < u32::MAX);
        next.ok_or_else(|| Error::NoNumberLeft { key: layout::tombstone(id, self.number) })
    }
}

/// Returns the snapshot and the number that an object under `forgotten/` belongs to, and whether it is a resolution.
/// The highest number of all is passed over: above each that counts there is room for another one.
fn parse_key(key: &ObjectKey) -> Option<(SnapshotId, u32, bool)> {
    let mut parts = key.as_str().split('/').skip(1);
    let id = parts.next()?.parse().ok()?;
    let number = u32::from_str_radix(parts.next()?, 16).ok().filter(|&number| number < u32::MAX)?;
    Some((id, number, parts.next()? == "resolution"))
}

impl Repository {
    /// Returns the newest tombstone of each snapshot that has one.
    ///
    /// # Errors
    /// Storage. A resolution that is damaged is none.
    pub(crate) fn tombstones(&self) -> Result<BTreeMap<SnapshotId, NewestTombstone>> {
        let mut newest: BTreeMap<SnapshotId, (u32, bool)> = BTreeMap::new();
        for object in self.store.storage().list(layout::FORGOTTEN)? {
            let Some((id, number, is_resolution)) = parse_key(&object.key) else { continue };
            let known = newest.entry(id).or_default();
            if number > known.0 {
                *known = (number, false);
            }
            known.1 |= number == known.0 && is_resolution;
        }
        let newest: Vec<(SnapshotId, (u32, bool))> = newest.into_iter().collect();
        let read = |&(id, (number, is_resolved)): &(SnapshotId, (u32, bool))| {
            let state = if is_resolved { self.read_resolution(id, number)? } else { TombstoneState::Open };
            Ok((id, NewestTombstone { number, state }))
        };
        parallel::each(&self.store, &newest, read).into_iter().collect()
    }

    fn read_resolution(&self, id: SnapshotId, number: u32) -> Result<TombstoneState> {
        match self.store.read_listed_record::<Resolution>(&layout::resolution(id, number)) {
            Ok(resolution) if resolution.verdict == Verdict::Undone => Ok(TombstoneState::Undone),
            Ok(_) => Ok(TombstoneState::Condemned),
            // only a prune deletes one, after it has condemned the snapshot and deleted its record
            Err(Error::Storage(error)) if error.is_not_found() => Ok(TombstoneState::Condemned),
            Err(Error::Storage(error)) => Err(error.into()),
            Err(_) => Ok(TombstoneState::Unreadable),
        }
    }

    /// Returns the snapshots that are forgotten. The value tells whether they were condemned.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn forgotten(&self) -> Result<BTreeMap<SnapshotId, bool>> {
        let hidden = self.tombstones()?.into_iter().filter(|(_, tombstone)| tombstone.hides());
        Ok(hidden.map(|(id, tombstone)| (id, tombstone.state == TombstoneState::Condemned)).collect())
    }

    /// Tells whether a snapshot is there and not forgotten, without trusting a listing for either.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn is_live(&self, id: SnapshotId) -> Result<bool> {
        let keys = [layout::snapshot(id), layout::tombstone(id, 0)];
        let is_there = |key: &ObjectKey| match self.store.storage().size(key) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(Error::from(error)),
        };
        let looked = parallel::each(&self.store, &keys, is_there).into_iter().collect::<Result<Vec<bool>>>()?;
        Ok(match looked[..] {
            [true, true] => !self.tombstones()?.get(&id).is_none_or(NewestTombstone::hides),
            [is_there, _] => is_there,
            _ => false,
        })
    }

    /// Reads a tombstone.
    ///
    /// # Errors
    /// It is not there, or damaged.
    pub(crate) fn read_tombstone(&self, id: SnapshotId, number: u32) -> Result<Tombstone> {
        self.store.read_record(&layout::tombstone(id, number))
    }

    /// Puts a tombstone; returns whether there was none of that number yet. It is durable after a sync.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn put_tombstone(&self, id: SnapshotId, number: u32, reason: &str) -> Result<bool> {
        let tombstone = Tombstone {
            version: RECORD_VERSION,
            time: self.clock().now(),
            reason: reason.into(),
            unknown: Default::default(),
        };
        match self.store.put_record(&layout::tombstone(id, number), &tombstone, self.random()) {
            Ok(_) => Ok(true),
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets snapshots, unless they are forgotten already. Their data stay until a prune has freed them.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn forget_all(&self, ids: &[SnapshotId], reason: &str) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let tombstones = self.tombstones()?;
        let forget = |&id: &SnapshotId| {
            let number = match tombstones.get(&id) {
                Some(newest) if newest.hides() => return Ok(()),
                Some(newest) => newest.next(id)?,
                None => 0,
            };
            // whoever has forgotten it at the same time has done so too
            self.put_tombstone(id, number, reason).map(drop)
        };
        parallel::each(&self.store, ids, forget).into_iter().collect::<Result<()>>()?;
        Ok(self.store.storage().sync()?)
    }

    /// Resolves a tombstone one way, unless it was resolved before; returns which way it went. It is durable after a sync.
    ///
    /// # Errors
    /// Storage; what was there before is damaged.
    pub(crate) fn resolve_tombstone(
        &self,
        id: SnapshotId,
        number: u32,
        verdict: Verdict,
        generation: Option<u64>,
    ) -> Result<Verdict> {
        let key = layout::resolution(id, number);
        let resolution = Resolution {
            version: RECORD_VERSION,
            time: self.clock().now(),
            verdict,
            generation,
            unknown: Default::default(),
        };
        match self.store.put_record(&key, &resolution, self.random()) {
            Ok(_) => Ok(verdict),
            Err(Error::Storage(error)) if error.kind == StorageErrorKind::AlreadyExists => {
                Ok(self.store.read_record::<Resolution>(&key)?.verdict)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_tombstones_and_resolutions_count() {
        let id = SnapshotId::new([7; 32]);
        assert_eq!(parse_key(&layout::tombstone(id, 3)), Some((id, 3, false)));
        assert_eq!(parse_key(&layout::resolution(id, 0xff)), Some((id, 0xff, true)));
        for other in [
            format!("forgotten/{id}"),
            format!("forgotten/{id}/00000001"),
            format!("forgotten/{id}/ffffffff/tombstone"),
            format!("forgotten/{id}/1ffffffff/tombstone"),
            "forgotten/abc/00000001/tombstone".into(),
        ] {
            assert_eq!(parse_key(&ObjectKey::new(other).unwrap()), None);
        }
    }
}
