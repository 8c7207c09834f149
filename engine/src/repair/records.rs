//! Records that cannot be read: what becomes of each.

use std::collections::{BTreeMap, HashSet};

use lakebed_core::codec::frame::{FrameHeader, FrameKind};
use lakebed_core::id::{KeySlotId, SessionId, SnapshotId};
use lakebed_core::layout;
use lakebed_core::process::Fate;
use lakebed_core::record::gc::{Claim, Done};
use lakebed_core::storage::ObjectKey;

use super::{Action, Affected, HeldBack, Remedy};
use crate::check::Records;
use crate::error::{Error, Result};
use crate::repository::{Repository, SessionHandle};

/// What is planned for records.
#[derive(Default)]
pub(super) struct RecordPlan {
    pub(super) actions: Vec<Action>,
    pub(super) held_back: Vec<HeldBack>,
    /// Segments that cannot be read: [`super::packs`] sees to them.
    pub(super) segments: Vec<(ObjectKey, String)>,
    /// Tombstones that are put aside.
    pub(super) tombstones: HashSet<ObjectKey>,
    /// It is not known which packs are condemned: nobody may build upon any.
    pub(super) condemned_unknown: bool,
}

impl RecordPlan {
    fn act(&mut self, remedy: Remedy, problem: &str) {
        self.actions.push(Action::new(remedy, problem));
    }

    fn hold_back(&mut self, object: ObjectKey, problem: String, advice: &str) {
        self.held_back.push(HeldBack { object, problem, advice: advice.into() });
    }
}

const NEWER: &str = "a newer lakebed seems to have written it: update lakebed on this machine. If it is only damaged, \
    --force puts it aside";

/// What a seal holds was written so: no damage makes a record newer.
const NEWER_FOR_SURE: &str = "a newer lakebed has written it: update lakebed on this machine";

/// Says what is to be done about every object that is no pack and cannot be read.
///
/// # Errors
/// A segment was written by a newer lakebed; something could not be looked at.
pub(super) fn plan(repository: &Repository, records: &mut Records, force: bool) -> Result<RecordPlan> {
    let mut plan = RecordPlan::default();
    let mut generations = Generations::default();
    for (key, error) in std::mem::take(&mut records.damaged) {
        let problem = crate::error_chain(&error);
        let folder = key.as_str().split_inclusive('/').next().unwrap_or_default();
        if error.is_newer() && folder == layout::INDEX {
            return Err(error);
        }
        let is_sealed = matches!(error, Error::Record { .. });
        if error.is_newer() && (!force || is_sealed) {
            plan.condemned_unknown |= is_condemnation(&key);
            plan.hold_back(key, problem, if is_sealed { NEWER_FOR_SURE } else { NEWER });
            continue;
        }
        let id = key.as_str().split('/').nth(1).and_then(|id| id.parse::<SessionId>().ok());
        match (folder, id) {
            (layout::INDEX, _) => plan.segments.push((key, problem)),
            (layout::SNAPSHOTS, Some(id)) => {
                let mut action = Action::new(Remedy::Close(id), problem);
                if may_be_snapshot(repository, &key)? {
                    action.affected.push(Affected { snapshot: id, path: String::new() });
                }
                plan.actions.push(action);
            }
            (layout::SESSIONS, Some(id)) => {
                let can_go = records.sessions.contains(&id) || records.listed.contains(&layout::snapshot(id));
                let remedy = if can_go { Remedy::PutAside(key) } else { Remedy::Expire(key) };
                plan.act(remedy, &problem);
            }
            (layout::FORGOTTEN, _) if layout::last_part(&key) == "resolution" => {
                plan.tombstones.extend(tombstone_of(&key));
                plan.act(Remedy::Show(key), &problem);
            }
            (layout::FORGOTTEN, _) => {
                plan.tombstones.insert(key.clone());
                plan.act(Remedy::PutAside(key), &problem);
            }
            (layout::KEYS, _) if !has_other_slot(repository, &key)? => {
                let advice = "it is the only key slot: put it back from a copy of the repository; `lakebed key add` makes \
                    another one as long as this one opens";
                plan.hold_back(key, problem, advice);
            }
            (layout::GC, _) => match generations.of(repository, &key)?.may_lose(&key, force) {
                true => plan.act(Remedy::PutAside(key), &problem),
                false => {
                    plan.condemned_unknown |= is_condemnation(&key);
                    let advice = "the prune that wrote it is not certainly over: end it, or let `lakebed prune` finish \
                        what it began, and repair again. --force puts it aside; then run `lakebed prune`, which finishes \
                        what it began";
                    plan.hold_back(key, problem, advice);
                }
            },
            _ if key.as_str() == layout::CONFIG => {
                let advice = "put `lakebed.json` back from a copy of the repository: it never changes";
                plan.hold_back(key, problem, advice);
            }
            _ => plan.act(Remedy::PutAside(key), &problem),
        }
    }
    close_what_was_left_open(records, &mut plan);
    Ok(plan)
}

/// Tells whether a record that cannot be read may have been a snapshot's: its clear header may say that it was an expiry.
fn may_be_snapshot(repository: &Repository, key: &ObjectKey) -> Result<bool> {
    let bytes = readable(repository.store().storage().get(key).map_err(Error::from))?.unwrap_or_default();
    Ok(FrameHeader::decode(&bytes).map_or(true, |header| header.kind != FrameKind::Expiry))
}

