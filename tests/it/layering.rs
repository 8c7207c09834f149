//! Who may know whom: what crates do not enforce, this test does.

use std::path::{Path, PathBuf};

/// The sources of a module: a folder, or one file.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    if !folder.is_dir() {
        let file = folder.with_extension("rs");
        let text = std::fs::read_to_string(&file).unwrap();
        return vec![(file, text)];
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            all.push((path, text));
        }
    }
    all
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The part of a file before its tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn assert_nowhere(folder: &str, needles: &[&str], except: &[&str]) {
    for (path, text) in sources(&root().join(folder)) {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if shown.ends_with("/tests.rs") || except.iter().any(|allowed| shown.starts_with(allowed)) {
            continue;
        }
        for needle in needles {
            assert!(!product(&text).contains(needle), "{shown} uses {needle}");
        }
    }
}

#[test]
fn core_is_pure() {
    let io = ["std::fs", "std::net", "std::thread", "std::process", "std::env", "SystemTime", "Instant::now"];
    assert_nowhere("engine/core/src", &io, &[]);
}

#[test]
fn one_file_knows_rocksdb() {
    assert_nowhere("engine/src", &["use rocksdb", "rocksdb::"], &["engine/src/index/rocks.rs"]);
}

#[test]
fn lower_layers_know_nothing_of_the_verbs() {
    let verbs = [
        "crate::backup",
        "crate::restore",
        "crate::verify",
        "crate::copy",
        "crate::forget",
        "crate::prune",
        "crate::rewrite",
        "crate::repair",
        "crate::derive",
        "crate::check",
        "crate::query",
    ];
    for folder in ["engine/src/repository", "engine/src/index", "engine/src/storage", "engine/src/source"] {
        assert_nowhere(folder, &verbs, &[]);
    }
}

#[test]
fn the_verbs_do_not_know_each_other() {
    let verbs = ["backup", "restore", "verify", "copy", "prune", "forget", "rewrite", "repair"];
    // a copy is a backup of another source
    let may = |verb: &str, other: &str| verb == other || (verb, other) == ("copy", "backup");
    for verb in verbs {
        let others: Vec<String> =
            verbs.iter().filter(|other| !may(verb, other)).map(|other| format!("crate::{other}")).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        assert_nowhere(&format!("engine/src/{verb}"), &others, &[]);
    }
}

#[test]
fn storage_and_sources_stand_alone() {
    assert_nowhere("engine/src/storage", &["crate::"], &[]);
    assert_nowhere("engine/src/source", &["crate::repository", "crate::index"], &[]);
}

#[test]
fn the_repository_is_written_in_one_place() {
    let writes = ["fs::write", "File::create", "OpenOptions::new", "fs::rename", "fs::remove"];
    let may = [
        "engine/src/storage/local/",
        "engine/src/restore",
        "engine/src/index/rocks.rs",
        "engine/src/repository/object_cache.rs",
        "engine/src/repository/trust.rs",
    ];
    assert_nowhere("engine/src", &writes, &may);
}

#[test]
fn only_the_command_line_talks_to_the_terminal() {
    let terminal = ["println!", "eprintln!", "std::process::exit", "std::env::var"];
    assert_nowhere("engine/src", &terminal, &[]);
    assert_nowhere("engine/core/src", &terminal, &[]);
}
