//! Commands that only look.

use crate::kit::Kit;

fn two_nights() -> Kit {
    let kit = Kit::with_repo();
    kit.run(&["backup", "src", "--time", "2026-01-01T00:00:00Z"]).exits(0);
    kit.file("src/a.py", "print('changed')\n");
    kit.file("src/new.py", "print('new')\n");
    std::fs::remove_file(kit.path("src/sub/b.py")).unwrap();
    kit.run(&["backup", "src", "--time", "2026-01-02T00:00:00Z"]).exits(0);
    kit
}

fn ids(kit: &Kit) -> Vec<String> {
    let result = kit.run(&["--json", "snapshots"]).exits(0).result();
    result["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn snapshots_are_listed_newest_last() {
    let kit = two_nights();
    let ids = ids(&kit);
    let listed = kit.run(&["snapshots"]).exits(0).out;
    let (first, second) = (listed.find(&ids[0][..8]).unwrap(), listed.find(&ids[1][..8]).unwrap());
    assert!(first < second, "{listed}");
}

#[test]
fn diff_tells_added_removed_and_changed_and_shows_patches() {
    let kit = two_nights();
    let ids = ids(&kit);
    let said = kit.run(&["diff", &ids[0][..12], "latest"]).exits(0);
    for line in ["+ src/new.py", "- src/sub/b.py", "M src/a.py"] {
        assert!(said.out.lines().any(|found| found.trim_end() == line), "{line} in {}", said.out);
    }
    let patch = kit.run(&["diff", &ids[0], &ids[1], "--patch"]).exits(0).out;
    assert!(patch.contains("-print('a')") && patch.contains("+print('changed')"), "{patch}");
}

#[test]
fn find_tells_when_a_path_came_changed_and_went() {
    let kit = two_nights();
    let found = kit.run(&["find", "*.py"]).exits(0).out;
    for word in ["appeared", "changed", "gone", "src/a.py", "src/sub/b.py", "src/new.py"] {
        assert!(found.contains(word), "{word} in {found}");
    }
    kit.run(&["find", "src/sub/b.py"]).exits(0).says("gone");
}

#[test]
fn stats_and_ls_and_json_say_the_same() {
    let kit = two_nights();
    let stats = kit.run(&["--json", "stats"]).exits(0).result();
    assert_eq!(stats["snapshots"], 2, "{stats:#}");
    kit.run(&["stats", "latest"]).exits(0);
    kit.run(&["ls", "latest", "src", "--long"]).exits(0).says("a.py");
    let listed = kit.run(&["--json", "ls", "latest", "--recursive"]).exits(0).result();
    assert!(listed.to_string().contains("src/new.py"), "{listed:#}");
}

#[test]
fn a_folder_comes_out_as_an_archive_that_others_read() {
    let kit = two_nights();
    for (format, file) in [("tar", "out.tar"), ("zip", "out.zip")] {
        let output = kit.command(&["cat", "latest", "src", "--archive", format]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(kit.path(file), output.stdout).unwrap();
    }
    let run = |program: &str, arguments: &[&str]| {
        let output =
            std::process::Command::new(program).args(arguments).current_dir(kit.folder.path()).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::create_dir(kit.path("tar")).unwrap();
    run("tar", &["-xf", "out.tar", "-C", "tar"]);
    assert_eq!(kit.read("tar/src/a.py"), "print('changed')\n");
    run("python3", &["-m", "zipfile", "-e", "out.zip", "zip"]);
    assert_eq!(kit.read("zip/src/new.py"), "print('new')\n");
}

#[test]
fn verify_says_what_it_checked_and_finds_damage() {
    let kit = two_nights();
    kit.run(&["verify"]).exits(0).says("none was read");
    kit.run(&["verify", "--read-data"]).exits(0).says("100 %");
    kit.run(&["verify", "--sample", "50%"]).exits(0);
    kit.run(&["verify", "--budget", "10m"]).exits(0);
    kit.run(&["verify", "--budget", "1GiB", "--whole-files"]).exits(0);
    kit.run(&["verify", "--sample", "0%"]).exits(2);
    let pack = lakebed_testkit::damage::object_files(&kit.path("repo/packs")).remove(0);
    lakebed_testkit::damage::damage(&pack, lakebed_testkit::damage::Damage::FlipByte { offset: 60, mask: 1 }).keep();
    kit.run(&["verify", "--read-data"]).exits(4).says("packs/");
    let report = kit.run(&["--json", "verify", "--read-data"]).exits(4).json();
    assert!(report.to_string().contains("damage"), "{report:#}");
}

#[test]
fn help_teaches_and_completions_and_pages_are_made() {
    let kit = Kit::new();
    for verb in [
        "init",
        "backup",
        "snapshots",
        "ls",
        "find",
        "diff",
        "cat",
        "tag",
        "forget",
        "sessions",
        "rewrite",
        "stats",
        "restore",
        "verify",
        "key",
        "index",
    ] {
        let help = kit.run(&[verb, "--help"]).exits(0).out;
        assert!(help.to_lowercase().contains("example") || verb == "key" || verb == "index", "{verb}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(kit.run(&["completions", shell]).exits(0).out.contains("lakebed"));
    }
    assert!(kit.run(&["man"]).exits(0).out.contains(".TH"));
    kit.run(&["--version"]).exits(0).says("lakebed");
}
