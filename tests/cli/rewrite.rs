//! `rewrite`: purging what should not have been backed up.

use crate::kit::Kit;

fn with_secret() -> Kit {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "--time", "2026-01-01T00:00:00Z", "--tag", "clean"]).exits(0);
    kit.file("src/sub/token.env", "hunter2\n");
    kit.run(&["backup", "src", "--time", "2026-01-02T00:00:00Z", "--tag", "dirty"]).exits(0);
    kit
}

#[test]
fn a_secret_is_purged_from_the_snapshots_that_have_it() {
    let kit = with_secret();
    kit.run(&["rewrite", "--all", "--exclude", "*.env", "--dry-run"]).exits(0).says("- src/sub/token.env");
    assert_eq!(kit.run(&["cat", "latest", "src/sub/token.env"]).exits(0).out, "hunter2\n");
    let said = kit.run(&["rewrite", "--all", "--exclude", "*.env"]).exits(0);
    let said = said.says("without 1 file (8 B)").says("- src/sub/token.env").says("nothing matches in 1 snapshot");
    said.says("lakebed prune --max-unused 0").says("elsewhere");
    kit.run(&["cat", "latest", "src/sub/token.env"]).exits(1);
    assert_eq!(kit.run(&["cat", "latest", "src/sub/b.py"]).exits(0).out, "print('b')\n");
    let listed = kit.run(&["--json", "snapshots"]).exits(0).result();
    let snapshots = listed["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 2, "{listed:#}");
    assert_eq!(snapshots[0]["original"], serde_json::Value::Null);
    assert!(snapshots[1]["original"]["snapshot"].is_string(), "{listed:#}");
    assert_eq!(snapshots[1]["tags"][0], "dirty");
    kit.run(&["verify", "--read-data"]).exits(0);
}

#[test]
fn snapshots_are_chosen_by_name_or_by_what_they_are() {
    let kit = with_secret();
    kit.run(&["rewrite", "--tag", "clean", "--iexclude", "*.ENV"]).exits(0).says("nothing matches in 1 snapshot");
    kit.run(&["rewrite", "latest", "--exclude", "*.env", "--keep-original"]).exits(0).says("kept");
    assert_eq!(kit.run(&["--json", "snapshots"]).result()["snapshots"].as_array().unwrap().len(), 3);
    kit.run(&["cat", "latest", "src/sub/token.env"]).exits(1);
    std::fs::write(kit.path("patterns"), "*.env\n").unwrap();
    let report = kit.run(&["--json", "rewrite", "--all", "--exclude-file", "patterns"]).exits(0).result();
    assert_eq!(report["rewritten"].as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(report["rewritten"][0]["left_out"][0]["path"], "src/sub/token.env");
    assert_eq!(report["rewritten"][0]["forgotten"], true);
    assert_eq!(report["unchanged"].as_array().unwrap().len(), 2);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let kit = with_secret();
    kit.run(&["rewrite", "latest"]).exits(2).says("--exclude");
    kit.run(&["rewrite", "--exclude", "x"]).exits(2).says("--all");
    kit.run(&["rewrite", "latest", "--tag", "a", "--exclude", "x"]).exits(2).says("not both");
    kit.run(&["rewrite", "latest", "--exclude", "[a-"]).exits(2).says("[a-");
    kit.run(&["rewrite", "ffffffff", "--exclude", "x"]).exits(1).says("lakebed snapshots");
    kit.run(&["rewrite", "latest", "--exclude", "*"]).exits(2).says("forget it instead");
    assert_eq!(kit.run(&["--json", "snapshots"]).result()["snapshots"].as_array().unwrap().len(), 2);
}

/// A secret in a snapshot that cannot be read is not purged: that is not left unsaid.
#[test]
fn a_snapshot_that_cannot_be_read_is_not_passed_over() {
    let kit = with_secret();
    let records = std::fs::read_dir(kit.path("repo/snapshots")).unwrap();
    let record = records.map(|entry| entry.unwrap().path()).max().unwrap();
    let bytes = std::fs::read(&record).unwrap();
    std::fs::write(&record, &bytes[..20]).unwrap();
    let id = record.file_name().unwrap().to_str().unwrap().to_owned();
    kit.run(&["rewrite", "--all", "--exclude", "*.env"]).exits(4).says(&id).says("lakebed repair");
    std::fs::write(&record, bytes).unwrap();
    kit.run(&["rewrite", "--all", "--exclude", "*.env"]).exits(0);
}
