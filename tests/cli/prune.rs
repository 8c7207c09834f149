//! `prune`, and `forget --prune`: what they say, what they free, and that a full disk does not trap anybody.

use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::disk::with_mounts;
use lakebed_testkit::tree::Content;

use crate::kit::Kit;

/// A few nights; each has a large file of its own.
fn nights(kit: &Kit, count: u64) {
    for night in 0..count {
        std::fs::write(kit.path("src/large"), Content::random(night, 2 << 20).bytes()).unwrap();
        kit.run(&["backup", "src"]).exits(0);
    }
}

fn assert_newest_comes_back(kit: &Kit, target: &str) {
    kit.run(&["verify", "--read-data"]).exits(0);
    kit.run(&["restore", "latest", "--target", target]).exits(0);
    assert_same_tree(&kit.path("src"), &kit.path(target).join("src"), &CompareOptions::default());
}

#[test]
fn what_was_forgotten_is_freed_and_it_is_said_what() {
    let kit = Kit::with_repo();
    nights(&kit, 4);
    let planned = kit.run(&["forget", "--keep-last", "1", "--prune", "--dry-run", "--json"]).exits(0).result();
    assert_eq!(planned["prune"]["plan"]["snapshots_forgotten"].as_array().unwrap().len(), 3, "{planned:#}");
    assert_eq!(kit.run(&["snapshots", "--json"]).result()["snapshots"].as_array().unwrap().len(), 4);
    let said = kit.run(&["forget", "--keep-last", "1", "--prune"]).exits(0);
    let said = said.says("3 snapshots forgotten, 1 kept").says("3 snapshots gone for ever").says("freed 6.0");
    assert!(!said.out.contains("--undo"), "{said:#?}");
    assert_newest_comes_back(&kit, "out");
    kit.run(&["forget", "--undo", "all"]).exits(0).says("no forgotten snapshots");
    kit.run(&["prune", "--max-unused", "0"]).exits(0).says("written anew");
    let again = kit.run(&["prune", "--max-unused", "0", "--json"]).exits(0).result();
    assert!(again["generation"].is_null(), "{again:#}");
    assert_eq!(again["plan"]["unused_bytes"], 0);
    assert_newest_comes_back(&kit, "out-2");
}

#[test]
fn what_makes_no_sense_or_frees_too_much_is_refused() {
    let kit = Kit::with_repo();
    nights(&kit, 2);
    kit.run(&["forget", "--keep-last", "1", "--max-unused", "0"]).exits(2).says("--prune");
    kit.run(&["prune", "--max-unused", "most"]).exits(2);
    let dry = kit.run(&["forget", "--allow-empty", "--prune", "--dry-run"]).exits(0);
    dry.says("dry run: about").says("100 % of the snapshots").says("--max-delete 100%");
    let refused = kit.run(&["forget", "--allow-empty", "--prune"]).exits(1);
    let refused = refused.says("2 snapshots forgotten").says("100 % of the snapshots").says("--max-delete");
    refused.says("2 snapshots were forgotten all the same");
    let plan = kit.run(&["prune", "--dry-run", "--json"]).exits(0).result();
    assert_eq!(plan["too_much"], serde_json::json!({"what": "snapshots", "share_percent": 100, "limit_percent": 90}));
    kit.run(&["forget", "--undo", "all"]).exits(0);
    assert_newest_comes_back(&kit, "out");
}

/// Somebody has taken a snapshot away, or half of one.
#[test]
fn a_snapshot_that_nobody_has_forgotten_is_missed() {
    let kit = Kit::with_repo();
    nights(&kit, 3);
    let records = std::fs::read_dir(kit.path("repo/snapshots")).unwrap();
    let record = records.map(|entry| entry.unwrap().path()).min().unwrap();
    let bytes = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    kit.run(&["prune"]).exits(4).says("nobody has forgotten").says("--accept-vanished");
    std::fs::write(&record, &bytes[..20]).unwrap();
    kit.run(&["prune"]).exits(4).says("cannot be read").says("lakebed repair");
    std::fs::write(&record, bytes).unwrap();
    kit.run(&["prune"]).exits(0);
    assert_newest_comes_back(&kit, "out");
}

