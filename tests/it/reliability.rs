//! The table in `docs/reliability.md` names tests that exist.

use std::path::{Path, PathBuf};

/// Returns the sources of a module of a test binary: its file, and those in its folder.
fn sources(tests: &Path, binary: &str, module: &str) -> String {
    let mut files: Vec<PathBuf> = vec![tests.join(binary).join(format!("{module}.rs"))];
    let folder = std::fs::read_dir(tests.join(binary).join(module)).into_iter().flatten();
    files.extend(folder.map(|entry| entry.unwrap().path()));
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(tests.parent().unwrap().join("docs/reliability.md")).unwrap();
    let mut lines = std::collections::BTreeSet::new();
    let mut named = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let number = row.split('|').nth(1).and_then(|number| number.trim().parse::<u32>().ok());
        lines.extend(number);
        for quoted in row.split('`').skip(1).step_by(2) {
            let Some((binary, test)) = quoted.split_once(' ') else { continue };
            let (Some((module, _)), Some((_, name))) = (test.split_once("::"), test.rsplit_once("::")) else {
                continue;
            };
            let text = sources(tests, binary, module);
            assert!(text.contains(&format!("fn {name}(")), "`{quoted}` is not there");
            named += 1;
        }
    }
    assert_eq!(lines, (1..=22).collect(), "the lines of the table");
    assert!(named > 40, "{named} tests are named");
}
