//! `Writer`: a backup, or anything else that adds to the repository.
//!
//! A writer that dies is one that never moves again: nothing obliges it to. If it has published its segments by then, it
//! has left a checkpoint. Who continues from one looks every chunk up, so that is no move of its own.

use lakebed_core::protocol::WriterStep;

use crate::action::{Action, WriterMove};
use crate::packs::pack_of_writer;
use crate::protocol::Protocol;
use crate::rules::Breakage;
use crate::set::Set;
use crate::snapshots::{Record, snapshot_of};
use crate::state::{Progress, State};

/// What a writer remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Memory {
    #[default]
    Nothing,
    /// Packs that are condemned.
    Condemned(Set),
    /// Packs that the index names and storage has.
    Folded(Set),
    /// Whether the chunk counts as present. In which pack makes no difference to what the writer does then.
    Looked { present: bool },
    /// The same, and a snapshot that the first half of the look for a parent has found.
    Candidate { present: bool, snapshot: u8 },
    /// The chunk was taken over from a parent.
    HasParent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Writer {
    pub(crate) at: Progress<WriterStep>,
    pub(crate) memory: Memory,
}

/// The steps in their order.
fn order(protocol: &Protocol) -> [WriterStep; 7] {
    use WriterStep::*;
    if protocol.breaks(Breakage::ParentBeforeRegister) {
        [ChooseParent, Register, ReadCondemned, FoldSegments, StorePacks, PublishSegments, Commit]
    } else if protocol.breaks(Breakage::CondemnedReadBeforeRegister) {
        [ReadCondemned, Register, FoldSegments, ChooseParent, StorePacks, PublishSegments, Commit]
    } else if protocol.breaks(Breakage::FoldedBeforeCondemnedRead) {
        [Register, FoldSegments, ReadCondemned, ChooseParent, StorePacks, PublishSegments, Commit]
    } else {
        [Register, ReadCondemned, FoldSegments, ChooseParent, StorePacks, PublishSegments, Commit]
    }
}

impl Writer {
    /// One that has nothing to do.
    pub(crate) const IDLE: Self = Self { at: Progress::Done, memory: Memory::Nothing };

    pub(crate) fn at_first(protocol: &Protocol) -> Self {
        Self { at: Progress::At(order(protocol)[0]), memory: Memory::Nothing }
    }

    /// Goes on to the step after this one.
    fn step(&mut self, protocol: &Protocol, from: WriterStep, memory: Memory) {
        let order = order(protocol);
        let next = order.iter().skip_while(|step| **step != from).nth(1);
        self.at = next.map_or(Progress::Done, |step| Progress::At(*step));
        self.memory = memory;
    }
}

/// Adds what a writer may do next.
pub(crate) fn moves(protocol: &Protocol, state: &State, number: usize, actions: &mut Vec<Action>) {
    let writer = &state.writers[number];
    let Progress::At(step) = writer.at else { return };
    let mut may = |what| actions.push(Action::Writer(number as u8, what));
    match (step, writer.memory) {
        // where it is not found, that is as if nobody had looked for it
        (WriterStep::ChooseParent, Memory::Candidate { snapshot, .. }) => {
            if is_found(protocol, state, snapshot, Half::Second) {
                may(WriterMove::TakeParent(snapshot));
            }
        }
        (WriterStep::ChooseParent, _) => {
            let others = (0..=protocol.scope.writers as u8).filter(|snapshot| *snapshot != snapshot_of(number));
            others
                .filter(|snapshot| is_found(protocol, state, *snapshot, Half::First))
                .for_each(|snapshot| may(WriterMove::Look(snapshot)));
            may(WriterMove::NoParent);
        }
        (WriterStep::StorePacks, Memory::Looked { present }) => {
            if present {
                may(WriterMove::CountAsPresent);
            }
            if protocol.breaks(Breakage::CheckpointTrusted) {
                let others = (0..protocol.scope.writers).filter(|other| *other != number);
                others
                    .filter(|other| has_checkpoint(state, *other))
                    .for_each(|other| may(WriterMove::TrustCheckpoint(other as u8)));
            }
            may(WriterMove::Store);
        }
        _ => may(WriterMove::Go),
    }
}

