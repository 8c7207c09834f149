//! What a machine that has never seen a repository in a bucket has to do: with many chunks, and with many snapshots.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Failure;
use crate::growth::write_noise;
use crate::measure::{Figures, measure, shell};
use crate::place::{BucketArgs, Place};

#[derive(Debug, Args)]
pub struct ColdArgs {
    /// Folder for sources and caches
    work: PathBuf,
    /// The lakebed to measure
    #[arg(long)]
    lakebed: PathBuf,
    /// Chunks in the index
    #[arg(long, default_value_t = 10_000_000)]
    chunks: u64,
    /// Snapshots
    #[arg(long, default_value_t = 300)]
    snapshots: u64,
    #[command(flatten)]
    bucket: BucketArgs,
}

struct Bench {
    lakebed: String,
    folder: PathBuf,
    place: Place,
}

impl Bench {
    fn new(arguments: &ColdArgs, name: &str) -> Result<Self, Failure> {
        let name = format!("cold-{}-{name}", std::process::id());
        let folder = std::path::absolute(&arguments.work)?.join(&name);
        std::fs::create_dir_all(folder.join("source"))?;
        let lakebed = std::path::absolute(&arguments.lakebed)?.display().to_string();
        let place = arguments.bucket.place(name)?.ok_or("which server? --endpoint and --bucket")?;
        Ok(Self { lakebed, folder, place })
    }

    /// Runs lakebed on some machine, prints what it took, and returns that.
    fn lakebed(&self, machine: &str, arguments: &str) -> Result<Figures, Failure> {
        let home = self.folder.join(machine);
        std::fs::create_dir_all(&home)?;
        let repo = self.place.told("lakebed", &home)?;
        let env = [("LAKEBED_PASSWORD", "benchmark".to_owned()), ("HOME", home.display().to_string())];
        let env = env.map(|(name, value)| (name.to_owned(), value));
        let before = self.place.requests(0).len();
        let line = format!("cd {} && {} {arguments} --repo {repo} > /dev/null", self.folder.display(), self.lakebed);
        let figures = measure(&line, &env, &self.folder)?;
        println!(
            "{arguments}, {machine}: {:.2} s, {:.2} s of processor time, {:.0} MiB, {} requests",
            figures.wall,
            figures.cpu,
            figures.rss,
            self.place.requests(before).len()
        );
        Ok(figures)
    }
}

pub fn run(arguments: &ColdArgs) -> Result<(), Failure> {
    println!("{} chunks", arguments.chunks);
    let bench = Bench::new(arguments, "chunks")?;
    write_noise(&bench.folder.join("source/blob"), arguments.chunks * 300)?;
    bench.lakebed("old machine", "init --chunk-size 256")?;
    bench.lakebed("old machine", "backup --memory 256MiB source")?;
    std::fs::remove_dir_all(bench.folder.join("source"))?;
    bench.lakebed("new machine", "index rebuild --memory 256MiB")?;
    many_snapshots(arguments)
}

fn many_snapshots(arguments: &ColdArgs) -> Result<(), Failure> {
    println!("\n{} snapshots", arguments.snapshots);
    let bench = Bench::new(arguments, "snapshots")?;
    bench.lakebed("old machine", "init")?;
    let home = bench.folder.join("old machine");
    nights(&bench, &home, arguments.snapshots)?;
    bench.lakebed("old machine", "snapshots")?;
    bench.lakebed("new machine", "snapshots")?;
    bench.lakebed("newest machine", "restore latest --target restored")?;
    Ok(())
}

/// Takes so many snapshots, each of something new.
fn nights(bench: &Bench, home: &Path, count: u64) -> Result<(), Failure> {
    let (folder, lakebed, repo) = (bench.folder.display(), &bench.lakebed, bench.place.told("lakebed", home)?);
    shell(&format!(
        "cd {folder} && unset XDG_CACHE_HOME LAKEBED_CACHE_DIR && export HOME='{}' LAKEBED_PASSWORD=benchmark && for i in $(seq {count}); do \
         echo $i > source/file; {lakebed} backup --repo {repo} source > /dev/null || exit 1; done",
        home.display()
    ))
}
