//! Bad input: one clear error that names the thing and the remedy, the right exit code, and nothing changed.

use crate::kit::{Kit, said};

#[test]
fn exit_codes_are_those_of_the_manual() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    kit.run(&["--repo", "nowhere", "snapshots"]).exits(10).says("nowhere").says("lakebed init");
    assert!(!kit.path("nowhere").exists());
    kit.run(&["backup"]).exits(2);
    kit.run(&["no-such-command"]).exits(2);
    kit.run(&["restore", "latest"]).exits(2).says("--target");
    kit.run(&["ls", "ffffffff"]).exits(1).says("ffffffff").says("lakebed snapshots");
    kit.run(&["cat", "latest", "src/none"]).exits(1).says("src/none");
    kit.run(&["cat", "latest", "../etc/passwd"]).exits(2).says("../etc/passwd");
    kit.run(&["init"]).exits(1).says("already");
    let wrong = kit.command(&["snapshots"]).env("LAKEBED_PASSWORD", "wrong").output().unwrap();
    said(wrong).exits(12);
    let none = kit.command(&["snapshots"]).env_remove("LAKEBED_PASSWORD").output().unwrap();
    said(none).exits(1).says("LAKEBED_PASSWORD");
}

#[test]
fn errors_come_as_json_where_json_is_asked_for() {
    let kit = Kit::with_repo();
    let error = kit.run(&["--json", "ls", "ffffffff"]).exits(1).json();
    assert_eq!(error["error"]["exit_code"], 1, "{error:#}");
    assert!(error["error"]["message"].as_str().unwrap().contains("ffffffff"), "{error:#}");
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let kit = Kit::with_repo();
    for arguments in [
        &["backup", "src", "--compression", "23"][..],
        &["backup", "src", "--time", "yesterdayish"],
        &["backup", "src", "--limit-read", "fast"],
        &["snapshots", "--since", "never"],
        &["verify", "--budget", "much"],
        &["verify", "--sample", "200%"],
        &["restore", "latest", "--target", "x", "--overwrite", "perhaps"],
        &["--memory", "lots", "snapshots"],
    ] {
        let said = kit.run(arguments).exits(2);
        assert!(said.err.contains(arguments.last().unwrap()) || said.err.contains(arguments[1]), "{said:#?}");
    }
    kit.run(&["backup", "src", "--exclude", "[a-"]).exits(2).says("[a-");
    kit.run(&["backup", "src", "--exclude-file", "no-such-file"]).exits(1).says("no-such-file");
    assert!(kit.run(&["--json", "snapshots"]).result()["snapshots"].as_array().unwrap().is_empty());
}

#[test]
fn keys_can_be_added_listed_changed_and_removed() {
    let kit = Kit::with_repo();
    std::fs::write(kit.path("key"), [9; 64]).unwrap();
    kit.run(&["key", "add", "--new-key-file", "key", "--label", "robot"]).exits(0);
    kit.run(&["key", "list"]).exits(0).says("robot");
    let by_file = |arguments: &[&str]| {
        let mut command = kit.command(arguments);
        command.env_remove("LAKEBED_PASSWORD").env("LAKEBED_KEY_FILE", kit.path("key"));
        said(command.output().unwrap())
    };
    by_file(&["snapshots"]).exits(0);
    kit.file("new-password", "another\n");
    kit.run(&["key", "passwd", "--new-password-file", "new-password"]).exits(0);
    kit.run(&["snapshots"]).exits(12);
    let mut command = kit.command(&["snapshots", "--password-file", "new-password"]);
    said(command.env_remove("LAKEBED_PASSWORD").output().unwrap()).exits(0);
    let mut command = kit.command(&["snapshots", "--password-command", "echo another"]);
    said(command.env_remove("LAKEBED_PASSWORD").output().unwrap()).exits(0);
    let keys = by_file(&["--json", "key", "list"]).exits(0).result();
    let robot = keys["keys"].as_array().unwrap().iter().find(|key| key["label"] == "robot").unwrap();
    let other = keys["keys"].as_array().unwrap().iter().find(|key| key["label"] != "robot").unwrap();
    by_file(&["key", "remove", other["id"].as_str().unwrap()]).exits(0);
    by_file(&["key", "remove", robot["id"].as_str().unwrap()]).exits(1).says("last");
    by_file(&["key", "remove", "zzzz"]).exits(1);
}

#[test]
fn an_unencrypted_repository_needs_no_secret() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    kit.run(&["init", "--no-encryption"]).exits(0);
    let without = |arguments: &[&str]| said(kit.command(arguments).env_remove("LAKEBED_PASSWORD").output().unwrap());
    without(&["backup", "src"]).exits(0);
    without(&["verify", "--read-data"]).exits(0);
    assert_eq!(without(&["cat", "latest", "src/a"]).exits(0).out, "a");
    kit.run(&["snapshots"]).exits(0);
}

#[test]
fn secrets_reach_no_output() {
    let kit = Kit::with_repo();
    for arguments in [&["backup", "src"][..], &["-v", "snapshots"], &["--json", "verify"], &["ls", "nope"]] {
        let mut command = kit.command(arguments);
        let said = said(command.env("LAKEBED_PASSWORD", "hunter2-hunter2").output().unwrap());
        assert!(!said.out.contains("hunter2") && !said.err.contains("hunter2"), "{said:#?}");
    }
}

#[test]
fn an_index_is_rebuilt_on_request_and_by_itself() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    kit.run(&["index", "rebuild"]).exits(0);
    kit.run(&["index", "rebuild", "--read-packs"]).exits(0);
    std::fs::remove_dir_all(kit.path("cache")).unwrap();
    kit.run(&["verify", "--read-data"]).exits(0);
}