/// Looking for snapshots takes two listings: of the tombstones first, then of the snapshots, whose records are read.
#[derive(PartialEq)]
enum Half {
    First,
    Second,
}

fn is_found(protocol: &Protocol, state: &State, snapshot: u8, half: Half) -> bool {
    if (half == Half::First) == protocol.breaks(Breakage::RecordReadFirst) {
        state.snapshots.record(snapshot) == Record::Snapshot
    } else {
        !state.snapshots.mark(snapshot).hides()
    }
}

/// Tells whether a session that has not ended has published what it stored.
fn has_checkpoint(state: &State, writer: usize) -> bool {
    state.snapshots.look_at_sessions().there.contains(snapshot_of(writer))
        && state.packs.described.contains(pack_of_writer(writer))
}

/// Does it.
pub(crate) fn go(protocol: &Protocol, state: &mut State, number: usize, what: WriterMove) {
    let mut writer = state.writers[number];
    let Progress::At(step) = writer.at else { return };
    match step {
        WriterStep::Register => {
            state.snapshots.registered = state.snapshots.registered.with(snapshot_of(number));
            writer.step(protocol, step, writer.memory);
        }
        WriterStep::ReadCondemned => {
            let memory = read_condemned(writer.memory, state.condemned());
            writer.step(protocol, step, memory);
        }
        WriterStep::FoldSegments => {
            let memory = fold(protocol, writer.memory, state.packs.findable());
            writer.step(protocol, step, memory);
        }
        WriterStep::ChooseParent => match (what, writer.memory) {
            (WriterMove::Look(snapshot), Memory::Looked { present }) => {
                writer.memory = Memory::Candidate { present, snapshot };
            }
            (WriterMove::Look(snapshot), _) => writer.memory = Memory::Candidate { present: false, snapshot },
            (WriterMove::TakeParent(_), _) => writer.take_parent(protocol),
            (_, memory) => writer.step(protocol, step, memory),
        },
        WriterStep::StorePacks if what == WriterMove::Store => {
            state.packs.store(pack_of_writer(number));
            writer.step(protocol, step, Memory::Nothing);
        }
        // nothing stored, nothing to publish
        WriterStep::StorePacks => writer.step(protocol, WriterStep::PublishSegments, Memory::Nothing),
        WriterStep::PublishSegments => {
            state.packs.describe(pack_of_writer(number));
            writer.step(protocol, step, Memory::Nothing);
        }
        WriterStep::Commit => commit(protocol, state, number, &mut writer),
    }
    state.writers[number] = writer;
}

impl Writer {
    fn take_parent(&mut self, protocol: &Protocol) {
        match protocol.breaks(Breakage::ParentBeforeRegister) {
            true => self.step(protocol, WriterStep::ChooseParent, Memory::HasParent),
            // nothing stored, nothing to publish
            false => self.step(protocol, WriterStep::PublishSegments, Memory::Nothing),
        }
    }
}

fn read_condemned(memory: Memory, condemned: Set) -> Memory {
    match memory {
        Memory::HasParent => Memory::HasParent,
        Memory::Folded(folded) => Memory::Looked { present: !folded.minus(condemned).is_empty() },
        _ => Memory::Condemned(condemned),
    }
}

fn fold(protocol: &Protocol, memory: Memory, folded: Set) -> Memory {
    match memory {
        Memory::HasParent => Memory::HasParent,
        Memory::Condemned(condemned) => {
            let condemned = if protocol.breaks(Breakage::CondemnedCounted) { Set::EMPTY } else { condemned };
            Memory::Looked { present: !folded.minus(condemned).is_empty() }
        }
        _ => Memory::Folded(folded),
    }
}

fn commit(protocol: &Protocol, state: &mut State, number: usize, writer: &mut Writer) {
    let session = snapshot_of(number);
    if state.snapshots.is_free(session) || protocol.breaks(Breakage::ExpiryWithoutSharedKey) {
        state.snapshots.put(session, Record::Snapshot);
        writer.at = Progress::Done;
    } else {
        writer.at = Progress::Stopped;
    }
    state.snapshots.registered = state.snapshots.registered.without(session);
}
