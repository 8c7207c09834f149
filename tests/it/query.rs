//! Questions about snapshots: what differs between them, what changed when.

use std::fs::File;
use std::os::unix::fs::FileExt;

use lakebed_engine::Silent;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::query::{ChangeKind, DiffOptions, FindOptions, Occurrence, diff, find};
use lakebed_testkit::tree::Content;

use crate::common::*;

/// The hash of a file leaves its holes out: where they are, its extents say.
#[test]
fn a_hole_that_moves_is_a_change() {
    const HALF: u64 = 256 << 10;
    let (place, repository) = Place::memory(Encryption::Aes256Gcm);
    let source = place.path("source");
    std::fs::create_dir(&source).unwrap();
    let data = Content::random(1, HALF).bytes();
    let snapshots = [HALF, 0].map(|offset| {
        let file = File::create(source.join("image")).unwrap();
        file.set_len(2 * HALF).unwrap();
        file.write_all_at(&data, offset).unwrap();
        drop(file);
        backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap()
    });
    let reader = repository.reader(&Silent).unwrap();
    let mut changes = Vec::new();
    let [before, after] = [0, 1].map(|at: usize| Some(snapshots[at].snapshot.root));
    diff(&reader, before, after, b"", &DiffOptions { ignore_metadata: true }, &mut |change| {
        changes.push(change.kind);
        Ok(())
    })
    .unwrap();
    assert_eq!(changes, [ChangeKind::Modified]);
    let wanted = FindOptions { patterns: vec!["image".into()], ignore_case: false };
    let found = find(&reader, &snapshots, &wanted).unwrap();
    let found: Vec<_> = found.iter().map(|finding| finding.occurrence).collect();
    assert_eq!(found, [Occurrence::Appeared, Occurrence::Changed]);
    let report = verify_all(&repository);
    assert!(report.is_good() && report.whole_files == 2, "{report:?}");
}
