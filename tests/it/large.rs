//! Large folders and large files: what is shared among workers, what goes into nodes early, how finely it is cut.

use std::path::Path;
use std::time::Duration;

use lakebed_engine::backup::{BackupOptions, ParentChoice};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::TreeId;
use lakebed_engine::core::record::tree::{Content as Stored, EntryKind};
use lakebed_engine::query::{Listed, entry_at, walk};
use lakebed_engine::repository::SnapshotInfo;
use lakebed_engine::source::FilterOptions;
use lakebed_engine::{Repository, Silent};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::Content;

use crate::common::*;

fn several_workers() -> BackupOptions {
    BackupOptions { threads: 3, ..options() }
}

/// Makes a snapshot and returns the source's node in it: what lies above the source has times of its own.
fn tree(place: &Place, source: &Path, options: &BackupOptions) -> TreeId {
    let repository = place.reopen();
    let report = backup_with(&repository, &[source.to_path_buf()], options, &FilterOptions::default());
    node_of(&repository, &report.snapshot.unwrap(), source)
}

fn node_of(repository: &Repository, info: &SnapshotInfo, source: &Path) -> TreeId {
    let names: Vec<Vec<u8>> =
        source.components().skip(1).map(|name| name.as_os_str().as_encoded_bytes().to_vec()).collect();
    entry_at(&repository.reader(&Silent).unwrap(), info, &names).unwrap().subtree.unwrap()
}

/// Large files are handed to workers that have nothing else to do, and the folder waits for them.
#[test]
fn a_folder_of_large_files_is_shared_and_comes_back() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let write = |name: String, content: Content| std::fs::write(source.join(name), content.bytes()).unwrap();
    for file in 0..6 {
        write(format!("large-{file}"), Content::Generated { seed: file, length: 5_000_000, compressibility: 40 });
        write(format!("small-{file}"), Content::random(100 + file, 3000));
    }
    for night in 0..3 {
        let options = BackupOptions { checkpoint_bytes: 4 << 20, ..several_workers() };
        let info = backup_with(&repository, std::slice::from_ref(&source), &options, &FilterOptions::default())
            .snapshot
            .unwrap();
        let observed = snapshot_of(&source);
        let target = tempfile::TempDir::new().unwrap();
        let restored = restore_to(&repository, &info, target.path(), &source);
        assert_tree_is(&observed, &restored, &CompareOptions::default());
        // the order of work leaves no trace in the tree
        let anew = BackupOptions { threads: 1, parent: ParentChoice::None, ..options };
        assert_eq!(tree(&place, &source, &anew), node_of(&repository, &info, &source), "night {night}");
        write(format!("large-{night}"), Content::random(200 + night, 6_000_000));
    }
    assert_good(&repository);
}

/// A folder whose entries do not fit into what is held: those at the front are in nodes while the rest is worked on, and
/// what equals the parent is not held at all.
#[test]
fn a_folder_of_many_files_has_the_same_tree_however_it_came_about() {
    let (place, _) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    for file in 0..25_000 {
        std::fs::write(source.join(format!("file-{file:05}")), b"").unwrap();
    }
    // directories in between are finished later than what lies behind them
    for name in ["a", "file-12345.d", "z"] {
        std::fs::create_dir(source.join(name)).unwrap();
        std::fs::write(source.join(name).join("below"), name).unwrap();
    }
    let anew = BackupOptions { parent: ParentChoice::None, ..several_workers() };
    let first = tree(&place, &source, &anew);
    assert_eq!(tree(&place, &source, &several_workers()), first);

    let changes: [&dyn Fn(); 5] = [
        &|| std::fs::write(source.join("file-20000"), b"changed").unwrap(),
        &|| std::fs::remove_file(source.join("file-00000")).unwrap(),
        &|| std::fs::write(source.join("file-24000-more"), b"added").unwrap(),
        &|| std::fs::write(source.join("file-12345.d/below"), b"changed").unwrap(),
        &|| {
            (0..25_000)
                .step_by(3)
                .skip(1)
                .for_each(|file| std::fs::write(source.join(format!("file-{file:05}")), b"x").unwrap())
        },
    ];
    let mut before = first;
    for (number, change) in changes.into_iter().enumerate() {
        change();
        let beside_parent = tree(&place, &source, &several_workers());
        assert_ne!(beside_parent, before, "change {number}");
        assert_eq!(tree(&place, &source, &anew), beside_parent, "change {number}");
        // a run that makes checkpoints all the time publishes halves of the folder
        let restless = BackupOptions { checkpoint_interval: Duration::ZERO, checkpoint_bytes: 1, ..anew.clone() };
        if number % 2 == 0 {
            assert_eq!(tree(&place, &source, &restless), beside_parent, "change {number}");
        }
        before = beside_parent;
    }
    let repository = place.reopen();
    assert_good(&repository);
    let target = tempfile::TempDir::new().unwrap();
    let restored = restore_to(&repository, &latest(&repository), target.path(), &source);
    assert_tree_is(&snapshot_of(&source), &restored, &CompareOptions::default());
}

/// What is compressed already is cut coarsely, from its first bytes on; text is cut finely.
#[test]
fn compressed_files_have_larger_chunks() {
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let noise = Content::random(1, 3_000_000).bytes();
    std::fs::write(source.join("noise"), &noise).unwrap();
    std::fs::write(source.join("table.parquet"), [b"PAR1", &noise[..]].concat()).unwrap();
    let root = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap().snapshot.root;
    let reader = repository.reader(&Silent).unwrap();
    let mut chunks = Vec::new();
    walk(&reader, root, b"", &mut |_, entry| {
        if entry.kind == EntryKind::File {
            assert!(!matches!(entry.content, Stored::Chunk(_)));
            chunks.push(reader.extents(entry).unwrap().len());
        }
        Ok(Listed::Descend)
    })
    .unwrap();
    // 20 KB and 80 KB on average, since none is smaller than half of what was asked for
    assert!((120..200).contains(&chunks[0]), "{chunks:?}");
    assert!((28..50).contains(&chunks[1]), "{chunks:?}");
}
