//! `restore`, by the person who needs it at night.

use crate::kit::Kit;

#[test]
fn a_file_comes_back_as_it_was_at_a_time() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "--time", "2026-01-01T02:00:00Z"]).exits(0);
    kit.file("src/a.py", "print('broken')\n");
    kit.run(&["backup", "src", "--time", "2026-01-02T02:00:00Z"]).exits(0);
    kit.run(&["restore", "--at", "2026-01-01 12:00", "--target", "out", "--path", "src/a.py"]).exits(0);
    assert_eq!(kit.read("out/src/a.py"), "print('a')\n");
    assert!(!kit.path("out/src/sub").exists());
    kit.run(&["restore", "latest", "--target", "new"]).exits(0);
    assert_eq!(kit.read("new/src/a.py"), "print('broken')\n");
    kit.run(&["restore", "--at", "2025-01-01", "--target", "none"]).exits(1);
    assert!(!kit.path("none").exists());
}

#[test]
fn what_is_there_is_only_replaced_when_asked() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    kit.file("out/src/a.py", "mine");
    kit.file("out/src/extra", "extra");
    kit.run(&["restore", "latest", "--target", "out"]).exits(0);
    assert_eq!(kit.read("out/src/a.py"), "mine");
    assert_eq!(kit.read("out/src/sub/b.py"), "print('b')\n");
    kit.run(&["restore", "latest", "--target", "out", "--overwrite", "always", "--delete", "--dry-run"]).exits(0);
    assert_eq!(kit.read("out/src/a.py"), "mine");
    assert!(kit.path("out/src/extra").exists());
    kit.run(&["restore", "latest", "--target", "out", "--overwrite", "if-changed", "--delete"]).exits(0);
    assert_eq!(kit.read("out/src/a.py"), "print('a')\n");
    assert!(!kit.path("out/src/extra").exists());
    let again = kit.run(&["--json", "restore", "latest", "--target", "out", "--overwrite", "always"]).exits(0).result();
    assert_eq!(again["replaced"], 0, "{again:#}");
}

#[test]
fn globs_choose_what_comes_back() {
    let kit = Kit::with_repo();
    kit.file("src/c.sql", "select 1");
    kit.run(&["backup", "src"]).exits(0);
    kit.run(&["restore", "latest", "--target", "out", "--include", "*.py", "--exclude", "sub"]).exits(0);
    assert!(kit.path("out/src/a.py").exists());
    assert!(!kit.path("out/src/c.sql").exists() && !kit.path("out/src/sub").exists());
    kit.run(&["restore", "latest", "--target", "out2", "--path", "nothing/here"]).exits(1).says("nothing/here");
}

#[test]
fn an_interrupted_restore_is_continued() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    let id = kit.run(&["--json", "snapshots"]).result()["snapshots"][0]["id"].as_str().unwrap().to_owned();
    // as a restore that was killed leaves it: its marker, a whole file, and a part of another
    kit.run(&["restore", "latest", "--target", "out"]).exits(0);
    kit.file("out/.lakebed-restore", &id);
    kit.file("out/src/sub/b.py", "pri");
    kit.run(&["restore", "latest", "--target", "out"]).exits(0);
    assert_eq!(kit.read("out/src/sub/b.py"), "print('b')\n");
    assert!(!kit.path("out/.lakebed-restore").exists());
}
