//! What a user meets where something is missing: room, permission, open files, memory.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lakebed_testkit::compare::{CompareOptions, assert_same_tree};
use lakebed_testkit::damage::{Damage, damage, object_files};
use lakebed_testkit::disk::with_mounts;
use lakebed_testkit::is_root;

use crate::kit::{Kit, Said, said};

/// Number of the user `nobody`.
const NOBODY: u32 = 65534;

/// Makes many small files, so that the index is larger than a small disk.
fn many_files(kit: &Kit, below: &str, folders: usize, files: usize) {
    for folder in 0..folders {
        for file in 0..files {
            kit.file(&format!("{below}/{folder:03}/{file:03}"), &format!("{below} {folder} {file}"));
        }
    }
}

/// Every command that only reads, and a restore that is compared with the source.
fn assert_readable(kit: &Kit, target: &str, run: &dyn Fn(&[&str]) -> Said) {
    run(&["snapshots"]).exits(0);
    run(&["ls", "latest"]).exits(0);
    run(&["verify"]).exits(0);
    run(&["verify", "--read-data"]).exits(0);
    run(&["restore", "latest", "--path", "src", "--target", target]).exits(0);
    assert_same_tree(&kit.path("src"), &Path::new(target).join("src"), &CompareOptions::default());
}

fn out(kit: &Kit, name: &str) -> String {
    kit.path(name).display().to_string()
}

#[test]
fn an_empty_cache_on_a_full_disk_leads_to_memory() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    with_mounts(|mounts| {
        let cache = mounts.disk(&kit.path("cache"), 1 << 20);
        cache.fill();
        kit.run(&["init"]).exits(0);
        kit.run(&["backup", "src"]).exits(0).says("kept in memory");
        assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
        kit.file("src/b", "b");
        kit.run(&["backup", "src"]).exits(0);
        assert_readable(&kit, &out(&kit, "out-2"), &|arguments| kit.run(arguments));
        kit.run(&["index", "rebuild"]).exits(1).says("free space where").says("cache");
        cache.empty();
        let said = kit.run(&["backup", "src"]).exits(0);
        assert!(!said.err.contains("index"), "{said:#?}");
        kit.run(&["index", "rebuild"]).exits(0);
    });
}

#[test]
fn an_index_whose_disk_is_full_is_read_as_it_is() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    with_mounts(|mounts| {
        let cache = mounts.disk(&kit.path("cache"), 2 << 20);
        kit.run(&["init"]).exits(0);
        kit.run(&["backup", "src"]).exits(0);
        cache.fill();
        let before = names_below(&kit.path("cache"));
        assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
        kit.file("src/b", "b");
        kit.run(&["backup", "src"]).exits(0).says("not written");
        assert_readable(&kit, &out(&kit, "out-2"), &|arguments| kit.run(arguments));
        // it was neither thrown away nor made anew
        assert_eq!(folders(&before), folders(&names_below(&kit.path("cache"))));
        cache.empty();
        let said = kit.run(&["backup", "src"]).exits(0);
        assert!(!said.err.contains("index"), "{said:#?}");
        assert_eq!(folders(&before), folders(&names_below(&kit.path("cache"))));
    });
}

fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.display().to_string());
        if path.is_dir() {
            names.extend(names_below(&path));
        }
    }
    names.sort();
    names
}

fn folders(names: &[String]) -> Vec<&String> {
    names.iter().filter(|name| name.contains("rocks-") && !name.contains("rocks-1/")).collect()
}

