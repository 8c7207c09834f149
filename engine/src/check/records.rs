//! Every object that is no pack: can it be read, and what do those that can say?

use std::collections::{BTreeMap, HashMap, HashSet};

use lakebed_core::codec::frame::FrameKind;
use lakebed_core::id::{CatalogueId, KeySlotId, LedgerId, PackId, SegmentId, SessionId, SnapshotId};
use lakebed_core::layout::{self, GcObject};
use lakebed_core::monitor::{Monitor, Progress};
use lakebed_core::pack::{decode_removal, decode_segment};
use lakebed_core::record::gc::{Awaited, Claim, Condemnation, Done, Resolution, Tombstone};
use lakebed_core::record::key_slot::KeySlot;
use lakebed_core::record::ledger::Ledger;
use lakebed_core::record::session::{Expiry, Run, Session};
use lakebed_core::record::snapshot::{Annotation, Snapshot};
use lakebed_core::record::storage_probe::StorageProbe;
use lakebed_core::record::{RECORD_VERSION, Record};
use lakebed_core::storage::{ObjectInfo, ObjectKey};
use lakebed_core::wire::DecodeError;

use crate::error::{Error, Result};
use crate::repository::{Outcome, Repository, parallel, read_catalogue, snapshot_of};

/// What the objects that are no packs say, and those that cannot be read.
pub(crate) struct Records {
    /// Key slots that are whole and of another key.
    pub(crate) foreign_slots: Vec<KeySlotId>,
    /// Every name in storage, packs and quarantine included.
    pub(crate) listed: Vec<ObjectKey>,
    /// What cannot be read, and why.
    pub(crate) damaged: Vec<(ObjectKey, Error)>,
    /// Every snapshot, forgotten or not.
    pub(crate) snapshots: Vec<(SnapshotId, Snapshot)>,
    /// Hash of the directory of each pack as the segments have it.
    pub(crate) described: HashMap<PackId, [u8; 32]>,
    /// Sessions of which a record can be read.
    pub(crate) sessions: HashSet<SessionId>,
    /// Joined from every ledger that can be read.
    pub(crate) ledger: Ledger,
    pub(crate) ledger_objects: Vec<ObjectKey>,
    /// Hash of each outcome of a session: of the record itself, and as each catalogue has it.
    outcomes: HashMap<SessionId, [u8; 32]>,
    catalogues: Vec<(ObjectKey, Vec<Hashed>)>,
}

/// A session, and the hash of its outcome.
type Hashed = (SessionId, [u8; 32]);

impl Default for Records {
    fn default() -> Self {
        Self {
            foreign_slots: Vec::new(),
            listed: Vec::new(),
            damaged: Vec::new(),
            snapshots: Vec::new(),
            described: HashMap::new(),
            sessions: HashSet::new(),
            ledger: Ledger { version: RECORD_VERSION, packs: BTreeMap::new(), unknown: Default::default() },
            ledger_objects: Vec::new(),
            outcomes: HashMap::new(),
            catalogues: Vec::new(),
        }
    }
}

/// So many objects, and bytes of them, are read before what they say is joined.
const OBJECTS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: u64 = 16 << 20;

/// Cuts a listing into what is read together. Packs are not read.
fn batches(mut objects: &[ObjectInfo]) -> Vec<&[ObjectInfo]> {
    let mut batches = Vec::new();
    while !objects.is_empty() {
        let mut bytes = 0;
        let fits = |object: &&ObjectInfo| {
            bytes += if object.key.as_str().starts_with(layout::PACKS) { 0 } else { object.size_bytes };
            bytes <= BYTES_AT_ONCE
        };
        let length = objects.iter().take(OBJECTS_AT_ONCE).take_while(fits).count().max(1);
        let (batch, rest) = objects.split_at(length);
        batches.push(batch);
        objects = rest;
    }
    batches
}

