//! Does once more what made a fuzz target fail: `replay TARGET FILE...`. For `commands` it first shows what the bytes mean.

#![allow(clippy::print_stdout, reason = "a tool for developers")]

use lakebed_testkit::fuzz::DECODERS;
use lakebed_tests::commands;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().unwrap_or_else(|| panic!("usage: replay TARGET FILE..."));
    for path in arguments {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
        println!("{path}");
        if target == "commands" {
            println!("{:#?}", commands::read(&bytes));
            commands::run(&bytes);
            continue;
        }
        let decoder = DECODERS.iter().find(|(name, _)| *name == target);
        let (_, check) = decoder.unwrap_or_else(|| panic!("there is no target {target}"));
        check(&bytes);
    }
}
