//! Sources of generated notebooks: what one would find in a Databricks workspace, made from a seed.
//!
//! The same seed and version always give the same text, at a price so low that nobody need keep it. A new version
//! differs from the last one in one cell, and in the line that tells what the text was made from: by that, a source is
//! known again when it comes back.

use std::sync::LazyLock;

use super::object::Generated;
use super::random::{Random, mixed};

const HEADER: &[u8] = b"# Databricks notebook source\n";
/// What the line begins with that tells where the text comes from.
const ORIGIN: &[u8] = b"# generated from ";
/// Half of all sources are smaller.
const MEDIAN_BYTES: f64 = 4096.0;
/// How far sizes spread: two thirds of them lie within this power of e around the median.
const SPREAD: f64 = 1.0;
const MIN_BYTES: usize = 200;
const MAX_BYTES: usize = 200_000;
/// No line and no separator is longer.
const LONGEST_LINE: usize = 200;
/// No cell is longer.
const LONGEST_CELL: usize = 2000;

// In lines, `%w` stands for a word, `%t` for a table, `%c` for a column, `%n` for a number, `%h` for eight hex digits.

const PYTHON: [&str; 40] = [
    "df_%w = spark.table(\"%t\")",
    "df_%w = spark.read.format(\"delta\").load(f\"{base_path}/%w/%w_%n\")",
    "df_%w = df_%w.filter(F.col(\"%c\") > %n)",
    "df_%w = df_%w.withColumn(\"%c\", F.to_date(F.col(\"%c\"), \"yyyy-MM-dd\"))",
    "df_%w = df_%w.join(df_%w, on=[\"%c\", \"%c\"], how=\"left\")",
    "df_%w = df_%w.groupBy(\"%c\").agg(F.sum(\"%c\").alias(\"%c_total\"), F.countDistinct(\"%c\").alias(\"%c_count\"))",
    "df_%w = df_%w.dropDuplicates([\"%c\"]).orderBy(F.desc(\"%c\"))",
    "df_%w.write.format(\"delta\").mode(\"overwrite\").option(\"mergeSchema\", \"true\").saveAsTable(\"%t\")",
    "df_%w.write.mode(\"append\").partitionBy(\"%c\").saveAsTable(\"%t\")",
    "display(df_%w.limit(%n))",
    "print(f\"%w: {df_%w.count()} rows\")",
    "assert df_%w.count() > %n, \"too few rows in %t\"",
    "dbutils.widgets.text(\"%w_%w\", \"%n\")",
    "%w_%w = dbutils.widgets.get(\"%w_%w\")",
    "spark.sql(f\"OPTIMIZE %t ZORDER BY (%c)\")",
    "spark.sql(\"DELETE FROM %t WHERE %c < %n\")",
    "spark.conf.set(\"spark.sql.shuffle.partitions\", %n)",
    "from pyspark.sql import functions as F, Window",
    "from pyspark.sql.types import StructType, StructField, StringType, LongType",
    "window_%w = Window.partitionBy(\"%c\").orderBy(F.col(\"%c\").desc())",
    "df_%w = df_%w.withColumn(\"rank\", F.row_number().over(window_%w)).filter(\"rank = 1\")",
    "def %w_%w(df, %w=%n):",
    "    df = df.withColumn(\"%c\", F.coalesce(F.col(\"%c\"), F.lit(%n)))",
    "    if %w is None:",
    "        raise ValueError(\"no %w for %t\")",
    "    return df.select(\"%c\", \"%c\", \"%c\")",
    "for %w in range(%n):",
    "    %w_%w.append(\"%h\")",
    "try:",
    "    %w_%w = dbutils.notebook.run(\"./%w_%w\", %n, {\"%c\": \"%h\"})",
    "except Exception as error:",
    "    logger.error(\"%w %w failed for batch %h\", exc_info=error)",
    "batch_id = \"%h%h\"",
    "base_path = \"abfss://%w@%w%n.dfs.core.windows.net/%w\"",
    "# %w the %w of %t before the %w, see ticket %n",
    "config = {\"%c\": %n, \"%c\": \"%h\", \"%w\": [%n, %n, %n]}",
    "threshold_%w = %n.%n",
    "mlflow.log_metric(\"%w_%w\", %n)",
    "import json, logging, datetime",
    "logger = logging.getLogger(\"%w.%w\")",
];

const SQL: [&str; 10] = [
    "SELECT %c, %c, count(*) AS %c_count",
    "FROM %t AS %w",
    "JOIN %t AS %w ON %w.%c = %w.%c",
    "WHERE %c BETWEEN %n AND %n",
    "GROUP BY %c, %c",
    "HAVING count(*) > %n",
    "ORDER BY %c DESC",
    "-- %w %w only, since %h",
    "  AND %c IN ('%h', '%h')",
    "LIMIT %n",
];