/// The disk of the cache is full as soon as the index is begun, while it is written, or when it is to be kept.
#[test]
fn a_cache_disk_that_fills_up_while_the_index_is_written_costs_nothing() {
    let kit = Kit::new();
    kit.run(&["init"]).exits(0);
    // several segments, each of which alone nearly fills the buffer that RocksDB has with so little memory
    for part in ["a", "b", "c"] {
        many_files(&kit, &format!("src/{part}"), 80, 100);
        kit.run(&["backup", "src"]).exits(0);
    }
    for kib in [16, 64, 256, 600, 1000, 1400] {
        with_mounts(|mounts| {
            let small = kit.path(&format!("small-{kib}"));
            mounts.disk(&small, kib << 10);
            let run = |arguments: &[&str]| {
                let mut command = kit.command(arguments);
                said(command.env("LAKEBED_CACHE_DIR", &small).env("LAKEBED_MEMORY", "1MiB").output().unwrap())
            };
            let target = out(&kit, &format!("out-{kib}"));
            run(&["verify"]).exits(0).says("the local index").says("No space left on device");
            run(&["backup", "src"]).exits(0).says("0 B new");
            run(&["restore", "latest", "--path", "src/b/007", "--target", &target]).exits(0);
            assert_same_tree(&kit.path("src/b/007"), &Path::new(&target).join("src/b/007"), &CompareOptions::default());
        });
    }
}

#[test]
fn a_cache_that_may_only_be_read_is_read() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    with_mounts(|mounts| {
        mounts.make_read_only(&kit.path("cache"));
        assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
        kit.file("src/b", "b");
        kit.run(&["backup", "src"]).exits(0).says("not written").says("Read-only file system");
        assert_readable(&kit, &out(&kit, "out-2"), &|arguments| kit.run(arguments));
    });
    kit.run(&["verify", "--read-data"]).exits(0);
}

#[test]
fn a_cache_that_may_not_even_be_looked_at_is_not_used() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    let run = as_nobody(&kit, &["repo", "src"]);
    let forbidden = kit.path("forbidden");
    std::fs::create_dir(&forbidden).unwrap();
    set_mode(&forbidden, if is_root() { 0o700 } else { 0 });
    let cache = forbidden.join("cache");
    let run = |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--cache-dir", cache.to_str().unwrap()]);
        run(&arguments)
    };
    std::fs::create_dir(kit.path("out")).unwrap();
    set_mode(&kit.path("out"), 0o777);
    assert_readable(&kit, &out(&kit, "out/1"), &run);
    kit.file("src/b", "b");
    give(&kit.path("src/b"));
    run(&["backup", "src"]).exits(0).says("Permission denied");
    assert_readable(&kit, &out(&kit, "out/2"), &run);
    set_mode(&forbidden, 0o700);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives a file or folder to the user `nobody`, where we may.
fn give(path: &Path) {
    if is_root() {
        std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        if path.is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
        }
    }
}

/// Runs commands as a user whom permissions hold back, who owns the given folders of the kit.
fn as_nobody<'a>(kit: &'a Kit, owns: &[&str]) -> impl Fn(&[&str]) -> Said + use<'a> {
    set_mode(kit.folder.path(), 0o755);
    owns.iter().for_each(|name| give(&kit.path(name)));
    // where it was built that user may not be able to go
    let program = kit.path("lakebed");
    std::fs::copy(env!("CARGO_BIN_EXE_lakebed"), &program).unwrap();
    move |arguments| {
        let mut command = Command::new(&program);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.args(arguments);
        said(in_kit(kit, command).output().unwrap())
    }
}

/// Gives a command the folder and the environment that commands of the kit have.
fn in_kit(kit: &Kit, mut command: Command) -> Command {
    command.current_dir(kit.folder.path()).env_clear();
    for (name, value) in kit.command(&[]).get_envs() {
        command.env(name, value.unwrap());
    }
    command
}

/// Returns the objects of a repository, without what is being written.
fn objects(kit: &Kit) -> Vec<PathBuf> {
    object_files(&kit.path("disk/repo"))
}

fn in_repo(kit: &Kit, arguments: &[&str]) -> Said {
    let mut command = kit.command(arguments);
    said(command.env("LAKEBED_REPO", kit.path("disk/repo")).output().unwrap())
}

