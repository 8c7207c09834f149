//! Repair: put right what can be put right, and say plainly what cannot.
//!
//! First a plan, which changes nothing; then, if that is wanted, the plan is carried out. Nothing is deleted: what is
//! damaged is moved to quarantine as it is, after what takes its place is durable. Each step can be cut off anywhere;
//! the next repair finds what was done and goes on. What storage has lost for ever is not invented: snapshots that lack
//! something are kept, and others are made of them that hold all that is left and list what is missing.
//!
//! * `records`: snapshots, annotations, sessions and the like that cannot be read.
//! * `packs`: segments, and packs that are missing or damaged; `salvage` stores again what can be read of them.
//! * `losses`: what snapshots lack.

mod apply;
mod losses;
mod packs;
mod plan;
mod records;
mod salvage;

use lakebed_core::id::{PackId, SnapshotId};
use lakebed_core::storage::ObjectKey;
use lakebed_core::time::Timestamp;

use crate::repository::SnapshotInfo;

pub use crate::check::{AFFECTED_MAX, Affected};
pub use apply::apply;
pub use plan::plan;

/// How a repository is repaired.
#[derive(Debug, Clone)]
pub struct RepairOptions {
    /// Read all packs, so that bits that have flipped are found too. Else only what shows without that: packs that are
    /// missing or of another size, and tree nodes that cannot be read.
    pub read_data: bool,
    /// Also put aside what a prune or a newer lakebed may still need.
    pub force: bool,
    /// Threads that read packs; 0: one for each processor.
    pub threads: usize,
    /// Host that the runs are registered under.
    pub host: String,
    /// Name and version of the tool, for the records.
    pub tool: String,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self {
            read_data: false,
            force: false,
            threads: 0,
            host: crate::system::host_name(),
            tool: concat!("lakebed ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// What a repair would do, or is about to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RepairPlan {
    /// What is to be done.
    pub actions: Vec<Action>,
    /// Damage that this repair leaves as it is.
    pub held_back: Vec<HeldBack>,
    /// What snapshots lack, and will lack after the repair.
    pub losses: Vec<Loss>,
}

impl RepairPlan {
    /// Tells whether nothing is wrong, as far as was looked.
    pub fn is_good(&self) -> bool {
        self.actions.is_empty() && self.held_back.is_empty() && self.losses.is_empty()
    }
}

/// Something that is wrong, and what is done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// What is done.
    pub remedy: Remedy,
    /// What is wrong.
    pub problem: String,
    /// What is lost by the damage, at most [`AFFECTED_MAX`] of it; an empty path stands for a whole snapshot.
    pub affected: Vec<Affected>,
    /// How much more is lost by it.
    pub affected_more: u64,
}

impl Action {
    fn new(remedy: Remedy, problem: impl Into<String>) -> Self {
        Self { remedy, problem: problem.into(), affected: Vec::new(), affected_more: 0 }
    }
}

/// What is done about damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// The object is moved to quarantine: nobody needs it, or what it said is lost.
    PutAside(ObjectKey),
    /// The record under a session's key, a snapshot or an expiry, is moved to quarantine, and an expiry takes its place:
    /// whoever still runs must not commit under that key.
    Close(SnapshotId),
    /// Nothing can be read of a session that may still run: it is expired, then its record is moved to quarantine.
    Expire(ObjectKey),
    /// Nobody can say what became of a tombstone: it is moved to quarantine together with the resolution, so that the
    /// snapshot is shown.
    Show(ObjectKey),
    /// Packs that no segment describes, or none that can be read, are described anew.
    Describe {
        /// How many.
        packs: u64,
        /// Damaged segments, which are moved to quarantine afterwards.
        segments: Vec<ObjectKey>,
    },
    /// What can be read of a damaged pack is stored again; then the pack is moved to quarantine and no longer known.
    Salvage {
        /// The pack.
        pack: PackId,
        /// How many chunks and nodes can be read.
        readable: u64,
    },
    /// A pack that is missing is no longer known.
    Drop(PackId),
    /// A snapshot is made of one that lacks something, without what is lost.
    Derive {
        /// The one that lacks something. It stays.
        snapshot: SnapshotId,
        /// How many paths are lost.
        paths: u64,
    },
}

/// Damage that is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// The object.
    pub object: ObjectKey,
    /// What is wrong.
    pub problem: String,
    /// Why it is left, and what can be done.
    pub advice: String,
}

/// What a snapshot lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The moment that it stands for.
    pub time: Timestamp,
    /// What is lost, in the order of the tree.
    pub paths: Vec<LostPath>,
    /// It is forgotten, and can be taken back: no other one is made of it.
    pub is_forgotten: bool,
    /// Nothing at all is left of it.
    pub is_total: bool,
    /// A live snapshot that was made of it and holds everything but that.
    pub repaired: Option<SnapshotId>,
}

/// A path that is lost, or of a directory: a part of its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostPath {
    /// The path in the snapshot, as escaped text; empty for the top.
    pub path: String,
    /// What is missing.
    pub reason: String,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq)]
pub struct RepairReport {
    /// Chunks and nodes that were stored again.
    pub salvaged: u64,
    /// Plain bytes of them.
    pub salvaged_bytes: u64,
    /// Snapshots that are gone, unless a copy of the repository has them: their records could not be read.
    pub lost: Vec<SnapshotId>,
    /// Snapshots that were made, with those that they were made of.
    pub snapshots: Vec<(SnapshotId, SnapshotInfo)>,
    /// What was found when all was done: what is left.
    pub remaining: RepairPlan,
}