const MARKDOWN: [&str; 6] = [
    "## %w %w",
    "Reads `%t` and writes `%t`. The %w of the %w is checked for each `%c`.",
    "* **%w**: %w %w %w, from %n to %n",
    "* `%c` comes from the %w %w and may be empty",
    "Owner: team %w, last reviewed in run %h.",
    "The %w is %w after %n days, as agreed with the %w team.",
];

const WORDS: [&str; 48] = [
    "orders", "events", "clean", "raw", "load", "daily", "ledger", "customer", "invoice", "merge", "stage", "bronze",
    "silver", "gold", "audit", "sales", "forecast", "region", "product", "stock", "price", "margin", "quality",
    "schema", "model", "feature", "score", "batch", "stream", "window", "key", "index", "source", "target", "delta",
    "snapshot", "history", "report", "finance", "claims", "policy", "asset", "device", "sensor", "session", "contract",
    "vendor", "payment",
];

const COLUMNS: [&str; 24] = [
    "id",
    "customer_id",
    "order_id",
    "amount",
    "net_amount",
    "currency",
    "created_at",
    "updated_at",
    "country",
    "status",
    "quantity",
    "unit_price",
    "valid_from",
    "valid_to",
    "source_system",
    "batch_date",
    "tax_rate",
    "account",
    "segment",
    "channel",
    "version",
    "is_active",
    "row_hash",
    "event_time",
];

/// Lines of one kind of cells, ready to be filled.
type Lines = Vec<Template>;

static PYTHON_LINES: LazyLock<Lines> = LazyLock::new(|| templates(&PYTHON));
static SQL_LINES: LazyLock<Lines> = LazyLock::new(|| templates(&SQL));
static MARKDOWN_LINES: LazyLock<Lines> = LazyLock::new(|| templates(&MARKDOWN));
static TITLE: LazyLock<Lines> = LazyLock::new(|| templates(&["%w %w %n"]));

