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
fn a_restore_says_that_its_snapshot_is_partial() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "missing"]).exits(3);
    kit.run(&["restore", "latest", "--target", "out"]).exits(0).says("partial: 1 path ");
    kit.run(&["backup", "src"]).exits(0);
    let whole = kit.run(&["restore", "latest", "--target", "whole"]).exits(0);
    assert!(!whole.err.contains("partial"), "{whole:#?}");
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
    use std::os::unix::fs::PermissionsExt;
    let kit = Kit::with_repo();
    kit.file("src/edited.py", "as it was");
    kit.run(&["backup", "src"]).exits(0);
    let id = kit.run(&["--json", "snapshots"]).result()["snapshots"][0]["id"].as_str().unwrap().to_owned();
    // as a restore that was killed leaves it: its marker, a whole file, a part of another, a directory not yet finished
    kit.run(&["restore", "latest", "--target", "out"]).exits(0);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    kit.file("out/.lakebed-restore", &format!("{id} {} {}", boot.trim(), space.display()));
    kit.file("out/src/sub/b.py", "pri");
    let chmod = |name: &str, mode: u32| {
        std::fs::set_permissions(kit.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    chmod("out/src/sub/b.py", 0o200);
    chmod("out/src/sub", 0o700);
    // and what somebody wrote there since
    kit.file("out/src/edited.py", "edited since");
    kit.run(&["restore", "latest", "--target", "out"]).exits(0).says("continued");
    assert_eq!(kit.read("out/src/sub/b.py"), "print('b')\n");
    assert_eq!(kit.read("out/src/edited.py"), "edited since");
    let mode = |name: &str| std::fs::metadata(kit.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("out/src/sub"), mode("src/sub"));
    assert_eq!(mode("out/src/sub/b.py"), mode("src/sub/b.py"));
    assert!(!kit.path("out/.lakebed-restore").exists());
}

#[test]
fn links_in_the_target_are_not_followed_and_directories_not_swept_away() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    kit.file("elsewhere/precious", "precious");
    std::fs::create_dir_all(kit.path("out/src")).unwrap();
    std::os::unix::fs::symlink(kit.path("elsewhere"), kit.path("out/src/sub")).unwrap();
    kit.file("out/src/a.py/inside", "a directory where a file should be");
    kit.run(&["restore", "latest", "--target", "out", "--include", "b.py"]).exits(3);
    assert!(!kit.path("elsewhere/b.py").exists());
    kit.run(&["restore", "latest", "--target", "out", "--overwrite", "always"]).exits(3).says("a.py");
    assert_eq!(kit.read("out/src/a.py/inside"), "a directory where a file should be");
    assert_eq!(kit.read("out/src/sub/b.py"), "print('b')\n");
    assert!(!kit.path("elsewhere/b.py").exists() && kit.path("elsewhere/precious").exists());
    kit.run(&["restore", "latest", "--target", "out", "--overwrite", "always", "--delete"]).exits(0);
    assert_eq!(kit.read("out/src/a.py"), "print('a')\n");
}

#[test]
fn a_folder_that_cannot_be_restored_for_a_link_in_its_place_makes_the_exit_code_3() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    std::fs::create_dir_all(kit.path("out/src")).unwrap();
    std::os::unix::fs::symlink("/nowhere", kit.path("out/src/sub")).unwrap();
    kit.run(&["restore", "latest", "--target", "out"])
        .exits(3)
        .says("out/src/sub")
        .says("a symbolic link stands there");
    assert_eq!(kit.read("out/src/a.py"), "print('a')\n");
    kit.run(&["restore", "latest", "--target", "out", "--overwrite", "always"]).exits(0);
    assert_eq!(kit.read("out/src/sub/b.py"), "print('b')\n");
}

#[test]
fn delete_leaves_alone_what_was_not_asked_for() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    for name in ["out/foreign", "out/src/x.log", "out/src/old.py"] {
        kit.file(name, "there before");
    }
    kit.run(&["restore", "latest", "--target", "out", "--delete", "--exclude", "*.log", "--include", "*.py"]).exits(0);
    assert!(kit.path("out/foreign").exists() && kit.path("out/src/x.log").exists());
}

#[test]
fn delete_spares_what_is_excluded_however_deep() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    kit.file("out/src/old/sub/secret", "kept");
    kit.file("out/src/old/sub/other", "gone");
    kit.file("out/src/plain/sub/other", "gone");
    kit.run(&["restore", "latest", "--target", "out", "--delete", "--exclude", "secret"]).exits(0);
    assert_eq!(kit.read("out/src/old/sub/secret"), "kept");
    assert!(!kit.path("out/src/old/sub/other").exists() && !kit.path("out/src/plain").exists());
}

/// A backup leaves the repository and the cache out: that they are not in the snapshot says nothing.
#[test]
fn delete_spares_the_repository_itself() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "."]).exits(0);
    kit.file("src/later.py", "gone");
    kit.run(&["restore", "latest", "--target", ".", "--delete"]).exits(0).says("not deleted");
    assert!(!kit.path("src/later.py").exists() && kit.path("src/a.py").exists());
    kit.run(&["verify", "--read-data"]).exits(0);
}

/// Its packs may lie on another disk, where a link leads.
#[test]
fn delete_spares_the_repositorys_packs_wherever_they_lie() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    std::fs::create_dir(kit.path("src/big")).unwrap();
    std::fs::rename(kit.path("repo/packs"), kit.path("src/big/packs")).unwrap();
    std::os::unix::fs::symlink(kit.path("src/big/packs"), kit.path("repo/packs")).unwrap();
    kit.file("src/extra", "extra");
    kit.run(&["restore", "latest", "--target", ".", "--delete"]).exits(0).says("not deleted");
    assert!(!kit.path("src/extra").exists());
    kit.run(&["verify", "--read-data"]).exits(0);
}

#[test]
fn delete_does_not_touch_what_lies_beside_what_was_backed_up() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src/sub"]).exits(0);
    for name in ["out/other", "out/src/other", "out/src/sub/other"] {
        kit.file(name, "not in the snapshot");
    }
    kit.run(&["restore", "latest", "--target", "out", "--delete"]).exits(0);
    assert!(kit.path("out/other").exists() && kit.path("out/src/other").exists());
    assert!(!kit.path("out/src/sub/other").exists());
}

#[test]
fn delete_spares_what_the_backup_could_not_read() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "src/missing"]).exits(3);
    kit.file("out/src/missing/survivor", "the only copy");
    kit.file("out/src/other", "gone");
    let said = kit.run(&["restore", "latest", "--target", "out", "--delete"]).exits(0);
    said.says("1 entry was not deleted").says("could not look");
    assert_eq!(kit.read("out/src/missing/survivor"), "the only copy");
    assert!(!kit.path("out/src/other").exists());
    let again = kit.run(&["--json", "restore", "latest", "--target", "out", "--delete"]).exits(0).result();
    assert_eq!(again["spared"], 1, "{again:#}");
}

#[test]
fn an_unfinished_restore_of_another_snapshot_is_not_built_upon() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    kit.file("out/.lakebed-restore", &format!("{} boot", "ab".repeat(32)));
    kit.file("out/src/a.py", "pri");
    kit.run(&["restore", "latest", "--target", "out"]).exits(2).says("interrupted");
    assert_eq!(kit.read("out/src/a.py"), "pri");
}
