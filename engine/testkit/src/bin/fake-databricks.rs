//! Runs a fake Databricks workspace for scripts and benchmarks.

#![expect(clippy::print_stdout, reason = "it tells where it listens")]
#![allow(clippy::expect_used, reason = "a fixture that cannot go on is to stop with a panic")]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use lakebed_testkit::databricks::{FakeOptions, FakeWorkspace, GenerateOptions, Kind};

/// A Databricks workspace that is none: a real HTTP server with the calls that a backup and a restore need.
#[derive(Debug, Parser)]
#[command(name = "fake-databricks")]
struct Args {
    /// The port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The personal access token that it takes.
    #[arg(long, default_value = "fake-token")]
    token: String,
    /// What each call waits, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    latency_ms: f64,
    /// How many calls of a kind it takes in a second; may be given again. By default export=60, import=30, list=50
    /// and permissions=100.
    #[arg(long, value_name = "KIND=N", value_parser = rate)]
    rate: Vec<(String, f64)>,
    /// Takes any number of calls, but for those kinds that have a --rate.
    #[arg(long)]
    no_limits: bool,
    /// Generates so many notebooks.
    #[arg(long, value_name = "NOTEBOOKS")]
    generate: Option<usize>,
    /// Generates them in so many folders; by default one for every 20 notebooks.
    #[arg(long)]
    folders: Option<usize>,
    /// The share of what is generated that are files instead of notebooks.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    files_share: f64,
    /// Adds jobs, pipelines, catalogs, volumes, dashboards, secret scopes and permissions.
    #[arg(long)]
    extras: bool,
    /// Takes what lies in a folder on disk.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// How many entries a page has at most, in catalogs, in pipelines and in folders of volumes.
    #[arg(long, value_name = "ENTRIES", default_value_t = 1000)]
    page_size: usize,
    /// Listings of catalogs have a page without entries before the page of this number, counted from 0.
    #[arg(long, value_name = "PAGE")]
    empty_page: Option<usize>,
    /// Keeps a log of all requests, to be read at /_fake/log.
    #[arg(long)]
    keep_log: bool,
    /// The share of calls that fail.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    failure_share: f64,
    /// What follows from chance follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ends when the standard input does.
    #[arg(long)]
    until_stdin_closes: bool,
}

const RATES: [(&str, f64); 4] = [("export", 60.0), ("import", 30.0), ("list", 50.0), ("permissions", 100.0)];

fn rate(text: &str) -> Result<(String, f64), String> {
    let (kind, rate) = text.split_once('=').ok_or("it is not KIND=N")?;
    Kind::named(kind).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        format!("the kinds are {}", names.join(", "))
    })?;
    match rate.parse() {
        Ok(rate) if rate > 0.0 => Ok((kind.to_owned(), rate)),
        _ => Err(format!("{rate} is no rate")),
    }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let usual = RATES.into_iter().filter(|_| !args.no_limits).map(|(kind, rate)| (kind.to_owned(), rate));
    let rates: BTreeMap<String, f64> = usual.chain(args.rate.iter().cloned()).collect();
    let workspace = FakeWorkspace::start(FakeOptions {
        port: args.port,
        tokens: vec![args.token.clone()],
        latency: Duration::from_secs_f64(args.latency_ms / 1000.0),
        rates,
        failure_share: args.failure_share,
        page_size: args.page_size,
        empty_page: args.empty_page,
        keep_log: args.keep_log,
        seed: args.seed,
        ..FakeOptions::default()
    });
    if let Some(notebooks) = args.generate {
        workspace.generate(&GenerateOptions {
            notebooks,
            folders: args.folders.unwrap_or(notebooks / 20),
            seed: args.seed,
            files_share: args.files_share,
            ..GenerateOptions::default()
        });
    }
    if args.extras {
        workspace.generate_extras();
    }
    if let Some(folder) = &args.from {
        workspace.load_folder(folder);
    }
    println!("listening on {}", workspace.url());
    println!("token: {}", workspace.token());
    io::stdout().flush()?;
    if args.until_stdin_closes {
        io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
    } else {
        loop {
            std::thread::park();
        }
    }
}
