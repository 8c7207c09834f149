//! Verify: is everything there, and is it what it should be.
//!
//! First the structure: every record can be read, every tree reaches chunks that the index knows, in packs that storage
//! has at their size. Then, as far as asked, the data: whole packs are read and hashed, their frames opened, their chunks
//! hashed, and their directories compared with the index. What is found is reported with the snapshots and paths that it
//! touches. Nothing is changed but the ledger, which notes what was found good.

mod data;
mod ledger;
mod structure;

use std::collections::BTreeMap;
use std::time::Duration;

use lakebed_core::id::SnapshotId;
use lakebed_core::monitor::Monitor;
use lakebed_core::time::Timestamp;

use crate::check::PacksRead;
use crate::error::{Error, Result};
use crate::repository::Repository;

pub use crate::check::{AFFECTED_MAX, Affected};
use data::{Later, Reading};
pub use ledger::Coverage;
use structure::Checked;

/// How much data is read.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ReadData {
    /// None: the structure only.
    #[default]
    None,
    /// All packs.
    All,
    /// A random part of the packs, by bytes: above 0, at most 1.
    Sample(f64),
    /// The packs whose last verification is longest ago, as many as fit.
    Budget {
        /// So much time.
        time: Option<Duration>,
        /// So many bytes.
        bytes: Option<u64>,
    },
}

/// How a repository is verified.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// How much data is read.
    pub read: ReadData,
    /// Read every file of several chunks from front to back as well, and compare the hash of the whole.
    pub whole_files: bool,
    /// Worker threads; 0: one for each processor.
    pub threads: usize,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object or chunk.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// What it touches, at most [`AFFECTED_MAX`] of them.
    pub affected: Vec<Affected>,
    /// How many more it touches.
    pub affected_more: u64,
}

impl Damage {
    /// Notes what it touches, as long as the list is short.
    fn touch(&mut self, affected: Affected) {
        if self.affected.last() == Some(&affected) {
            return;
        }
        if self.affected.len() < AFFECTED_MAX {
            self.affected.push(affected);
        } else {
            self.affected_more += 1;
        }
    }
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VerifyReport {
    /// Snapshots checked.
    pub snapshots: u64,
    /// Different tree nodes checked.
    pub nodes: u64,
    /// Chunks that the trees need, each as often as different nodes refer to it.
    pub chunks: u64,
    /// Packs in storage.
    pub packs: u64,
    /// Bytes of the packs in storage.
    pub pack_bytes: u64,
    /// Packs read and found good.
    pub packs_read: u64,
    /// Bytes of packs read.
    pub bytes_read: u64,
    /// Files read as a whole.
    pub whole_files: u64,
    /// Packs that no snapshot needs and no index segment describes: what an interrupted run left. No damage.
    pub unreferenced_packs: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
    /// Of the snapshots that damage touches, those of which a repair has made another one that it does not touch.
    pub repaired: BTreeMap<SnapshotId, SnapshotId>,
    /// How much was verified when, where data were read.
    pub coverage: Option<Coverage>,
    /// When the verification began.
    pub started: Timestamp,
}

impl VerifyReport {
    /// Tells whether nothing is wrong with what was checked.
    pub fn is_good(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Repository {
    /// Verifies the repository. Damage is no error: it is in the report.
    ///
    /// # Errors
    /// Storage cannot be read at all; the run was interrupted.
    pub fn verify(&self, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<VerifyReport> {
        let started = self.clock().now();
        let mut checked = structure::begin(self, options, monitor)?;
        checked.report.started = started;
        if options.read == ReadData::None {
            structure::check_trees(self, &mut checked, monitor)?;
        } else {
            let read = match self.store.storage().capabilities().is_remote {
                true => self.walk_and_read(options, &mut checked, monitor)?,
                false => {
                    structure::check_trees(self, &mut checked, monitor)?;
                    let reading = Reading::begin(self, options, &mut checked)?;
                    reading.announce(monitor);
                    reading.read(self, monitor)?
                }
            };
            data::check(self, read, &mut checked, monitor)?;
        }
        if options.whole_files {
            data::check_whole_files(&mut checked, monitor)?;
        }
        structure::locate(&mut checked, monitor)?;
        structure::find_repaired(self, &mut checked)?;
        Ok(checked.report)
    }

    /// Walks the trees, which waits for one answer after the other, while packs come in and are checked.
    fn walk_and_read(
        &self,
        options: &VerifyOptions,
        checked: &mut Checked,
        monitor: &dyn Monitor,
    ) -> Result<PacksRead> {
        let reading = Reading::begin(self, options, checked)?;
        // a pack of trees that is on its way is not asked for again
        let bare = std::mem::replace(&mut checked.reader, reading.reader());
        let later = Later::new(monitor);
        let read = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("lakebed-verify".into());
            let thread = thread.spawn_scoped(scope, || reading.read(self, &later));
            let walked = structure::check_trees(self, checked, monitor);
            match &walked {
                Ok(()) => reading.announce(monitor),
                Err(_) => later.give_up(),
            }
            later.release();
            let read = match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::Poisoned { message: "a thread that reads packs panicked".into() })),
                Err(source) => Err(Error::Machine { operation: "start a thread", source }),
            };
            walked.and(read)
        });
        checked.reader = bare;
        read
    }
}
