//! `verify`: is everything there, and is it what it should be.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use lakebed_engine::core::id::SnapshotId;
use lakebed_engine::verify::{Coverage, Damage, ReadData, VerifyOptions, VerifyReport};
use serde_json::{Value, json};

use crate::context::{Access, Context};
use crate::error::{CliError, Exit};
use crate::size::{Budget, parse_budget, parse_share};
use crate::ui::{self, Text};

const EXAMPLES: &str = "\
Without options the structure is checked: every snapshot can be read, its folders reach every piece of every file, and the \
packs that hold them are there at their size. That finds what is missing, not bits that have flipped. A nightly slice with \
--budget reads the packs that were read longest ago; the repository remembers when each was found good. \
Exit code 4: damage was found.

Examples:
  lakebed verify --repo /mnt/backup/lake
  lakebed verify --repo /mnt/backup/lake --read-data
  lakebed verify --repo /mnt/backup/lake --budget 10m --budget 20GiB";

/// Check that everything is there, and is what it should be
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Read and check all packs
    #[arg(long, conflicts_with_all = ["sample", "budget"])]
    read_data: bool,
    /// Read and check a random part of the packs, such as 5%
    #[arg(long, value_name = "SHARE", value_parser = parse_share, conflicts_with = "budget")]
    sample: Option<f64>,
    /// Read and check the packs that were read longest ago, for this time (10m) or this much (20GiB), or repeated: whichever ends first
    #[arg(long, value_name = "TIME|SIZE", value_parser = parse_budget)]
    budget: Vec<Budget>,
    /// Also read every large file from front to back and compare the hash of the whole
    #[arg(long)]
    whole_files: bool,
    /// Worker threads [default: one for each processor]
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    threads: usize,
}

impl VerifyArgs {
    fn read(&self) -> ReadData {
        if self.read_data {
            return ReadData::All;
        }
        if let Some(share) = self.sample {
            return ReadData::Sample(share);
        }
        if self.budget.is_empty() {
            return ReadData::None;
        }
        let (mut time, mut bytes): (Option<Duration>, Option<u64>) = (None, None);
        for budget in &self.budget {
            match *budget {
                Budget::Time(more) => time = Some(time.map_or(more, |least| least.min(more))),
                Budget::Bytes(more) => bytes = Some(bytes.map_or(more, |least| least.min(more))),
            }
        }
        ReadData::Budget { time, bytes }
    }
}

pub(crate) fn run(ctx: &Context, args: &VerifyArgs) -> Result<Exit, CliError> {
    let read = args.read();
    // a verification that reads data notes in the repository what it found good
    let access = if read == ReadData::None { Access::Read } else { Access::Check };
    let repository = ctx.open(access)?;
    let options = VerifyOptions { read, whole_files: args.whole_files, threads: args.threads };
    let monitor = ctx.monitor()?;
    let result = repository.verify(&options, &monitor);
    drop(monitor);
    let report = result?;
    ctx.ui.report(|| result_json(&report, &options), |out| print(out, &report, &options))?;
    Ok(if report.is_good() { Exit::Done } else { Exit::Damage })
}

fn print(out: Text<'_>, report: &VerifyReport, options: &VerifyOptions) -> std::io::Result<()> {
    let (count, bytes) = (ui::count, ui::bytes);
    writeln!(
        out,
        "structure: {}, {}, {}, {} ({})",
        ui::counted(report.snapshots, "snapshot", "snapshots"),
        ui::counted(report.nodes, "tree node", "tree nodes"),
        ui::counted(report.chunks, "reference to a chunk", "references to chunks"),
        ui::counted(report.packs, "pack", "packs"),
        bytes(report.pack_bytes)
    )?;
    if options.read == ReadData::None {
        writeln!(out, "data:      none was read; --read-data reads all of it, --budget a part each night")?;
    } else {
        writeln!(
            out,
            "data:      {} of {} packs read and found good, {} of {} read ({})",
            count(report.packs_read),
            count(report.packs),
            bytes(report.bytes_read),
            bytes(report.pack_bytes),
            ui::percent(report.bytes_read, report.pack_bytes)
        )?;
    }
    if options.whole_files {
        let files = ui::counted(report.whole_files, "large file", "large files");
        writeln!(out, "files:     {files} read from front to back")?;
    }
    if let Some(coverage) = &report.coverage {
        writeln!(out, "coverage:  {}", coverage_text(coverage))?;
    }
    if report.unreferenced_packs > 0 {
        let packs = ui::counted(report.unreferenced_packs, "pack", "packs");
        writeln!(out, "left over: {packs} of interrupted runs that no snapshot needs; no damage")?;
    }
    for damage in &report.damage {
        print_damage(out, damage, &report.repaired)?;
    }
    match report.damage.len() as u64 {
        0 => writeln!(out, "no damage was found"),
        many => {
            writeln!(out, "DAMAGE was found: {}, told above", ui::counted(many, "thing", "things"))?;
            let read_data = if options.read == ReadData::None { "" } else { " --read-data" };
            writeln!(
                out,
                "`lakebed repair{read_data}` shows what can be put right, and changes nothing without --apply"
            )
        }
    }
}

fn print_damage(out: Text<'_>, damage: &Damage, repaired: &BTreeMap<SnapshotId, SnapshotId>) -> std::io::Result<()> {
    writeln!(out, "damage:    {}: {}", ui::plain(&damage.subject), ui::plain(&damage.problem))?;
    for affected in &damage.affected {
        let path = if affected.path.is_empty() { "all of it" } else { &affected.path };
        write!(out, "           touches snapshot {}: {path}", affected.snapshot.short())?;
        match repaired.get(&affected.snapshot) {
            Some(other) => writeln!(out, " (a repaired snapshot {} exists)", other.short())?,
            None => writeln!(out)?,
        }
    }
    if damage.affected_more > 0 {
        let more = ui::counted(damage.affected_more, "more path", "more paths");
        writeln!(out, "           and {more}")?;
    }
    Ok(())
}

