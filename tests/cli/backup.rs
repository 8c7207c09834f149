//! `backup` and what belongs to it.

use std::io::Write;
use std::process::Stdio;

use crate::kit::{Kit, said};

#[test]
fn a_path_is_stored_under_the_name_it_was_given_by() {
    let kit = Kit::with_repo();
    kit.file("other/c", "c");
    kit.run(&["backup", "src", "other"]).exits(0).says("saved");
    let listed = kit.run(&["ls", "latest", "--recursive"]).exits(0);
    for path in ["src/a.py", "src/sub/b.py", "other/c"] {
        assert!(listed.out.contains(path), "{listed:#?}");
    }
    let absolute = kit.path("src");
    kit.run(&["backup", absolute.to_str().unwrap()]).exits(0);
    let inside = format!("{}/a.py", absolute.to_str().unwrap().trim_start_matches('/'));
    assert_eq!(kit.run(&["cat", "latest", &inside]).exits(0).out, "print('a')\n");
    kit.run(&["backup", "src", "src/sub", "./src"]).exits(0);
}

#[test]
fn a_path_in_another_one_that_does_not_come_with_it_is_a_failure() {
    let kit = Kit::with_repo();
    kit.file("elsewhere/data", "1");
    std::os::unix::fs::symlink("../elsewhere", kit.path("src/link")).unwrap();
    kit.run(&["backup", "src", "src/link"]).exits(0);
    kit.run(&["backup", "src/sub/b.py", "src", "src/link", "src/a.py", "src/sub"]).exits(0);
    std::os::unix::fs::symlink("/nowhere", kit.path("src/dangling")).unwrap();
    kit.run(&["backup", "--one-file-system", "src", "src/dangling"]).exits(0);
    for arguments in [
        &["backup", "src", "src/link/data"][..],
        &["backup", "src", "src/link/"],
        &["backup", "src", "src/sub", "--exclude", "sub"],
        &["backup", "src", "src/sub/b.py", "--exclude", "sub"],
    ] {
        kit.run(arguments).exits(3).says(arguments[2].trim_end_matches('/')).says("does not come with it");
    }
    kit.run(&["backup", "src", "src/missing"]).exits(3).says("src/missing").says("No such file");
    // what marks a folder as a cache takes all that is in it along
    kit.file("src/sub/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");
    kit.run(&["backup", "src", "src/sub/b.py"]).exits(0);
    kit.run(&["backup", "src", "src/sub/b.py", "--exclude-caches"]).exits(3).says("does not come with it");
}

#[test]
fn the_second_night_reads_only_what_changed() {
    let kit = Kit::with_repo();
    let first = kit.run(&["--json", "backup", "src"]).exits(0).result();
    assert_eq!(first["summary"]["files_new"], 2, "{first:#}");
    // a file stamped within the clock's tick of a run is read again by the next one, on purpose
    let at_rest = |_: &u32| kit.run(&["--json", "backup", "src"]).exits(0).result()["summary"]["bytes_read"] == 0;
    assert!((0..100).any(|round| at_rest(&round)));
    kit.file("src/new.py", "print('new')\n");
    let second = kit.run(&["--json", "backup", "src"]).exits(0).result();
    assert_eq!(second["summary"]["files_new"], 1, "{second:#}");
    assert_eq!(second["summary"]["files_unmodified"], 2, "{second:#}");
    let forced = kit.run(&["--json", "backup", "--force", "src"]).exits(0).result();
    assert_eq!(forced["summary"]["files_unmodified"], 0, "{forced:#}");
    assert_eq!(forced["summary"]["bytes_new"], 0, "{forced:#}");
}

#[test]
fn an_unreadable_entry_is_recorded_and_the_exit_code_is_3() {
    if lakebed_testkit::is_root() {
        // root may read everything; a file that is there and cannot be opened is a socket's or a removed one's case
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let kit = Kit::with_repo();
    std::fs::set_permissions(kit.path("src/a.py"), std::fs::Permissions::from_mode(0o000)).unwrap();
    kit.run(&["backup", "src"]).exits(3).says("src/a.py");
    kit.run(&["snapshots"]).exits(0).says("partial");
    assert_eq!(kit.run(&["cat", "latest", "src/sub/b.py"]).exits(0).out, "print('b')\n");
}

#[test]
fn one_path_of_several_that_is_missing_makes_the_snapshot_partial() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "missing"]).exits(3).says("missing");
    kit.run(&["backup", "missing"]).exits(1).says("missing");
    kit.run(&["verify"]).exits(0);
}

