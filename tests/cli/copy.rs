//! `copy`: from one repository into another, by their names and secrets.

use lakebed_testkit::damage::{Damage, damage, object_files};
use serde_json::Value;

use crate::kit::Kit;

/// A kit with a repository `repo` of two snapshots and an empty one, `other`, of another password.
fn kit() -> Kit {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "--tag", "first", "--host", "db1"]).exits(0);
    kit.file("src/new.py", "print('new')\n");
    kit.run(&["backup", "src"]).exits(0);
    kit.file("other-password", "another secret\n");
    kit.run(&["init", "--repo", "other", "--password-file", "other-password"]).exits(0);
    kit
}

const INTO_OTHER: [&str; 7] = ["copy", "--from-repo", "repo", "--repo", "other", "--password-file", "other-password"];

impl Kit {
    fn copy(&self, more: &[&str]) -> crate::kit::Said {
        let arguments = [&INTO_OTHER[..], more].concat();
        let output = self.command(&arguments).env("LAKEBED_FROM_PASSWORD", "secret").output().unwrap();
        crate::kit::said(output)
    }

    fn other(&self, arguments: &[&str]) -> crate::kit::Said {
        self.run(&[arguments, &["--repo", "other", "--password-file", "other-password"]].concat())
    }
}

fn outcomes(result: &Value) -> Vec<&str> {
    result["snapshots"].as_array().unwrap().iter().map(|copied| copied["outcome"].as_str().unwrap()).collect()
}

#[test]
fn snapshots_are_copied_once_and_can_be_used_there() {
    let kit = kit();
    let dry = kit.copy(&["--dry-run"]).exits(0).says("would be copied").says("dry run");
    assert_eq!(dry.out.matches("would be copied").count(), 2, "{dry:#?}");
    assert!(kit.other(&["snapshots"]).exits(0).out.contains("no snapshots"));

    kit.copy(&[]).exits(0).says("copied as").says("2 snapshots copied, 0 there already");
    kit.copy(&[]).exits(0).says("there already, as").says("0 snapshots copied, 2 there already");
    assert_eq!(kit.other(&["cat", "latest", "src/new.py"]).exits(0).out, "print('new')\n");
    kit.other(&["verify", "--read-data"]).exits(0);
    let mine = kit.run(&["--json", "snapshots"]).exits(0);
    let theirs = kit.other(&["--json", "snapshots"]).exits(0);
    let (id, mine, theirs) = (mine.json()["repository"]["id"].clone(), mine.result(), theirs.result());
    for number in 0..2 {
        let (mine, theirs) = (&mine["snapshots"][number], &theirs["snapshots"][number]);
        for key in ["time", "host", "user", "tags", "description", "sources", "tool", "complete"] {
            assert_eq!(mine[key], theirs[key], "{key}");
        }
        assert_eq!(theirs["original"]["repository"], id);
        assert_eq!(theirs["original"]["snapshot"], mine["id"]);
        assert_eq!(mine["original"], Value::Null);
    }
}

#[test]
fn snapshots_are_chosen_by_name_and_by_filter() {
    let kit = kit();
    let result = kit.copy(&["--json", "--tag", "first"]).exits(0).result();
    assert_eq!(outcomes(&result), ["copied"]);
    assert_eq!(result["from"]["encryption"], "aes-256-gcm", "{result:#}");
    let result = kit.copy(&["--json", "latest", "@2099-01-01"]).exits(0).result();
    assert_eq!((outcomes(&result), &result["complete"]), (vec!["copied"], &Value::Bool(true)));
    let result = kit.copy(&["--json", "latest", "--host", "db1"]).exits(0).result();
    assert_eq!(outcomes(&result), ["present"]);
    kit.copy(&["ffff"]).exits(1).says("No snapshot matches");
}