impl Records {
    /// Reads every object that is no pack, of all that were just listed.
    ///
    /// # Errors
    /// Something could not be looked at: that says nothing about what is there.
    pub(crate) fn read(repository: &Repository, objects: &[ObjectInfo], monitor: &dyn Monitor) -> Result<Self> {
        let mut records = Self::default();
        for objects in batches(objects) {
            if monitor.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let read = |object: &ObjectInfo| {
                let mut one = Self::default();
                let result = one.read_one(repository, &object.key);
                (one, result)
            };
            let read = parallel::each(repository.store(), objects, read);
            for (object, (one, result)) in objects.iter().zip(read) {
                records.join(one);
                match result {
                    Ok(()) => {}
                    // it went while we looked: a session ended, a snapshot was freed
                    Err(Error::Storage(error)) if error.is_not_found() => {}
                    Err(error) if error.keeps_from_looking() => return Err(error),
                    Err(error) => records.damaged.push((object.key.clone(), error)),
                }
                records.listed.push(object.key.clone());
                monitor.advance(Progress { entries: 1, bytes: object.size_bytes });
            }
        }
        records.compare_catalogues();
        for id in &records.foreign_slots {
            monitor.warn(&format!(
                "the key slot {} does not belong to this repository: an `init` that was cut off left it; \
                 `lakebed key remove {id}` takes it away",
                id.short()
            ));
        }
        Ok(records)
    }

    /// Adds what another object says.
    fn join(&mut self, one: Self) {
        let Self { foreign_slots, listed, damaged, snapshots, described, sessions, ledger, .. } = one;
        self.foreign_slots.extend(foreign_slots);
        self.listed.extend(listed);
        self.damaged.extend(damaged);
        self.snapshots.extend(snapshots);
        self.described.extend(described);
        self.sessions.extend(sessions);
        self.ledger.join(&ledger);
        self.ledger_objects.extend(one.ledger_objects);
        self.outcomes.extend(one.outcomes);
        self.catalogues.extend(one.catalogues);
    }

    /// Tells whether one object can be read. Packs, and what else is none of ours, are passed over.
    ///
    /// # Errors
    /// It is damaged, gone, or cannot be looked at.
    pub(crate) fn check_one(repository: &Repository, key: &ObjectKey) -> Result<()> {
        let mut records = Self::default();
        records.read_one(repository, key)?;
        // what a catalogue repeats
        for (id, _) in records.catalogues.iter().flat_map(|(_, entries)| entries.clone()).collect::<Vec<_>>() {
            match records.snapshot(repository, &layout::snapshot(id)) {
                Err(error) if error.keeps_from_looking() => return Err(error),
                // gone, or damaged: that is another matter
                _ => {}
            }
        }
        records.compare_catalogues();
        records.damaged.pop().map_or(Ok(()), |(_, error)| Err(error))
    }

    fn read_one(&mut self, repository: &Repository, key: &ObjectKey) -> Result<()> {
        let store = repository.store();
        let folder = key.as_str().split_inclusive('/').next().unwrap_or_default();
        match folder {
            layout::KEYS => {
                self.foreign_slots.extend(key_slot(repository, key)?);
                Ok(())
            }
            layout::INDEX => self.segment(repository, key),
            layout::SNAPSHOTS => self.snapshot(repository, key),
            layout::ANNOTATIONS => store.read_record::<Annotation>(key).map(drop),
            layout::SESSIONS => self.session(repository, key),
            layout::RUNS => store.read_record::<Run>(key).map(drop),
            layout::FORGOTTEN => match layout::last_part(key) {
                "tombstone" => store.read_record::<Tombstone>(key).map(drop),
                _ => store.read_record::<Resolution>(key).map(drop),
            },
            layout::GC => match layout::parse_gc(key) {
                Some((_, GcObject::Claim)) => store.read_record::<Claim>(key).map(drop),
                Some((_, GcObject::Condemnation(_))) => store.read_record::<Condemnation>(key).map(drop),
                Some((_, GcObject::Awaited)) => store.read_record::<Awaited>(key).map(drop),
                Some((_, GcObject::Done)) => store.read_record::<Done>(key).map(drop),
                None => Ok(()),
            },
            layout::LEDGER => self.ledger(repository, key),
            layout::CATALOGUE => self.catalogue(repository, key),
            layout::STORAGE => store.read_record::<StorageProbe>(key).map(drop),
            _ if key.as_str() == layout::CONFIG => repository.check_config(),
            // packs are looked at by themselves; what else lies here is none of ours
            _ => Ok(()),
        }
    }

