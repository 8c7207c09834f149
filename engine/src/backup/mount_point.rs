//! What is mounted where: names from the top of a snapshot down, and the sources that they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use lakebed_core::record::snapshot::SourceRecord;
use lakebed_core::record::tree::Entry;
use lakebed_core::source::Source;
use lakebed_core::text::escape_path;

use crate::error::{Error, Result};
use crate::source::Mount;

/// Returns the records of what is asked for of a mount.
pub(super) fn records_of(mount: &Mount) -> Vec<SourceRecord> {
    let record = |(names, uri): (Vec<Vec<u8>>, String)| {
        let path = escape_path(&[&mount.tree_path[..], &names[..]].concat().join(&b'/'));
        SourceRecord { uri, path, version: None }
    };
    mount.source.parts().into_iter().map(record).collect()
}

/// A tree of mounts: which names lead to which source.
#[derive(Default)]
pub(super) struct MountPoint {
    pub(super) entry: Option<Entry>,
    pub(super) source: Option<Arc<Mount>>,
    pub(super) below: BTreeMap<Vec<u8>, MountPoint>,
}

impl MountPoint {
    /// Returns all sources that are mounted.
    pub(super) fn sources(&self) -> Vec<Arc<dyn Source>> {
        let here = self.source.iter().map(|mount| mount.source.clone());
        here.chain(self.below.values().flat_map(Self::sources)).collect()
    }
}

/// Arranges mounts by their names.
///
/// # Errors
/// Two of them would lie in each other.
pub(super) fn arrange(mounts: Vec<Mount>) -> Result<MountPoint> {
    let mut top = MountPoint::default();
    for mut mount in mounts {
        let same = |path: &[Vec<u8>]| Error::SamePath { path: escape_path(&path.join(&b'/')) };
        let mut at = &mut top;
        let mut ancestors = std::mem::take(&mut mount.ancestors).into_iter();
        for name in &mount.tree_path {
            if at.source.is_some() {
                return Err(same(&mount.tree_path));
            }
            at = at.below.entry(name.clone()).or_default();
            if let (None, Some(entry)) = (&at.entry, ancestors.next()) {
                at.entry = Some(entry);
            }
        }
        if at.source.is_some() || !at.below.is_empty() {
            return Err(same(&mount.tree_path));
        }
        at.source = Some(Arc::new(mount));
    }
    Ok(top)
}
