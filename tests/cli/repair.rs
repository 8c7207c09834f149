//! `repair`: the plan, and what comes of it.

use lakebed_testkit::damage::{Damage, damage, object_files};

use crate::kit::Kit;

fn with_snapshots() -> Kit {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "--time", "2026-01-01T00:00:00Z"]).exits(0);
    kit.file("src/new.py", "print('new')\n");
    kit.run(&["backup", "src", "--time", "2026-01-02T00:00:00Z"]).exits(0);
    kit
}

#[test]
fn nothing_is_to_be_done_where_nothing_is_wrong() {
    let kit = with_snapshots();
    kit.run(&["repair"]).exits(0).says("nothing is wrong");
    kit.run(&["repair", "--read-data", "--apply"]).exits(0).says("nothing is wrong");
    let report = kit.run(&["--json", "repair", "--apply"]).exits(0).result();
    assert_eq!(report["good"], true, "{report:#}");
    assert!(!kit.path("repo/quarantine").exists());
}

#[test]
fn a_plan_is_shown_and_carried_out_only_when_asked_for() {
    let kit = with_snapshots();
    for pack in kit.data_packs() {
        damage(&pack, Damage::Delete).keep();
    }
    let before = object_files(&kit.path("repo"));
    let said = kit.run(&["repair"]).exits(4);
    let said = said.says("to do:").says("it is missing").says("out of the index").says("src/a.py");
    let said = said.says("make another snapshot of").says("`lakebed repair --apply`");
    said.says("`lakebed backup` stores again").says("replica");
    kit.run(&["repair", "--dry-run"]).exits(4);
    assert_eq!(object_files(&kit.path("repo")), before);
    kit.run(&["repair", "--dry-run", "--apply"]).exits(2);

    let report = kit.run(&["--json", "repair", "--apply"]).exits(4).result();
    assert_eq!(report["applied"], true);
    assert_eq!(report["snapshots"].as_array().unwrap().len(), 2, "{report:#}");
    let loss = &report["losses"][0];
    assert!(loss["repaired"].is_string() && loss["paths"][0]["path"].is_string(), "{report:#}");
    assert!(report["actions"].as_array().unwrap().iter().any(|action| action["action"] == "drop"), "{report:#}");

    // what is left is told by everybody, and `latest` is what can be restored
    kit.run(&["repair"]).exits(4).says("a repaired snapshot").says("lakebed forget");
    kit.run(&["verify"]).exits(4).says("a repaired snapshot").says("lakebed repair");
    kit.run(&["restore", "latest", "--target", "out"]).exits(0);
    assert!(!kit.path("out/src/a.py").exists() && kit.path("out/src/sub").exists());

    // and the next backup heals it all
    kit.run(&["backup", "src"]).exits(0);
    kit.run(&["verify", "--read-data"]).exits(0);
    kit.run(&["repair", "--read-data"]).exits(0);
    kit.run(&["restore", "latest", "--target", "again"]).exits(0);
    assert_eq!(kit.read("again/src/new.py"), "print('new')\n");
}

#[test]
fn flipped_bits_are_found_with_read_data() {
    let kit = with_snapshots();
    let pack = kit.data_packs().into_iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
    damage(&pack, Damage::FlipByte { offset: 60, mask: 1 }).keep();
    kit.run(&["repair"]).exits(0);
    kit.run(&["repair", "--read-data"]).exits(4).says("store again what can be read").says("lost in snapshot");
    kit.run(&["repair", "--read-data", "--apply"]).exits(4).says("done:").says("quarantine/");
    assert!(!pack.exists() && kit.path("repo/quarantine").exists());
}

#[test]
fn damaged_records_and_segments_are_put_right_without_a_loss() {
    let kit = with_snapshots();
    let mut harmed = 0;
    for folder in ["index", "runs"] {
        for file in object_files(&kit.path("repo").join(folder)) {
            damage(&file, Damage::FlipByte { offset: 70, mask: 1 }).keep();
            harmed += 1;
        }
    }
    assert!(harmed >= 4);
    kit.run(&["repair"]).exits(4).says("anew in the index").says("runs/").says("to quarantine");
    kit.run(&["repair", "--apply"]).exits(0).says("everything that was wrong is put right");
    kit.run(&["verify", "--read-data"]).exits(0);
    kit.run(&["repair", "--read-data"]).exits(0);
    kit.run(&["restore", "latest", "--target", "out"]).exits(0);
    assert_eq!(kit.read("out/src/new.py"), "print('new')\n");
}

#[test]
fn a_configuration_comes_from_a_copy_only() {
    let kit = with_snapshots();
    damage(&kit.path("repo/lakebed.json"), Damage::Truncate { length: 100 }).keep();
    kit.run(&["repair"]).exits(4).says("lakebed.json").says("from a copy");
    damage(&kit.path("repo/lakebed.json"), Damage::Empty).keep();
    kit.run(&["repair", "--apply"]).exits(4).says("from a copy");
}

#[test]
fn a_snapshot_whose_record_is_damaged_is_told_as_lost() {
    let kit = with_snapshots();
    let record = object_files(&kit.path("repo/snapshots")).remove(0);
    damage(&record, Damage::FlipByte { offset: 70, mask: 1 }).keep();
    kit.run(&["snapshots"]).exits(4).says("lakebed repair");
    kit.run(&["repair"]).exits(4).says("all of it");
    kit.run(&["repair", "--apply"]).exits(4).says("its record; a copy of the repository may have it");
    kit.run(&["repair", "--apply"]).exits(0).says("nothing is wrong");
    assert_eq!(kit.run(&["--json", "snapshots"]).exits(0).result()["snapshots"].as_array().unwrap().len(), 1);
    kit.run(&["verify"]).exits(0);
}
