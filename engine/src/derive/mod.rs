//! Snapshots that are made of other snapshots: by a rewrite, by a repair.
//!
//! A derived snapshot is committed as every other one is, in a session of its own and in the order of
//! [`WriterStep`]. It says what its original says, names it in `original`, and its tree is the original's but for what
//! was left out ([`tree`]). What it takes over needs no looking up: the original is chosen after the session was
//! registered and is not forgotten, so a prune that condemns anything from then on keeps what it needs.

mod session;
mod tree;

use std::collections::HashSet;
use std::sync::Arc;

use lakebed_core::codec::compress::Compression;
use lakebed_core::id::SnapshotId;
use lakebed_core::monitor::Monitor;
use lakebed_core::protocol::WriterStep;
use lakebed_core::record::session::Outcome;
use lakebed_core::record::snapshot::{Original, Snapshot, Summary};

use crate::error::{Error, Result};
use crate::index::Index;
use crate::repository::{BlobReader, ChunkStore, Repository, SessionHandle, SnapshotInfo};

pub(crate) use session::{Author, Ended, in_session};
pub(crate) use tree::{Edit, Edited, NodeNames, Totals, edit};

/// What a derivation came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Derived {
    /// There was nothing to leave out, or nothing would be left.
    Nothing,
    /// There was such a snapshot already: a run before this one was cut off after it had committed.
    Present(SnapshotInfo),
    /// It was committed, and is durable.
    Committed(SnapshotInfo),
}

/// Makes snapshots of others, one after the other, with one open index.
pub(crate) struct Deriver<'a> {
    repository: &'a Repository,
    author: Author<'a>,
    reader: BlobReader,
    monitor: &'a dyn Monitor,
}

impl<'a> Deriver<'a> {
    /// Opens the index. Nothing is written before [`Deriver::derive`].
    pub(crate) fn new(repository: &'a Repository, author: Author<'a>, monitor: &'a dyn Monitor) -> Result<Self> {
        Ok(Self { repository, author, reader: repository.bare_reader(monitor)?, monitor })
    }

    /// Returns what snapshots are read with.
    pub(crate) fn reader(&self) -> &BlobReader {
        &self.reader
    }

    /// Tells what an edit would come to, and writes nothing.
    pub(crate) fn try_out(&self, snapshot: &Snapshot, change: &mut dyn Edit) -> Result<Edited> {
        let mut names = NodeNames::new(self.reader.store().keys());
        edit(&self.reader, snapshot.root, change, &mut names, self.monitor)
    }

    /// Makes a snapshot of another one.
    ///
    /// # Errors
    /// `NoSnapshot` where the original is forgotten or gone; storage; a node that the edit does not do without.
    pub(crate) fn derive(&self, original: SnapshotId, change: &mut dyn Edit) -> Result<Derived> {
        let work = |session: &SessionHandle| self.commit(session, original, change);
        in_session(self.repository, self.author, self.monitor, work).map(|(derived, _)| derived)
    }

    fn commit(&self, session: &SessionHandle, original: SnapshotId, change: &mut dyn Edit) -> Result<(Derived, Ended)> {
        let (repository, monitor) = (self.repository, self.monitor);
        monitor.step(WriterStep::ReadCondemned.into());
        let condemned = repository.condemned_packs()?;
        monitor.step(WriterStep::FoldSegments.into());
        let index = self.reader.index();
        index.fold_new(repository.store(), monitor).map_err(Error::from)?;
        // what is condemned is still read; new nodes are not found in it
        index.check_packs(&repository.store().list_packs()?, &HashSet::new());
        monitor.step(WriterStep::ChooseParent.into());
        let catalogue = repository.catalogue()?;
        let gone = || Error::NoSnapshot { selector: original.to_string() };
        let info = catalogue.snapshots.iter().find(|info| info.id == original).ok_or_else(gone)?;
        // it may have been committed since the index was folded
        index.fold_new(repository.store(), monitor).map_err(Error::from)?;

        monitor.step(WriterStep::StorePacks.into());
        let chunks = self.chunk_store(session, condemned)?;
        let edited = edit(&self.reader, info.snapshot.root, change, &mut chunks.node_sink(), monitor)?;
        let ended = |outcome| Ended { outcome, summary: Summary::default() };
        if edited.root == info.snapshot.root || edited.totals.is_empty() {
            return Ok((Derived::Nothing, ended(Outcome::Unchanged)));
        }
        let same = |other: &&SnapshotInfo| self.is_of(&other.snapshot, original) && other.snapshot.root == edited.root;
        if let Some(present) = catalogue.snapshots.iter().find(same) {
            return Ok((Derived::Present(present.clone()), ended(Outcome::Unchanged)));
        }
        monitor.step(WriterStep::PublishSegments.into());
        chunks.publish()?;
        let mut snapshot = self.record(session, info, &edited, &chunks);
        change.describe(&mut snapshot);
        monitor.step(WriterStep::Commit.into());
        let size = session.commit(&snapshot)?;
        if let Err(error) = index.flush() {
            // the snapshot stands; the next run folds its segments again
            monitor.warn(&format!("the local index was not kept: {}", crate::error_chain(&error)));
        }
        let bytes_stored = snapshot.summary.bytes_stored + size;
        let outcome = if snapshot.is_complete() { Outcome::Done } else { Outcome::Partial };
        let ended = Ended { outcome, summary: Summary { bytes_stored, ..snapshot.summary } };
        Ok((Derived::Committed(SnapshotInfo { id: session.id(), snapshot }), ended))
    }

    fn chunk_store(&self, session: &SessionHandle, condemned: HashSet<lakebed_core::id::PackId>) -> Result<ChunkStore> {
        let index: Arc<Index> = self.reader.shared_index();
        let chunks = ChunkStore::new(self.repository, index, Some(session.id()), Compression::default(), None)?;
        Ok(chunks.without(condemned))
    }

    /// Tells whether a snapshot was made of that one of this repository.
    fn is_of(&self, snapshot: &Snapshot, original: SnapshotId) -> bool {
        snapshot.original == Some(Original { repository: self.repository.info().id, snapshot: original })
    }

    fn record(&self, session: &SessionHandle, info: &SnapshotInfo, edited: &Edited, chunks: &ChunkStore) -> Snapshot {
        let Totals { files, directories, others, bytes } = edited.totals;
        let bytes_stored = chunks.counts.stored.load(std::sync::atomic::Ordering::Relaxed);
        let summary = Summary {
            // a backup that compares with it must know when its files were read
            started: info.snapshot.summary.started,
            finished: self.repository.clock().now(),
            files,
            directories,
            others,
            files_unmodified: files,
            bytes,
            bytes_stored,
            ..Summary::default()
        };
        Snapshot {
            root: edited.root,
            summary,
            original: Some(Original { repository: self.repository.info().id, snapshot: info.id }),
            session: session.id(),
            base_generation: session.base_generation(),
            tool: self.author.tool.into(),
            ..info.snapshot.clone()
        }
    }
}