#[test]
fn a_full_disk_is_freed() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    with_mounts(|mounts| {
        let disk = mounts.disk(&kit.path("disk"), 32 << 20);
        let repo = kit.path("disk/repo").display().to_string();
        let run = |arguments: &[&str]| kit.run(&[arguments, &["--repo", &repo]].concat());
        run(&["init"]).exits(0);
        for night in 0..6 {
            std::fs::write(kit.path("src/large"), Content::random(night, 3 << 20).bytes()).unwrap();
            run(&["backup", "src"]).exits(0);
        }
        disk.fill();
        assert_eq!(disk.free_bytes(), 0);
        std::fs::write(kit.path("src/large"), Content::random(7, 3 << 20).bytes()).unwrap();
        run(&["backup", "src"]).exits(1).says("free space");
        run(&["snapshots"]).exits(0).says("6 snapshots");
        run(&["ls", "latest"]).exits(0);
        run(&["verify", "--read-data"]).exits(0);
        run(&["restore", "latest", "--target", "out"]).exits(0);
        run(&["forget", "--keep-last", "2"]).exits(0).says("4 snapshots forgotten");
        run(&["prune"]).exits(0).says("4 snapshots gone for ever");
        assert!(disk.free_bytes() > 10 << 20, "{} bytes are free", disk.free_bytes());
        run(&["backup", "src"]).exits(0);
        run(&["verify", "--read-data"]).exits(0);
        run(&["restore", "latest", "--target", "out-2"]).exits(0);
        assert_same_tree(&kit.path("src"), &kit.path("out-2/src"), &CompareOptions::default());
    });
}

/// What has to be copied before anything goes does not fit all at once, but pack by pack: on a small disk, whose reserve is
/// small, and on a larger one whose packs are full.
#[test]
fn a_full_disk_is_freed_where_every_pack_is_needed_in_part() {
    free_partly_needed(48 << 20, 2_500_000, 5_000_000);
    free_partly_needed(1 << 30, 24_000_000, 6_000_000);
}

fn free_partly_needed(disk_bytes: u64, staying: u64, going: u64) {
    let kit = Kit::new();
    let write = |name: &str, seed, bytes| {
        std::fs::create_dir_all(kit.path("src")).unwrap();
        std::fs::write(kit.path("src").join(name), Content::random(seed, bytes).bytes()).unwrap();
    };
    with_mounts(|mounts| {
        let disk = mounts.disk(&kit.path("disk"), disk_bytes);
        let repo = kit.path("disk/repo").display().to_string();
        let run = |arguments: &[&str]| kit.run(&[arguments, &["--repo", &repo]].concat());
        run(&["init"]).exits(0);
        // each night leaves a pack of which a file stays and one goes
        for night in 0..3 {
            write(&format!("stays-{night}"), night, staying);
            write("goes", 100 + night, going);
            run(&["backup", "src"]).exits(0);
        }
        std::fs::remove_file(kit.path("src/goes")).unwrap();
        run(&["backup", "src"]).exits(0);
        disk.fill();
        assert_eq!(disk.free_bytes(), 0);
        run(&["forget", "--keep-last", "1"]).exits(0);
        run(&["prune", "--max-unused", "0"]).exits(0).says("3 snapshots gone for ever");
        assert!(disk.free_bytes() > 10 << 20, "{} bytes are free", disk.free_bytes());
        run(&["verify", "--read-data"]).exits(0);
        run(&["restore", "latest", "--target", "out"]).exits(0);
        assert_same_tree(&kit.path("src"), &kit.path("out/src"), &CompareOptions::default());
    });
}
