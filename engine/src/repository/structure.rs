//! What a tree needs, node by node: whether it is there, as far as the index knows.

use std::collections::HashSet;

use lakebed_core::id::TreeId;
use lakebed_core::pack::BlobId;
use rayon::prelude::*;

use super::BlobReader;
use crate::error::{Error, Result};

/// What one node leads to.
pub(crate) struct Step {
    pub(crate) node: TreeId,
    /// Nodes below it: of directories and of content lists.
    pub(crate) below: Vec<TreeId>,
    /// Chunks that it needs and that are in no pack that is there.
    pub(crate) missing: Vec<BlobId>,
    /// How many chunks it needs.
    pub(crate) chunks: u64,
    /// Why the node could not be read.
    pub(crate) failed: Option<Error>,
}

impl Step {
    /// Reads a node and looks its chunks up.
    pub(crate) fn look(reader: &BlobReader, id: TreeId) -> Result<Self> {
        let mut step = Self { node: id, below: Vec::new(), missing: Vec::new(), chunks: 0, failed: None };
        let node = match reader.node(id) {
            Ok(node) => node,
            Err(error) => {
                step.failed = Some(error);
                return Ok(step);
            }
        };
        let mut chunks = Vec::new();
        node.references(|node| step.below.push(node), |chunk, length| chunks.push((chunk, length)));
        for (chunk, length) in chunks {
            step.chunks += 1;
            if !reader.has_chunk(chunk, length)? {
                step.missing.push(chunk.into());
            }
        }
        Ok(step)
    }
}

/// Tells whether everything that a tree needs is in packs that are there. Nodes of `whole` are known to be: they are not
/// looked at, and those of a tree that is whole join them.
///
/// # Errors
/// It cannot be looked at: that says nothing about what is there.
pub(crate) fn is_whole(reader: &BlobReader, root: TreeId, whole: &mut HashSet<TreeId>) -> Result<bool> {
    let mut seen: HashSet<TreeId> = HashSet::new();
    let mut frontier = vec![root];
    loop {
        frontier.retain(|node| !whole.contains(node) && seen.insert(*node));
        if frontier.is_empty() {
            whole.extend(seen);
            return Ok(true);
        }
        let steps: Vec<Result<Step>> = frontier.par_iter().map(|&node| Step::look(reader, node)).collect();
        frontier.clear();
        for step in steps {
            let Step { below, missing, failed, .. } = step?;
            match failed {
                Some(error) if error.keeps_from_looking() => return Err(error),
                None if missing.is_empty() => frontier.extend(below),
                _ => return Ok(false),
            }
        }
    }
}