/// A repair that was cut off may have moved a snapshot's record away and put nothing in its place yet.
fn close_what_was_left_open(records: &Records, plan: &mut RecordPlan) {
    let prefix = format!("{}{}", layout::QUARANTINE, layout::SNAPSHOTS);
    let listed: HashSet<&ObjectKey> = records.listed.iter().collect();
    let moved = records.listed.iter().filter_map(|key| key.as_str().strip_prefix(&prefix)?.parse::<SnapshotId>().ok());
    for id in moved.filter(|id| !listed.contains(&layout::snapshot(*id))) {
        plan.act(Remedy::Close(id), "a repair that moved it to quarantine was cut off");
    }
}

fn has_other_slot(repository: &Repository, key: &ObjectKey) -> Result<bool> {
    match layout::last_part(key).parse::<KeySlotId>() {
        Ok(id) => repository.has_other_slot(id),
        // no name of a slot: whatever it is, the slot that opened the repository is another one
        Err(_) => Ok(true),
    }
}

/// Returns the tombstone that a resolution ends.
fn tombstone_of(resolution: &ObjectKey) -> Option<ObjectKey> {
    ObjectKey::new(format!("{}tombstone", resolution.as_str().strip_suffix("resolution")?))
}

fn is_condemnation(key: &ObjectKey) -> bool {
    key.as_str().starts_with(layout::GC) && key.as_str().split('/').nth(2) == Some("condemned")
}

/// What is known of the prune of a generation.
#[derive(Clone, Copy)]
struct Prune {
    is_done: bool,
    is_dead: bool,
}

impl Prune {
    /// Tells whether a damaged object of its generation may go. A done mark may: the next prune finds that there is nothing
    /// left to do, and puts another one.
    fn may_lose(self, key: &ObjectKey, force: bool) -> bool {
        self.is_done || self.is_dead || force || layout::last_part(key) == "done"
    }
}

/// Prunes by generation, each looked at once.
#[derive(Default)]
struct Generations(BTreeMap<u64, Prune>);

impl Generations {
    fn of(&mut self, repository: &Repository, key: &ObjectKey) -> Result<Prune> {
        let number = key.as_str().split('/').nth(1).and_then(|number| u64::from_str_radix(number, 16).ok());
        // what is not of ours keeps nobody waiting
        let Some(number) = number else { return Ok(Prune { is_done: true, is_dead: true }) };
        if let Some(prune) = self.0.get(&number) {
            return Ok(*prune);
        }
        let store = repository.store();
        let is_done = readable(store.read_record::<Done>(&layout::done(number)))?.is_some();
        let claim = readable(store.read_record::<Claim>(&layout::claim(number)))?;
        let is_dead = claim.is_some_and(|claim| repository.processes().fate(&claim.process) == Fate::Dead);
        let prune = Prune { is_done, is_dead };
        self.0.insert(number, prune);
        Ok(prune)
    }
}

/// Keeps what cannot be looked at apart from what is not there or damaged.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.keeps_from_looking() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Tells whether an object is there and still cannot be read.
fn is_damaged(repository: &Repository, key: &ObjectKey) -> Result<bool> {
    match Records::check_one(repository, key) {
        Ok(()) => Ok(false),
        Err(Error::Storage(error)) if error.is_not_found() => Ok(false),
        Err(error) if error.keeps_from_looking() => Err(error),
        Err(_) => Ok(true),
    }
}

/// Carries out what is planned for a record. What can be read by now, or is gone, is left alone.
pub(super) fn apply(repository: &Repository, session: &SessionHandle, remedy: &Remedy) -> Result<()> {
    let store = repository.store();
    let put_aside = |key: &ObjectKey| match is_damaged(repository, key)? {
        true => store.put_aside(key),
        false => Ok(()),
    };
    let expire = |id| repository.expire_session(id, session.id(), "its record was damaged").map(drop);
    match remedy {
        Remedy::PutAside(key) => put_aside(key),
        Remedy::Close(id) => {
            put_aside(&layout::snapshot(*id))?;
            match store.storage().size(&layout::snapshot(*id)) {
                Err(error) if error.is_not_found() => {
                    expire(*id)?;
                    repository.drop_from_catalogues(*id)
                }
                result => result.map(drop).map_err(Error::from),
            }
        }
        Remedy::Expire(key) => {
            let id = key.as_str().split('/').nth(1).and_then(|id| id.parse::<SessionId>().ok());
            if let Some(id) = id
                && is_damaged(repository, key)?
            {
                // its records are deleted once it is expired: they go aside first
                for object in store.storage().list(&format!("{}{id}/", layout::SESSIONS))? {
                    store.copy_aside(&object.key)?;
                }
                store.storage().sync()?;
                expire(id)?;
            }
            Ok(())
        }
        Remedy::Show(key) => {
            if !is_damaged(repository, key)? {
                return Ok(());
            }
            // in this order: as long as the resolution cannot be read the snapshot is shown, without it it would not be
            if let Some(tombstone) = tombstone_of(key)
                && store.storage().size(&tombstone).is_ok()
            {
                store.put_aside(&tombstone)?;
                store.storage().sync()?;
            }
            put_aside(key)
        }
        Remedy::Describe { .. } | Remedy::Salvage { .. } | Remedy::Drop(_) | Remedy::Derive { .. } => Ok(()),
    }
}