fn coverage_text(coverage: &Coverage) -> String {
    let is_full = coverage.packs_verified >= coverage.packs;
    match (is_full, coverage.days_to_full) {
        (true, Some(1)) => "100 % verified within the last day".into(),
        (true, Some(days)) => format!("100 % verified within {} days", ui::count(days)),
        (true, None) => "100 % verified".into(),
        (false, more) => {
            let so_far = format!("{} verified so far", ui::percent(coverage.bytes_verified, coverage.bytes));
            match more {
                Some(1) => format!("{so_far}; 100 % with one more run like this one"),
                Some(runs) => format!("{so_far}; 100 % within about {} runs like this one", ui::count(runs)),
                None => so_far,
            }
        }
    }
}

fn read_json(read: &ReadData) -> Value {
    match read {
        ReadData::None => json!({ "mode": "structure" }),
        ReadData::All => json!({ "mode": "all" }),
        ReadData::Sample(share) => json!({ "mode": "sample", "share": share }),
        ReadData::Budget { time, bytes } => {
            json!({ "mode": "budget", "seconds": time.map(|time| time.as_secs_f64()), "bytes": bytes })
        }
    }
}

fn result_json(report: &VerifyReport, options: &VerifyOptions) -> Value {
    let damage = report.damage.iter().map(|damage| {
        let affected = damage.affected.iter();
        let affected = affected.map(|affected| {
            let repaired = report.repaired.get(&affected.snapshot);
            json!({ "snapshot": affected.snapshot, "path": affected.path, "repaired": repaired })
        });
        json!({
            "subject": damage.subject,
            "problem": damage.problem,
            "affected": affected.collect::<Vec<_>>(),
            "affected_more": damage.affected_more,
        })
    });
    let coverage = report.coverage.as_ref().map(|coverage| {
        json!({
            "packs": coverage.packs,
            "packs_verified": coverage.packs_verified,
            "bytes": coverage.bytes,
            "bytes_verified": coverage.bytes_verified,
            "oldest": coverage.oldest,
            "days_to_full": coverage.days_to_full,
        })
    });
    json!({
        "started": report.started,
        "read": read_json(&options.read),
        "good": report.is_good(),
        "snapshots": report.snapshots,
        "nodes": report.nodes,
        "chunks": report.chunks,
        "packs": report.packs,
        "pack_bytes": report.pack_bytes,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "whole_files": report.whole_files,
        "unreferenced_packs": report.unreferenced_packs,
        "coverage": coverage,
        "damage": damage.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakebed_engine::core::id::SessionId;
    use lakebed_engine::verify::Affected;

    fn text(report: &VerifyReport, read: ReadData) -> String {
        let mut out = Vec::new();
        print(&mut out, report, &VerifyOptions { read, ..VerifyOptions::default() }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_report_says_what_was_not_read() {
        let report = VerifyReport { snapshots: 2, packs: 3, pack_bytes: 3 << 20, ..VerifyReport::default() };
        let text = text(&report, ReadData::None);
        assert!(text.contains("3 packs (3.00 MiB)"), "{text}");
        assert!(text.contains("none was read; --read-data"), "{text}");
        assert!(text.ends_with("no damage was found\n"), "{text}");
    }

    #[test]
    fn a_report_names_what_damage_touches() {
        let snapshot = SessionId::new([0xab; 32]);
        let damage = Damage {
            subject: "packs/aa/1".into(),
            problem: "its bytes hash to another name".into(),
            affected: vec![Affected { snapshot, path: "src/a".into() }, Affected { snapshot, path: String::new() }],
            affected_more: 1234,
        };
        let repaired = [(snapshot, SessionId::new([0xcd; 32]))].into();
        let report = VerifyReport { damage: vec![damage], repaired, ..VerifyReport::default() };
        let text = text(&report, ReadData::All);
        assert!(text.contains("packs/aa/1: its bytes hash to another name"), "{text}");
        assert!(text.contains("touches snapshot abababab: src/a (a repaired snapshot cdcdcdcd exists)"), "{text}");
        assert!(text.contains("touches snapshot abababab: all of it"), "{text}");
        assert!(text.contains("and 1,234 more paths"), "{text}");
        assert!(text.contains("DAMAGE was found: 1 thing, told above"), "{text}");
        assert!(text.contains("`lakebed repair --read-data` shows"), "{text}");
    }

    #[test]
    fn coverage_is_a_sentence() {
        let mut coverage =
            Coverage { packs: 10, packs_verified: 10, bytes: 100, bytes_verified: 100, ..Coverage::default() };
        coverage.days_to_full = Some(9);
        assert_eq!(coverage_text(&coverage), "100 % verified within 9 days");
        coverage.packs_verified = 6;
        coverage.bytes_verified = 62;
        coverage.days_to_full = Some(4);
        assert_eq!(coverage_text(&coverage), "62 % verified so far; 100 % within about 4 runs like this one");
        coverage.days_to_full = None;
        assert_eq!(coverage_text(&coverage), "62 % verified so far");
    }

    #[test]
    fn of_several_budgets_the_smaller_counts() {
        let args = VerifyArgs {
            read_data: false,
            sample: None,
            budget: ["10m", "20GiB", "5m"].map(|text| parse_budget(text).unwrap()).to_vec(),
            whole_files: false,
            threads: 0,
        };
        let time = Some(Duration::from_secs(300));
        assert_eq!(args.read(), ReadData::Budget { time, bytes: Some(20 << 30) });
    }
}