#[test]
fn a_repository_on_a_full_disk_can_be_read_and_backed_up_into_again_when_there_is_room() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    kit.file("src/sub/b", "b");
    with_mounts(|mounts| {
        let disk = mounts.disk(&kit.path("disk"), 12 << 20);
        let run = |arguments: &[&str]| in_repo(&kit, arguments);
        run(&["init"]).exits(0);
        run(&["backup", "src"]).exits(0);
        disk.fill();
        let before = objects(&kit);
        assert_readable(&kit, &out(&kit, "out"), &run);
        kit.file("src/new", "new");
        for _ in 0..2 {
            run(&["backup", "src"])
                .exits(1)
                .says("No space left on device")
                .says("free space where the repository lies");
        }
        run(&["tag", "latest", "--add", "x"]).exits(1).says("free space where the repository lies");
        assert_eq!(objects(&kit), before);
        assert_eq!(std::fs::read_dir(kit.path("disk/repo/tmp")).unwrap().count(), 0);
        disk.empty();
        run(&["backup", "src"]).exits(0);
        assert_readable(&kit, &out(&kit, "out-2"), &run);
        assert_eq!(run(&["--json", "snapshots"]).result()["snapshots"].as_array().unwrap().len(), 2);
    });
}

#[test]
fn a_disk_that_fills_up_during_a_backup_ends_it_without_a_snapshot() {
    let kit = Kit::new();
    kit.file("src/a", "a");
    with_mounts(|mounts| {
        let disk = mounts.disk(&kit.path("disk"), 24 << 20);
        let run = |arguments: &[&str]| in_repo(&kit, arguments);
        run(&["init"]).exits(0);
        run(&["backup", "src"]).exits(0);
        std::fs::create_dir(kit.path("src/large")).unwrap();
        for number in 0..30u64 {
            let bytes = lakebed_testkit::tree::Content::random(number, 1 << 20).bytes();
            std::fs::write(kit.path(&format!("src/large/{number}")), bytes).unwrap();
        }
        run(&["backup", "src"]).exits(1).says("free space where the repository lies");
        assert_eq!(
            std::fs::read_dir(kit.path("disk/repo/tmp")).unwrap().count(),
            0,
            "what cannot be kept goes at once"
        );
        assert_eq!(run(&["--json", "snapshots"]).result()["snapshots"].as_array().unwrap().len(), 1);
        run(&["verify", "--read-data"]).exits(0);
        std::fs::remove_dir_all(kit.path("src/large")).unwrap();
        kit.file("src/b", "b");
        run(&["backup", "src"]).exits(0);
        assert_readable(&kit, &out(&kit, "out"), &run);
        drop(disk);
    });
}

#[test]
fn a_repository_that_may_only_be_read_is_read() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    with_mounts(|mounts| {
        mounts.make_read_only(&kit.path("repo"));
        assert_readable(&kit, &out(&kit, "out"), &|arguments| kit.run(arguments));
        kit.file("src/new", "new");
        kit.run(&["backup", "src"]).exits(1).says("mounted read-only");
        kit.run(&["verify", "--read-data"]).exits(0).says("not entered in the repository's ledger");
    });
    kit.run(&["backup", "src"]).exits(0);
    assert_readable(&kit, &out(&kit, "out-2"), &|arguments| kit.run(arguments));
}

#[test]
fn a_repository_whose_owner_took_the_right_to_write_away_is_read() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    std::fs::create_dir(kit.path("out")).unwrap();
    std::fs::create_dir_all(kit.path("cache")).unwrap();
    let run = as_nobody(&kit, &["repo", "src", "out", "cache"]);
    change_modes(&kit.path("repo"), 0o555, 0o444);
    assert_readable(&kit, &out(&kit, "out/1"), &run);
    run(&["backup", "src"]).exits(1).says("Permission denied").says("check the owner and mode");
    change_modes(&kit.path("repo"), 0o755, 0o644);
    run(&["backup", "src"]).exits(0);
    assert_readable(&kit, &out(&kit, "out/2"), &run);
}

