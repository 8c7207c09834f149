//! What the fuzz targets do, as ordinary tests: over the kept corpora, over random bytes, and over members of the corpora
//! that were damaged or joined. `LAKEBED_SOAK=1` tries a hundred times as many.

mod seeds;

use std::fmt;
use std::path::{Path, PathBuf};

use lakebed_testkit::chance::is_soak;
use lakebed_testkit::fuzz::{Check, DECODERS};
use lakebed_tests::commands;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

/// Where cargo-fuzz has its targets and corpora.
fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// What is kept of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = fuzz_folder().join("corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("list {}: {e}", folder.display()));
    let mut all: Vec<_> = files
        .map(|file| {
            let file = file.unwrap();
            (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// A change to bytes.
#[derive(Debug, Clone)]
enum Edit {
    Flip { at: Index, bit: u8 },
    Set { at: Index, value: u8 },
    Insert { at: Index, bytes: Vec<u8> },
    Remove { at: Index, count: Index },
    Cut { at: Index },
    Join { at: Index, with: Vec<u8>, from: Index },
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: &Index, length: usize| at.index(length + 1);
        match self {
            Self::Flip { at, bit } if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Set { at, value } if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            Self::Flip { .. } | Self::Set { .. } => {}
            Self::Insert { at, bytes: inserted } => {
                let at = place(at, bytes.len());
                bytes.splice(at..at, inserted.iter().copied());
            }
            Self::Remove { at, count } => {
                let at = place(at, bytes.len());
                let end = at + place(count, bytes.len() - at);
                bytes.drain(at..end);
            }
            Self::Cut { at } => bytes.truncate(place(at, bytes.len())),
            Self::Join { at, with, from } => {
                bytes.truncate(place(at, bytes.len()));
                bytes.extend_from_slice(&with[place(from, with.len())..]);
            }
        }
    }
}

fn arb_edit(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    // the values at which lengths and counts are easily wrong
    let value = || prop_oneof![any::<u8>(), select([0, 1, 0x7f, 0x80, 0xff].as_slice())];
    prop_oneof![
        3 => (at(), 0u8..8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
        3 => (at(), value()).prop_map(|(at, value)| Edit::Set { at, value }),
        2 => (at(), vec(value(), 1..10)).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        1 => (at(), at()).prop_map(|(at, count)| Edit::Remove { at, count }),
        1 => at().prop_map(|at| Edit::Cut { at }),
        1 => (at(), select(corpus), at()).prop_map(|(at, with, from)| Edit::Join { at, with, from }),
    ]
}

fn arb_input(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edited = (select(corpus.clone()), vec(arb_edit(corpus), 1..6)).prop_map(|(mut bytes, edits)| {
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        bytes
    });
    prop_oneof![1 => vec(any::<u8>(), 0..400), 5 => edited]
}

/// Runs a target over what is kept and over `cases` inputs made of it. What fails is made small, and shown by `show`.
#[expect(clippy::print_stdout, reason = "where a target fails it is shown at which input")]
fn run_target<T: fmt::Debug>(target: &str, check: Check, cases: u32, show: fn(&[u8]) -> T) {
    let kept = corpus(target);
    assert!(!kept.is_empty(), "nothing is kept of {target}");
    for (name, bytes) in &kept {
        println!("{target}/{name}");
        check(bytes);
    }
    let cases = if is_soak() { cases * 100 } else { cases };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let inputs = arb_input(kept.into_iter().map(|(_, bytes)| bytes).collect());
    let result = TestRunner::new(config).run(&inputs.prop_map(|bytes| Shown { bytes, show }), |input| {
        check(&input.bytes);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{target}: {error}"));
}

/// An input, and how people read it.
struct Shown<T> {
    bytes: Vec<u8>,
    show: fn(&[u8]) -> T,
}

impl<T: fmt::Debug> fmt::Debug for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\": {:#?}", self.bytes.escape_ascii(), (self.show)(&self.bytes))
    }
}

#[test]
fn no_bytes_make_a_decoder_panic_or_lie() {
    for (target, check) in DECODERS {
        run_target(target, *check, 500, <[u8]>::len);
    }
}

#[test]
fn no_sequence_of_commands_loses_anything() {
    run_target("commands", commands::run, 60, commands::read);
}

/// Each function has a target of its name, and the other way round.
#[test]
fn every_check_is_a_fuzz_target() {
    let manifest = std::fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    let mut expected: Vec<String> = vec!["commands".into()];
    expected.extend(DECODERS.iter().map(|(name, _)| name.to_string()));
    expected.sort();
    for name in &expected {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name} is not in the manifest");
        let text = std::fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(*name == "commands" || text.contains(&format!("lakebed_testkit::fuzz::{name}(bytes)")), "{text}");
    }
    let mut found: Vec<String> = std::fs::read_dir(fuzz_folder().join("fuzz_targets"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap().trim_end_matches(".rs").to_owned())
        .collect();
    found.sort();
    assert_eq!(found, expected);
}