#[test]
fn damage_is_told_left_out_and_healed_from_the_copy() {
    let kit = kit();
    let packs = |repo: &str| {
        let all = object_files(&kit.path(repo)).into_iter();
        all.filter(|file| file.parent().unwrap().parent().unwrap().ends_with("packs")).collect::<Vec<_>>()
    };
    // the chunk of src/new.py, which is small and in a pack of its own
    let newest = packs("repo").into_iter().filter(|pack| damages_only_new(&kit, pack)).collect::<Vec<_>>();
    let undo = damage(&newest[0], Damage::FlipByte { offset: 30, mask: 1 });
    let said = kit.copy(&["--json"]).exits(4);
    let result = said.result();
    assert_eq!((outcomes(&result), &result["complete"]), (vec!["copied"; 2], &Value::Bool(false)));
    assert_eq!(result["snapshots"][1]["failures"][0]["path"], "src/new.py", "{result:#}");
    kit.copy(&[]).exits(4).says("1 entry damaged and left out").says("src/new.py");
    kit.other(&["snapshots"]).exits(0).says("partial");
    undo.restore();
    kit.copy(&[]).exits(0).says("1 snapshot copied, 1 there already");

    // and the other way round: what the first repository loses comes back from the second
    packs("repo").iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let back =
        ["copy", "--from-repo", "other", "--from-password-file", "other-password", "--repo", "repo", "--tag", "first"];
    kit.run(&back).exits(0).says("healed");
    let restored = kit.run(&["cat", "@2099-01-01", "src/a.py", "--host", "db1"]);
    assert_eq!(restored.exits(0).out, "print('a')\n");
    kit.run(&back).exits(0).says("there already");
}

/// Tells whether the newest snapshot lacks nothing but `src/new.py` without a pack.
fn damages_only_new(kit: &Kit, pack: &std::path::Path) -> bool {
    let undo = damage(pack, Damage::FlipByte { offset: 30, mask: 1 });
    let reads = |path: &str| kit.run(&["cat", "latest", path]).code == 0;
    let only_new = reads("src/a.py") && !reads("src/new.py") && kit.run(&["ls", "latest", "-R"]).code == 0;
    undo.restore();
    only_new
}

#[test]
fn what_is_missing_or_wrong_about_the_two_repositories_is_said() {
    let kit = kit();
    kit.run(&["copy", "--repo", "other"]).exits(2).says("--from-repo");
    kit.run(&["copy", "--from-repo", "repo", "--from-key-file", "nowhere"]).exits(1).says("nowhere");
    let from_password = ["--from-password-command", "echo secret"];
    kit.run(&[&["copy", "--from-repo", "repo"][..], &from_password].concat()).exits(2).says("copied into itself");
    kit.run(&[&["copy", "--from-repo", "gone"][..], &from_password].concat()).exits(10).says("gone");
    // the destination's password is not the source's
    let wrong = kit.command(&INTO_OTHER).env("LAKEBED_FROM_PASSWORD", "another secret").output().unwrap();
    crate::kit::said(wrong).exits(12);
}

#[test]
fn a_repository_for_copies_cuts_files_as_the_one_that_it_is_copied_from() {
    let kit = Kit::with_repo();
    let config = |folder: &str| -> serde_json::Value {
        serde_json::from_str(&kit.read(&format!("{folder}/lakebed.json"))).unwrap()
    };
    kit.run(&["init", "--repo", "coarse", "--chunk-size", "1MiB"]).exits(0);
    kit.run(&["init", "--repo", "copy", "--from-repo", "coarse"]).exits(0);
    assert_eq!(config("copy")["chunker"], config("coarse")["chunker"]);
    assert_ne!(config("copy")["chunker"], config("repo")["chunker"]);
    assert_ne!(config("copy")["repository_id"], config("coarse")["repository_id"]);
    kit.run(&["init", "--repo", "open", "--no-encryption"]).exits(0);
    kit.run(&["init", "--repo", "open-copy", "--from-repo", "open"]).exits(0).says("not encrypted");
    kit.run(&["init", "--repo", "none", "--from-repo", "nowhere"]).exits(10);
    assert!(!kit.path("none").exists());
}
