//! `State`: everything in storage and what every actor remembers.

use crate::generation::Generation;
use crate::packs::{PRUNES, Packs, WRITERS};
use crate::protocol::Protocol;
use crate::prune::{self, Prune};
use crate::reader::Reader;
use crate::set::Set;
use crate::snapshots::Snapshots;
use crate::writer::{self, Writer};

/// How far an actor has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Progress<Step> {
    /// About to carry this step out, or in the middle of it.
    At(Step),
    /// It has done everything.
    Done,
    /// It found that it must not go on.
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    pub(crate) packs: Packs,
    pub(crate) snapshots: Snapshots,
    pub(crate) generations: [Generation; PRUNES],
    pub(crate) writers: [Writer; WRITERS],
    pub(crate) prunes: [Prune; PRUNES],
    pub(crate) reader: Reader,
}

impl State {
    /// Returns the packs in all lists of condemned packs.
    pub(crate) fn condemned(&self) -> Set {
        self.generations.iter().fold(Set::EMPTY, |all, generation| all.or(generation.condemned))
    }

    /// Joins states that differ only in what nobody can see or act upon any more, so that fewer are looked at.
    pub(crate) fn forget_what_makes_no_difference(&mut self, protocol: &Protocol) {
        // A pack that was deleted never comes back: whether somebody still has it on a list changes nothing.
        let gone = self.packs.deleted;
        for generation in &mut self.generations {
            generation.condemned = generation.condemned.minus(gone);
            if let Some(awaited) = &mut generation.awaited {
                awaited.packs = awaited.packs.minus(gone);
            }
        }
        self.writers.iter_mut().for_each(|writer| writer.memory.forget_packs(gone));
        self.prunes.iter_mut().for_each(|prune| prune.memory.forget_packs(gone));
        // A removal wins over every description. Only a reader that waits for news could tell.
        if !protocol.scope.reader {
            self.packs.described = self.packs.described.or(self.packs.removed);
        }
        let at_work = |prune: &&mut Prune| matches!(prune.at, Progress::At(_));
        for awaited in self.prunes.iter_mut().filter(at_work).filter_map(|prune| prune.awaited.as_mut()) {
            awaited.packs = awaited.packs.minus(gone);
        }
    }
}

impl writer::Memory {
    fn forget_packs(&mut self, gone: Set) {
        if let Self::Condemned(packs) = self {
            *packs = packs.minus(gone);
        }
    }
}

impl prune::Memory {
    fn forget_packs(&mut self, gone: Set) {
        match self {
            Self::Chosen { packs, left, .. } => {
                *packs = packs.minus(gone);
                *left = left.minus(gone);
            }
            Self::Sessions { packs, .. } | Self::CondemnedPacks(packs) => *packs = packs.minus(gone),
            _ => {}
        }
    }
}