fn change_modes(path: &Path, folder: u32, file: u32) {
    set_mode(path, if path.is_dir() { 0o755 } else { file });
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| change_modes(&entry.unwrap().path(), folder, file));
        set_mode(path, folder);
    }
}

/// Lets files be added below a folder and none be deleted, but for `tmp`, where they are written first. Returns whether
/// the file system can do that.
fn forbid_deletion(repo: &Path, flag: &str) -> bool {
    let mut folders = vec![repo.to_owned()];
    let mut done = true;
    while let Some(folder) = folders.pop() {
        let below = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        folders.extend(below.filter(|path| path.is_dir() && !path.ends_with("tmp")));
        done &= Command::new("chattr").arg(flag).arg(&folder).output().is_ok_and(|output| output.status.success());
    }
    done
}

#[test]
fn a_repository_in_which_nothing_may_be_deleted_is_backed_up_into() {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src"]).exits(0);
    for round in 0..3 {
        if !forbid_deletion(&kit.path("repo"), "+a") {
            eprintln!("skipped: no folder here can be made append-only");
            break;
        }
        kit.file("src/new", &format!("round {round}"));
        kit.run(&["backup", "src"]).exits(0);
        assert_readable(&kit, &out(&kit, &format!("out-{round}")), &|arguments| kit.run(arguments));
    }
    forbid_deletion(&kit.path("repo"), "-a");
}

#[test]
fn few_open_files_and_little_memory_are_enough() {
    let kit = Kit::new();
    kit.run(&["init"]).exits(0);
    many_files(&kit, "src/wide", 1, 3000);
    many_files(&kit, "src/folders", 300, 3);
    // deeper than there may be files open
    let mut deep = "src".to_owned();
    for level in 0..400 {
        deep.push_str("/d");
        kit.file(&format!("{deep}/f"), &format!("level {level}"));
    }
    let limited_command = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lakebed")]);
        command.args(arguments).args(["--memory", "64MiB"]);
        in_kit(&kit, command)
    };
    let limited = |arguments: &[&str]| said(limited_command(arguments).output().unwrap());
    let first = limited(&["backup", "src"]).exits(0);
    assert!(!first.err.contains("warning"), "{first:#?}");
    kit.file("src/new", "new");
    limited(&["backup", "src"]).exits(0);
    assert_readable(&kit, &out(&kit, "out"), &limited);
    limited(&[
        "restore",
        "latest",
        "--path",
        "src",
        "--target",
        &out(&kit, "out"),
        "--overwrite",
        "always",
        "--delete",
    ])
    .exits(0);
    limited(&["diff", "latest", "latest"]).exits(0);
    limited(&["find", "f"]).exits(0);

    limited(&["rewrite", "latest", "--exclude", "000"]).exits(0);
    std::fs::remove_dir_all(kit.path("src/folders")).unwrap();
    limited(&["backup", "src"]).exits(0);
    limited(&["init", "--repo", "other"]).exits(0);
    let mut copy = limited_command(&["copy", "--from-repo", "repo", "--repo", "other"]);
    said(copy.env("LAKEBED_FROM_PASSWORD", "secret").output().unwrap()).exits(0);
    limited(&["verify", "--read-data", "--repo", "other"]).exits(0);
    limited(&["forget", "--keep-last", "1", "--prune", "--max-unused", "0", "--repack-small"]).exits(0);
    assert_readable(&kit, &out(&kit, "out-2"), &limited);
    for pack in kit.data_packs().into_iter().step_by(2) {
        damage(&pack, Damage::Delete).keep();
    }
    limited(&["repair", "--read-data", "--apply"]).exits(4);
    limited(&["index", "rebuild"]).exits(0);
    limited(&["backup", "src"]).exits(0);
    assert_readable(&kit, &out(&kit, "out-3"), &limited);
}
