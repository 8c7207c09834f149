//! Sources that are the same each time, and what a day changes in them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::Failure;

/// What kind of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// 70,000 small files of source text, 5 % of them edited a day.
    Notebooks,
    /// Large exports that grow and are edited, and files that no compressor makes smaller.
    Files,
}

/// Numbers that look random and follow from a seed (SplitMix64, Steele et al., OOPSLA 2014).
pub struct Numbers(u64);

impl Numbers {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next one.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns one below a limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Returns bytes that no compressor makes smaller.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

const WORDS: [&str; 48] = [
    "account",
    "amount",
    "batch",
    "branch",
    "budget",
    "case",
    "channel",
    "claim",
    "client",
    "column",
    "contract",
    "cost",
    "customer",
    "date",
    "dbutils.widgets.get",
    "delta",
    "df = spark.table",
    "display",
    "filter",
    "F.col",
    "groupBy",
    "id",
    "import",
    "invoice",
    "join",
    "ledger",
    "left",
    "limit",
    "merge",
    "month",
    "notebook",
    "order",
    "orderBy",
    "overwrite",
    "partitionBy",
    "product",
    "region",
    "return",
    "saveAsTable",
    "schema",
    "select",
    "status",
    "sum",
    "table",
    "tax",
    "where",
    "withColumn",
    "year",
];

fn text(numbers: &mut Numbers, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 100);
    while text.len() < bytes {
        match numbers.below(12) {
            0 => text.push_str("\n\n# COMMAND ----------\n\n"),
            1 => text.push_str(&format!("_{}_{:x}", numbers.below(1000), numbers.below(1 << 40))),
            2 | 3 => text.push_str("\n    ."),
            _ => {
                text.push_str(WORDS[numbers.below(WORDS.len() as u64) as usize]);
                text.push(if numbers.below(3) == 0 { '(' } else { ' ' });
            }
        }
    }
    text
}

fn rows(numbers: &mut Numbers, count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..count {
        let (id, day, cents) = (numbers.below(1 << 32), numbers.below(28) + 1, numbers.below(1_000_000));
        let (a, b) = (numbers.below(48) as usize, numbers.below(48) as usize);
        out.extend_from_slice(
            format!("{id},2026-10-{day:02},{},{},{}.{:02}\n", WORDS[a], WORDS[b], cents / 100, cents % 100).as_bytes(),
        );
    }
    out
}

fn notebook_path(root: &Path, number: u64) -> PathBuf {
    let engagement = number / 200;
    let year = 2023 + engagement % 3;
    root.join(format!("Clients/{year}/ENG-{engagement:03}/NOTEBOOKS/{number:05}_load.py"))
}

fn write_notebook(root: &Path, number: u64, version: u64) -> Result<(), Failure> {
    // an eighth are copies of another one until they are edited
    let mut numbers = Numbers::new(if number % 8 == 7 { number - 7 } else { number });
    // most have a few KB, some up to 70
    let size = (1000 + numbers.below(7000) + if numbers.below(16) == 0 { numbers.below(60_000) } else { 0 }) as usize;
    let mut content = String::from("# Databricks notebook source\n");
    content.push_str(&text(&mut numbers, size));
    if version > 0 {
        // the first half stays; all of it is ASCII
        content.truncate(content.len() / 2);
        content.push_str(&text(&mut Numbers::new(number << 20 | version), size / 2));
    }
    let path = notebook_path(root, number);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(fs::write(path, content)?)
}

/// Makes a source as it is on day 0.
///
/// # Errors
/// It cannot be written.
pub fn make(kind: Kind, root: &Path, scale: f64) -> Result<(), Failure> {
    fs::create_dir_all(root)?;
    match kind {
        Kind::Notebooks => (0..count(70_000, scale)).try_for_each(|number| write_notebook(root, number, 0)),
        Kind::Files => {
            for export in 0..4 {
                let rows = rows(&mut Numbers::new(export), count(4_000_000, scale));
                fs::write(root.join(format!("orders_{export}.csv")), rows)?;
            }
            fs::write(root.join("archive.bin"), Numbers::new(100).bytes(count(400_000_000, scale) as usize))?;
            // blocks of 128 KiB: zeros, text, some that came before, noise
            let mut numbers = Numbers::new(101);
            let text = text(&mut Numbers::new(102), 4 << 20).into_bytes();
            let mut image = fs::File::create(root.join("disk.img"))?;
            let mut before: Vec<Vec<u8>> = Vec::new();
            for _ in 0..count(3_000, scale) {
                let block = match numbers.below(10) {
                    0..3 => vec![0; 128 << 10],
                    3..6 => {
                        let at = numbers.below((text.len() - (128 << 10)) as u64) as usize;
                        text[at..at + (128 << 10)].to_vec()
                    }
                    6 if !before.is_empty() => before[numbers.below(before.len() as u64) as usize].clone(),
                    _ => {
                        let noise = numbers.bytes(128 << 10);
                        before.truncate(30);
                        before.push(noise.clone());
                        noise
                    }
                };
                image.write_all(&block)?;
            }
            Ok(())
        }
    }
}

/// Moves a source forward by a day.
///
/// # Errors
/// It cannot be written.
pub fn change(kind: Kind, root: &Path, scale: f64, day: u64) -> Result<(), Failure> {
    let mut numbers = Numbers::new(1000 + day);
    match kind {
        Kind::Notebooks => {
            let all = count(70_000, scale);
            for _ in 0..all / 20 {
                // in a few engagements
                let engagement = numbers.below(20) * 17 % (all / 200).max(1);
                let number = (engagement * 200 + numbers.below(200)) % all;
                write_notebook(root, number, day)?;
            }
            Ok(())
        }
        Kind::Files => {
            for export in 0..4 {
                let path = root.join(format!("orders_{export}.csv"));
                let mut content = fs::read(&path)?;
                if export % 2 == 0 {
                    for _ in 0..60 {
                        let at = numbers.below(content.len() as u64) as usize;
                        let line = rows(&mut numbers, 1);
                        content.splice(at..at, line);
                    }
                }
                content.extend(rows(&mut numbers, count(80_000, scale)));
                fs::write(path, content)?;
            }
            Ok(())
        }
    }
}

fn count(full: u64, scale: f64) -> u64 {
    ((full as f64 * scale) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_their_seed() {
        let mut numbers = Numbers::new(1);
        assert_eq!((numbers.next(), numbers.next()), (0x910a_2dec_8902_5cc1, 0xbeeb_8da1_658e_ec67));
        assert_eq!(Numbers::new(7).bytes(11), Numbers::new(7).bytes(11));
    }
}
