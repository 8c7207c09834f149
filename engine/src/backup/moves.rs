//! Objects that were moved: where they are in the tree compared with, by what tells them apart from all others.
//!
//! Only sources whose objects have ids know that. The tree is walked once, when the first object is met that is new at its
//! path; what is kept of each object is its id and the node it is in.

use std::collections::HashMap;
use std::sync::OnceLock;

use lakebed_core::id::TreeId;
use lakebed_core::record::tree::{Entry, EntryKind};
use lakebed_core::source::Source;

use super::parent::Comparison;
use crate::error::Result;
use crate::repository::BlobReader;

/// Where objects are.
#[derive(Default)]
pub(super) struct Moves(OnceLock<Places>);

#[derive(Default)]
struct Places {
    /// For each object the directory it is in.
    objects: HashMap<u64, u32>,
    directories: Vec<TreeId>,
}

impl Moves {
    /// Returns the entries of the first tree compared with that are the same object as one that was listed.
    pub(super) fn of(
        &self,
        source: &dyn Source,
        entry: &Entry,
        comparisons: &[Comparison],
        reader: &BlobReader,
    ) -> Result<Option<Entry>> {
        let Some(id) = source.object_id(entry) else { return Ok(None) };
        let Some(parent) = comparisons.first().filter(|comparison| comparison.protected) else { return Ok(None) };
        let places = self.0.get_or_init(|| Places::of(source, parent.root, reader));
        let Some(at) = places.objects.get(&id) else { return Ok(None) };
        let Some(directory) = usize::try_from(*at).ok().and_then(|at| places.directories.get(at)) else {
            return Ok(None);
        };
        for known in reader.entries(*directory) {
            // a damaged node costs a look at what was moved
            let Ok(known) = known else { break };
            if known.kind == entry.kind && source.object_id(&known) == Some(id) {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }
}

impl Places {
    /// Walks a tree. What cannot be read is passed over: it costs a look at what was moved.
    fn of(source: &dyn Source, root: TreeId, reader: &BlobReader) -> Self {
        let mut places = Self::default();
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            let Ok(number) = u32::try_from(places.directories.len()) else { break };
            let before = places.objects.len();
            for entry in reader.entries(node).map_while(Result::ok) {
                stack.extend(entry.subtree);
                if let (EntryKind::File, Some(id)) = (entry.kind, source.object_id(&entry)) {
                    places.objects.insert(id, number);
                }
            }
            if places.objects.len() > before {
                places.directories.push(node);
            }
        }
        places
    }
}