#[test]
fn excludes_are_in_gitignore_syntax() {
    let kit = Kit::with_repo();
    for name in
        ["src/x.tmp", "src/sub/y.TMP", "src/sub/keep.tmp", "src/cache/z", "src/marked/in", "src/marked/.nobackup"]
    {
        kit.file(name, "x");
    }
    kit.file("src/cachedir/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    kit.file("src/cachedir/data", "x");
    kit.file("patterns", "# a comment\n*.tmp\n!keep.tmp\n");
    kit.run(&[
        "backup",
        "src",
        "--exclude",
        "/src/cache",
        "--iexclude",
        "y.tmp",
        "--exclude-file",
        "patterns",
        "--exclude-if-present",
        ".nobackup",
        "--exclude-caches",
    ])
    .exits(0);
    let listed = kit.run(&["ls", "latest", "--recursive"]).exits(0).out;
    for kept in ["src/a.py", "src/sub/keep.tmp", "src/marked/.nobackup", "src/cachedir/CACHEDIR.TAG"] {
        assert!(listed.contains(kept), "{kept} in {listed}");
    }
    for left_out in ["x.tmp", "y.TMP", "cache/z", "marked/in", "cachedir/data"] {
        assert!(!listed.contains(left_out), "{left_out} in {listed}");
    }
}

#[test]
fn the_repository_inside_the_source_is_left_out() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "."]).exits(0);
    let listed = kit.run(&["ls", "latest", "--recursive"]).exits(0).out;
    assert!(listed.contains("src/a.py"), "{listed}");
    assert!(!listed.contains("lakebed.json") && !listed.contains("packs/"), "{listed}");
}

#[test]
fn paths_come_from_files_and_content_from_streams() {
    let kit = Kit::with_repo();
    kit.file("list", "src/a.py\n# nothing\nsrc/sub\n");
    kit.run(&["backup", "--files-from", "list"]).exits(0);
    assert_eq!(kit.run(&["cat", "latest", "src/a.py"]).exits(0).out, "print('a')\n");

    let mut child = kit
        .command(&["backup", "--stdin", "dump.sql"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let dump = "insert into t values (1);\n".repeat(50_000);
    child.stdin.take().unwrap().write_all(dump.as_bytes()).unwrap();
    said(child.wait_with_output().unwrap()).exits(0);
    assert_eq!(kit.run(&["cat", "latest", "dump.sql"]).exits(0).out, dump);

    kit.run(&["backup", "--command", "hello", "--", "echo", "hello"]).exits(0);
    assert_eq!(kit.run(&["cat", "latest", "hello"]).exits(0).out, "hello\n");
    let before = kit.run(&["--json", "snapshots"]).result();
    kit.run(&["backup", "--command", "bad", "--", "sh", "-c", "echo half; exit 7"]).exits(1);
    assert_eq!(kit.run(&["--json", "snapshots"]).result(), before);
}

#[test]
fn a_dry_run_writes_nothing_and_skip_if_unchanged_makes_no_snapshot() {
    let kit = Kit::with_repo();
    let objects = || lakebed_testkit::damage::object_files(&kit.path("repo"));
    let before = objects();
    kit.run(&["backup", "--dry-run", "src"]).exits(0);
    assert_eq!(objects(), before);
    kit.run(&["backup", "src"]).exits(0);
    kit.run(&["backup", "--skip-if-unchanged", "src"]).exits(0);
    let snapshots = kit.run(&["--json", "snapshots"]).result();
    assert_eq!(snapshots["snapshots"].as_array().map(Vec::len), Some(1), "{snapshots:#}");
}

#[test]
fn tags_description_host_and_time_are_kept_and_can_be_asked_for() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "--tag", "nightly,lake", "--host", "node1", "--time", "2026-01-02T03:04:05Z"]).exits(0);
    kit.run(&["backup", "src", "--tag", "manual", "--description", "before the migration"]).exits(0);
    let count = |arguments: &[&str]| {
        let all = [&["--json", "snapshots"], arguments].concat();
        kit.run(&all).exits(0).result()["snapshots"].as_array().map(Vec::len).unwrap()
    };
    assert_eq!(count(&["--tag", "lake"]), 1);
    assert_eq!(count(&["--host", "node1"]), 1);
    assert_eq!(count(&["--until", "2026-01-03"]), 1);
    assert_eq!(count(&["--since", "2026-01-03"]), 1);
    assert_eq!(count(&["--path", "src"]), 2);
    kit.run(&["tag", "latest", "--add", "gold", "--remove", "manual"]).exits(0);
    assert_eq!(count(&["--tag", "gold"]), 1);
    assert_eq!(count(&["--tag", "manual"]), 0);
    kit.run(&["verify"]).exits(0);
}