/// A line with its slots, each followed by the text up to the next one.
struct Template {
    start: &'static str,
    rest: Vec<(Slot, &'static str)>,
}

enum Slot {
    Word,
    Table,
    Column,
    Number,
    Hex,
}

fn templates(lines: &[&'static str]) -> Lines {
    lines.iter().map(|line| template(line)).collect()
}

fn template(line: &'static str) -> Template {
    let mut pieces = line.split('%');
    let start = pieces.next().unwrap_or_default();
    let slot = |piece: &'static str| match piece.split_at(1) {
        ("w", text) => (Slot::Word, text),
        ("t", text) => (Slot::Table, text),
        ("c", text) => (Slot::Column, text),
        ("n", text) => (Slot::Number, text),
        ("h", text) => (Slot::Hex, text),
        (other, _) => panic!("no slot is named {other}"),
    };
    Template { start, rest: pieces.map(slot).collect() }
}

/// Returns the source of a notebook.
pub(super) fn source(seed: u64, version: u32) -> Vec<u8> {
    let target = size(seed);
    let mut source = Vec::with_capacity(target + LONGEST_LINE);
    source.extend_from_slice(HEADER);
    source.extend_from_slice(ORIGIN);
    write_hex(&mut source, (seed >> 32) as u32);
    write_hex(&mut source, seed as u32);
    source.push(b'.');
    write_number(&mut source, version as usize);
    source.push(b'\n');
    let mut cell = 0;
    while source.len() < target {
        if cell > 0 {
            source.extend_from_slice(b"\n# COMMAND ----------\n\n");
        }
        write_cell(
            &mut source,
            target,
            &mut Random::new(&[seed, cell, u64::from(edit_of(seed, version, cell, target))]),
        );
        cell += 1;
    }
    source
}

/// Returns the text of a file that is no notebook.
pub(super) fn text(seed: u64, version: u32) -> Vec<u8> {
    let mut text = source(seed, version);
    text.drain(..HEADER.len());
    text
}

/// Returns what bytes were generated from, if they were.
pub(super) fn origin(bytes: &[u8]) -> Option<Generated> {
    let (text, is_notebook) = bytes.strip_prefix(HEADER).map_or((bytes, false), |text| (text, true));
    let line = text.strip_prefix(ORIGIN)?.split(|byte| *byte == b'\n').next()?;
    let (seed, version) = std::str::from_utf8(line).ok()?.split_once('.')?;
    let (seed, version) = (u64::from_str_radix(seed, 16).ok()?, version.parse().ok()?);
    let again = if is_notebook { source(seed, version) } else { self::text(seed, version) };
    (again == bytes).then_some(Generated { seed, version, is_notebook })
}

fn size(seed: u64) -> usize {
    let normal = Random::new(&[seed, 0x517e]).normal();
    ((MEDIAN_BYTES * (SPREAD * normal).exp()) as usize).clamp(MIN_BYTES, MAX_BYTES - LONGEST_LINE)
}

/// Returns the version in which a cell was last edited.
fn edit_of(seed: u64, version: u32, cell: u64, target: usize) -> u32 {
    let cells = (target / LONGEST_CELL) as u64 + 1;
    (1..=version).rev().find(|edit| mixed(&[seed, u64::from(*edit), 0xed17]) % cells == cell).unwrap_or(0)
}

fn write_cell(source: &mut Vec<u8>, target: usize, random: &mut Random) {
    if random.below(10) == 0 {
        write_line(source, "# DBTITLE 1,", &TITLE[0], random);
    }
    let (prefix, magic, lines) = match random.below(10) {
        0 => ("# MAGIC ", "# MAGIC %md\n", &MARKDOWN_LINES),
        1 => ("# MAGIC ", "# MAGIC %sql\n", &SQL_LINES),
        _ => ("", "", &PYTHON_LINES),
    };
    source.extend_from_slice(magic.as_bytes());
    for _ in 0..3 + random.below(8) {
        write_line(source, prefix, &lines[random.below(lines.len())], random);
        if source.len() >= target {
            break;
        }
    }
}

fn write_line(source: &mut Vec<u8>, prefix: &str, template: &Template, random: &mut Random) {
    source.extend_from_slice(prefix.as_bytes());
    source.extend_from_slice(template.start.as_bytes());
    for (slot, text) in &template.rest {
        match slot {
            Slot::Word => source.extend_from_slice(random.choose(&WORDS).as_bytes()),
            Slot::Column => source.extend_from_slice(random.choose(&COLUMNS).as_bytes()),
            Slot::Table => {
                source.extend_from_slice(random.choose(&WORDS).as_bytes());
                source.push(b'.');
                source.extend_from_slice(random.choose(&WORDS).as_bytes());
                source.push(b'_');
                source.extend_from_slice(random.choose(&WORDS).as_bytes());
            }
            Slot::Number => write_number(source, random.below(10_000)),
            Slot::Hex => write_hex(source, random.next() as u32),
        }
        source.extend_from_slice(text.as_bytes());
    }
    source.push(b'\n');
}

fn write_number(source: &mut Vec<u8>, number: usize) {
    if number >= 10 {
        write_number(source, number / 10);
    }
    source.push(b'0' + (number % 10) as u8);
}

fn write_hex(source: &mut Vec<u8>, number: u32) {
    source.extend((0..8).rev().map(|digit| b"0123456789abcdef"[(number >> (4 * digit) & 15) as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_notebooks_of_realistic_sizes() {
        let mut sizes: Vec<usize> = (0..2000).map(|seed| source(seed, 0).len()).collect();
        sizes.sort_unstable();
        assert!((3500..4700).contains(&sizes[1000]), "{}", sizes[1000]);
        assert!(sizes[0] >= MIN_BYTES && sizes[1999] <= MAX_BYTES && sizes[1950] > 20_000);
        let text = String::from_utf8(source(7, 0)).unwrap();
        assert!(text.starts_with("# Databricks notebook source\n"), "{text}");
    }

    #[test]
    fn versions_differ_a_little_and_are_the_same_each_time() {
        let versions: Vec<Vec<u8>> = (0..4).map(|version| source(3, version)).collect();
        assert!(versions.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(source(3, 2), versions[2]);
        assert_ne!(source(4, 0), versions[0]);
        let cells = |version: usize| {
            let text = String::from_utf8(versions[version].clone()).unwrap();
            text.split("# COMMAND ----------").skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        let changed = cells(0).iter().zip(cells(1)).filter(|(old, new)| *old != new).count();
        assert!(changed <= 1, "{changed}");
    }

    #[test]
    fn what_was_generated_is_known_again_and_nothing_else() {
        for (bytes, is_notebook) in [(source(5, 2), true), (text(5, 2), false)] {
            let origin = origin(&bytes).unwrap();
            assert_eq!((origin.seed, origin.version, origin.is_notebook), (5, 2, is_notebook));
            assert!(super::origin(&[bytes, b"#".to_vec()].concat()).is_none());
        }
        assert!(origin(b"# generated from 5").is_none() && origin(b"").is_none());
    }
}
