//! `Reader`: a restore, or anything else that reads what a snapshot needs.
//!
//! It reads beside everybody and registers nowhere. Where it finds a pack gone, or the chunk in no pack, it folds what was
//! published meanwhile. It fails only if a whole fold brought nothing new.

use crate::action::{Action, ReaderMove};
use crate::listing::{Listing, Look};
use crate::protocol::Protocol;
use crate::rules::Breakage;
use crate::set::Set;
use crate::state::State;

/// The segments that it has folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Index {
    described: Set,
    removed: Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reader {
    Idle,
    /// Segments are being listed. `began`: what was published when that began.
    Folding {
        snapshot: u8,
        index: Index,
        began: Index,
    },
    /// It knows where the chunk lies, as far as it has folded.
    Planned {
        snapshot: u8,
        index: Index,
    },
    Done,
    Failed {
        snapshot: u8,
    },
}

fn published(state: &State) -> Index {
    Index { described: state.packs.described, removed: state.packs.removed }
}

/// Adds what the reader may do next.
pub(crate) fn moves(state: &State, actions: &mut Vec<Action>) {
    let mut may = |what| actions.push(Action::Reader(what));
    match state.reader {
        Reader::Idle => {
            let shown = state.snapshots.wanted().minus(state.snapshots.with_mark(|mark| mark.hides()));
            shown.iter().for_each(|snapshot| may(ReaderMove::Choose(snapshot)));
        }
        Reader::Folding { began, .. } => {
            let now = published(state);
            let found = |began, now| {
                let look = |there| Look { there, gone: Set::EMPTY };
                Listing::begin(look(began)).results(look(now))
            };
            for described in found(began.described, now.described) {
                for removed in found(began.removed, now.removed) {
                    may(ReaderMove::Folded { described, removed });
                }
            }
        }
        Reader::Planned { index, .. } => {
            let places = index.described.minus(index.removed);
            places.iter().for_each(|pack| may(ReaderMove::Read(pack)));
        }
        Reader::Done | Reader::Failed { .. } => {}
    }
}

/// Does it.
pub(crate) fn go(protocol: &Protocol, state: &mut State, what: ReaderMove) {
    let fold = |snapshot, index| Reader::Folding { snapshot, index, began: published(state) };
    state.reader = match (state.reader, what) {
        (_, ReaderMove::Choose(snapshot)) => fold(snapshot, Index::default()),
        (Reader::Folding { snapshot, index, .. }, ReaderMove::Folded { described, removed }) => {
            let folded = Index { described: index.described.or(described), removed: index.removed.or(removed) };
            if !folded.described.minus(folded.removed).is_empty() && folded != index {
                Reader::Planned { snapshot, index: folded }
            } else if folded != index && !protocol.breaks(Breakage::ReaderFoldsOnce) {
                fold(snapshot, folded)
            } else {
                Reader::Failed { snapshot }
            }
        }
        (Reader::Planned { snapshot, index }, ReaderMove::Read(pack)) => match state.packs.stored.contains(pack) {
            true => Reader::Done,
            false => fold(snapshot, index),
        },
        (reader, _) => reader,
    };
}
