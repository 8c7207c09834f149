//! What live snapshots need, followed from node to node, and whether it lies in files that are on the disk.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use lakebed_engine::core::id::{PackId, TreeId};
use lakebed_engine::core::layout;
use lakebed_engine::core::pack::BlobId;
use lakebed_engine::core::record::key_slot::Secret;
use lakebed_engine::core::record::tree::{Content, Extent, Node};
use lakebed_engine::repository::BlobReader;
use lakebed_engine::storage::LocalStorage;
use lakebed_engine::{OpenOptions, Repository, Silent};

struct Walk<'a> {
    folder: &'a Path,
    reader: BlobReader,
    /// Sizes of packs, as the segments say.
    sizes: HashMap<PackId, u64>,
    seen: HashSet<BlobId>,
    to_visit: Vec<TreeId>,
}

/// Checks that every node and every chunk of every snapshot lies in a pack that is there at its size, and returns how many
/// there are.
pub fn check(folder: &Path, secret: &Secret) -> usize {
    let storage = Arc::new(LocalStorage::open(folder).unwrap());
    let repository = Repository::open(storage, secret, &OpenOptions::default()).unwrap();
    let catalogue = repository.catalogue().unwrap();
    assert!(catalogue.damaged.is_empty(), "{:?}", catalogue.damaged);
    let reader = repository.reader(&Silent).unwrap();
    let sizes = reader.index().packs().into_iter().map(|pack| (pack.id, pack.size_bytes)).collect();
    let roots = catalogue.snapshots.iter().map(|info| info.snapshot.root).collect();
    let mut walk = Walk { folder, reader, sizes, seen: HashSet::new(), to_visit: roots };
    while let Some(node) = walk.to_visit.pop() {
        if walk.is_new(node.into()) {
            walk.visit(node);
        }
    }
    walk.seen.len()
}

impl Walk<'_> {
    /// Looks a node or chunk up on the disk; `false` where that was done before.
    fn is_new(&mut self, id: BlobId) -> bool {
        if !self.seen.insert(id) {
            return false;
        }
        let places = self.reader.index().lookup_all(&id).unwrap();
        let is_there = |pack: PackId| {
            let file = self.folder.join(layout::pack(pack).as_str());
            std::fs::metadata(file).is_ok_and(|metadata| Some(&metadata.len()) == self.sizes.get(&pack))
        };
        assert!(places.iter().any(|place| is_there(place.pack)), "{id} is in no pack on the disk: {places:?}");
        true
    }

    fn visit(&mut self, id: TreeId) {
        match self.reader.node(id).unwrap() {
            Node::Entries(entries) => {
                for entry in entries {
                    self.to_visit.extend(entry.subtree);
                    match entry.content {
                        Content::None => {}
                        Content::Chunk(chunk) => drop(self.is_new(chunk.into())),
                        Content::Extents { extents, .. } => self.extents(extents),
                        Content::Indirect { root, .. } => self.to_visit.push(root),
                    }
                }
            }
            Node::EntryIndex(items) => self.to_visit.extend(items.into_iter().map(|item| item.node)),
            Node::ExtentIndex(nodes) => self.to_visit.extend(nodes),
            Node::Extents(extents) => self.extents(extents),
        }
    }

    fn extents(&mut self, extents: Vec<Extent>) {
        for extent in extents {
            if let Extent::Data { id, .. } = extent {
                self.is_new(id.into());
            }
        }
    }
}
