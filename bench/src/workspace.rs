//! Nights of a workspace, beside the floor that its limits set.
//!
//! A fake workspace answers with the latency of a network and takes no more calls of a kind than a real one, or so many
//! times as many that a night is over in minutes: the floor then lies so many times lower too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lakebed_testkit::databricks::{FakeOptions, FakeWorkspace, GenerateOptions, Kind, NightOptions};

use crate::Failure;
use crate::measure::measure;

/// What a workspace takes a second: documented for exports, assumed for listings, which have no published limit.
const EXPORTS: f64 = 60.0;
const LISTS: f64 = 50.0;

#[derive(Debug, Args)]
pub struct WorkspaceArgs {
    /// Folder for repositories and caches
    work: PathBuf,
    /// The lakebed to measure
    #[arg(long)]
    lakebed: PathBuf,
    /// Notebooks
    #[arg(long, default_value_t = 70_000)]
    notebooks: usize,
    /// Folders [default: one for eight notebooks]
    #[arg(long)]
    folders: Option<usize>,
    /// Milliseconds that each call takes
    #[arg(long, default_value_t = 50)]
    latency: u64,
    /// How many times the limits of a real workspace; 0: none, and no latency
    #[arg(long, default_value_t = 10.0)]
    scale: f64,
    /// Share of the calls that fail
    #[arg(long, default_value_t = 0.0)]
    failures: f64,
}

struct Bench<'a> {
    arguments: &'a WorkspaceArgs,
    folder: PathBuf,
    fake: FakeWorkspace,
}

pub fn run(arguments: &WorkspaceArgs) -> Result<(), Failure> {
    let folder = std::path::absolute(&arguments.work)?.join(format!("workspace-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let is_limited = arguments.scale > 0.0;
    let rates = [("export", EXPORTS), ("list", LISTS)].map(|(kind, rate)| (kind.to_owned(), rate * arguments.scale));
    let fake = FakeWorkspace::start(FakeOptions {
        latency: Duration::from_millis(if is_limited { arguments.latency } else { 0 }),
        rates: if is_limited { BTreeMap::from(rates) } else { BTreeMap::new() },
        failure_share: arguments.failures,
        ..FakeOptions::default()
    });
    let folders = arguments.folders.unwrap_or(arguments.notebooks / 8);
    fake.generate(&GenerateOptions { notebooks: arguments.notebooks, folders, ..GenerateOptions::default() });
    println!("{} notebooks in {folders} folders", arguments.notebooks);
    println!(
        "{:<16} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7} {:>9} {:>9}",
        "", "wall", "floor", "ratio", "lists", "exports", "429", "received", "memory"
    );
    let bench = Bench { arguments, folder, fake };
    bench.lakebed("init")?;
    bench.night("first")?;
    bench.fake.night(&NightOptions { changed_share: 0.05, ..NightOptions::default() });
    bench.night("5 % changed")?;
    bench.night("nothing changed")?;
    std::fs::remove_dir_all(&bench.folder)?;
    Ok(())
}

impl Bench<'_> {
    fn lakebed(&self, command: &str) -> Result<crate::measure::Figures, Failure> {
        let lakebed = std::path::absolute(&self.arguments.lakebed)?;
        let env = [
            ("HOME", self.folder.display().to_string()),
            ("LAKEBED_PASSWORD", "benchmark".to_owned()),
            ("LAKEBED_REPO", self.folder.join("repo").display().to_string()),
            ("LAKEBED_ALLOW_HTTP", "true".to_owned()),
            ("DATABRICKS_HOST", self.fake.url()),
            ("DATABRICKS_TOKEN", self.fake.token().to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value));
        measure(&format!("{} {command} > /dev/null", lakebed.display()), &env, &self.folder)
    }

    /// Takes a night and prints what it took.
    fn night(&self, name: &str) -> Result<(), Failure> {
        self.fake.reset_counters();
        let scale = self.arguments.scale;
        let rate = |kind: &str, rate: f64| match scale > 0.0 {
            true => format!("--rate {kind}={}", rate * scale),
            false => format!("--rate {kind}=none"),
        };
        let rates = format!("{} {}", rate("export", EXPORTS), rate("list", LISTS));
        let figures = self.lakebed(&format!("backup databricks:///Clients {rates}"))?;
        let counters = self.fake.counters();
        let (lists, exports) = (counters.of(Kind::List), counters.of(Kind::Export));
        let floor = (exports as f64 / EXPORTS).max(lists as f64 / LISTS) / scale;
        let (floor, ratio) = match scale > 0.0 {
            true => (format!("{floor:.1} s"), format!("{:.3}", figures.wall / floor)),
            false => ("-".into(), format!("{:.0}/s", exports.max(lists) as f64 / figures.wall)),
        };
        println!(
            "{name:<16} {:>7.1} s {floor:>9} {ratio:>7} {lists:>9} {exports:>9} {:>7} {:>5.0} MiB {:>5.0} MiB",
            figures.wall,
            counters.throttled,
            counters.bytes_sent as f64 / f64::from(1 << 20),
            figures.rss,
        );
        Ok(())
    }
}