    fn segment(&mut self, repository: &Repository, key: &ObjectKey) -> Result<()> {
        let Ok(id) = layout::last_part(key).parse::<SegmentId>() else { return Ok(()) };
        let store = repository.store();
        let kinds = [FrameKind::Segment, FrameKind::RemovalSegment];
        let (kind, plain) =
            store.with_scratch(|scratch| store.read_hashed(key, id.as_bytes(), &kinds, layout::INDEX, scratch))?;
        let record = |source| Error::Record { key: key.clone(), source };
        if kind == FrameKind::RemovalSegment {
            return decode_removal(&plain).map(drop).map_err(record);
        }
        for pack in decode_segment(&plain).map_err(record)? {
            let hash = *lakebed_core::hash::object_hash(&pack.directory.encode()).as_bytes();
            self.described.insert(pack.id, hash);
        }
        Ok(())
    }

    fn snapshot(&mut self, repository: &Repository, key: &ObjectKey) -> Result<()> {
        let Ok(id) = layout::last_part(key).parse::<SnapshotId>() else { return Ok(()) };
        let outcome = repository.store().read_kinds(key, &[FrameKind::Snapshot, FrameKind::Expiry])?;
        match snapshot_of(id, &outcome)? {
            Some(snapshot) => self.snapshots.push((id, snapshot)),
            None => {
                Expiry::decode(&outcome.1).map_err(|source| Error::Record { key: key.clone(), source })?;
            }
        }
        self.outcomes.insert(id, hash_of(&outcome));
        Ok(())
    }

    fn catalogue(&mut self, repository: &Repository, key: &ObjectKey) -> Result<()> {
        let Ok(id) = layout::last_part(key).parse::<CatalogueId>() else { return Ok(()) };
        let entries = read_catalogue(repository.store(), id)?;
        let hashes = entries.into_iter().map(|entry| (entry.id, hash_of(&(entry.kind, entry.record)))).collect();
        self.catalogues.push((key.clone(), hashes));
        Ok(())
    }

    /// Finds catalogues that say something else than the records that they repeat. What is gone, or damaged, is no matter.
    fn compare_catalogues(&mut self) {
        for (key, entries) in std::mem::take(&mut self.catalogues) {
            let differs = |(id, hash): &&Hashed| self.outcomes.get(id).is_some_and(|own| own != hash);
            if let Some((id, _)) = entries.iter().find(differs) {
                let why = format!("it says something else of the session {} than its own record", id.short());
                let source = DecodeError::invalid("catalogue", why);
                self.damaged.push((key.clone(), Error::Record { key, source }));
            }
        }
    }

    fn session(&mut self, repository: &Repository, key: &ObjectKey) -> Result<()> {
        repository.store().read_record::<Session>(key)?;
        self.sessions.extend(key.as_str().split('/').nth(1).and_then(|id| id.parse::<SessionId>().ok()));
        Ok(())
    }

    fn ledger(&mut self, repository: &Repository, key: &ObjectKey) -> Result<()> {
        let Ok(id) = layout::last_part(key).parse::<LedgerId>() else { return Ok(()) };
        // one that is damaged is replaced by the next ledger too
        self.ledger_objects.push(key.clone());
        let store = repository.store();
        let (_, plain) = store.with_scratch(|scratch| {
            store.read_hashed(key, id.as_bytes(), &[FrameKind::Ledger], layout::LEDGER, scratch)
        })?;
        self.ledger.join(&Ledger::decode(&plain).map_err(|source| Error::Record { key: key.clone(), source })?);
        Ok(())
    }
}

fn hash_of((kind, plain): &Outcome) -> [u8; 32] {
    *lakebed_core::hash::object_hash(&[&[kind.code()], &plain[..]].concat()).as_bytes()
}

/// Returns the slot if it is whole and of another key.
fn key_slot(repository: &Repository, key: &ObjectKey) -> Result<Option<KeySlotId>> {
    let invalid = |why: &str| lakebed_core::wire::DecodeError::invalid("key slot", why);
    let record = |source| Error::Record { key: key.clone(), source };
    let id: KeySlotId = layout::last_part(key).parse().map_err(|_| record(invalid("its name is no id")))?;
    let slot = KeySlot::decode(id, &repository.store().storage().get(key)?).map_err(record)?;
    Ok(slot.open_label(repository.store().keys()).is_err().then_some(id))
}
