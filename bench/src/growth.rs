//! How time, memory and stored bytes grow: with the files that are there, with those that changed, with the snapshots.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::Failure;
use crate::measure::{Figures, bytes_below, measure, shell};
use crate::source::Numbers;

#[derive(Debug, Args)]
pub struct GrowthArgs {
    /// Folder for sources and repositories
    work: PathBuf,
    /// The lakebed to measure
    #[arg(long)]
    lakebed: PathBuf,
    /// Files of 2 KB
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Snapshots
    #[arg(long, default_value_t = 1_000)]
    snapshots: u64,
    /// Chunks in the index
    #[arg(long, default_value_t = 10_000_000)]
    chunks: u64,
}

/// Snapshots of many files.
const NIGHTS: u64 = 100;

struct Place {
    lakebed: String,
    folder: PathBuf,
}

impl Place {
    fn new(arguments: &GrowthArgs, name: &str) -> Result<Self, Failure> {
        let work = std::path::absolute(&arguments.work)?;
        let folder = work.join(format!("growth-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("source"))?;
        Ok(Self { lakebed: std::path::absolute(&arguments.lakebed)?.display().to_string(), folder })
    }

    fn source(&self) -> PathBuf {
        self.folder.join("source")
    }

    /// Runs lakebed, prints what it took, and returns that.
    fn lakebed(&self, what: &str, arguments: &str) -> Result<Figures, Failure> {
        let (folder, lakebed) = (self.folder.display(), &self.lakebed);
        let home = folder.to_string();
        let env = [("LAKEBED_PASSWORD", "benchmark"), ("HOME", &home)];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let line = format!("cd {folder} && {lakebed} {arguments} --repo {folder}/repo > /dev/null");
        let figures = measure(&line, &env, &self.folder)?;
        println!("{what}: {}", described(&figures));
        Ok(figures)
    }

    /// Makes so many snapshots, changing a file before each.
    fn nights(&self, count: u64, changing: &Path) -> Result<(), Failure> {
        let (folder, lakebed, file) = (self.folder.display(), &self.lakebed, changing.display());
        shell(&format!(
            "cd {folder} && export HOME={folder} LAKEBED_PASSWORD=benchmark && for i in $(seq {count}); do \
             echo $i > {file}; {lakebed} backup --repo repo source > /dev/null || exit 1; done"
        ))
    }

    fn stored(&self) -> Result<u64, Failure> {
        bytes_below(&self.folder.join("repo"))
    }
}

fn described(figures: &Figures) -> String {
    format!("{:.3} s, {:.3} s of processor time, {:.0} MiB", figures.wall, figures.cpu, figures.rss)
}

pub fn run(arguments: &GrowthArgs) -> Result<(), Failure> {
    many_files(arguments, "one folder", &|number| format!("file-{number:07}.txt"))?;
    many_files(arguments, "folders of 1,000", &|number| format!("{:04}/file-{:04}.txt", number / 1000, number % 1000))?;
    many_snapshots(arguments)?;
    many_chunks(arguments)?;
    sparse_file(arguments)
}

fn many_files(arguments: &GrowthArgs, name: &str, path: &dyn Fn(u64) -> String) -> Result<(), Failure> {
    println!("\n{} files of 2 KB, {name}", arguments.files);
    let place = Place::new(arguments, &name.replace([' ', ','], "-"))?;
    let source = place.source();
    let mut numbers = Numbers::new(1);
    for number in 0..arguments.files {
        let path = source.join(path(number));
        if let Some(folder) = path.parent().filter(|_| number % 1000 == 0) {
            fs::create_dir_all(folder)?;
        }
        let content: String = (0..125).map(|_| format!("{:016x}", numbers.next())).collect();
        fs::write(path, content)?;
    }
    place.lakebed("init", "init")?;
    place.lakebed("first backup", "backup source")?;
    let find = format!("find {} -printf '%s %T@ %p\\n' > /dev/null", source.display());
    measure(&find, &[], &place.folder)?;
    let floor = measure(&find, &[], &place.folder)?;
    let unchanged = place.lakebed("nothing changed", "backup source")?;
    println!("  {:.2} of find -printf ({:.3} s)", unchanged.wall / floor.wall, floor.wall);
    let before = place.stored()?;
    for _ in 0..100 {
        let path = source.join(path(numbers.below(arguments.files)));
        fs::write(path, format!("{:x}", numbers.next()))?;
    }
    place.lakebed("100 files changed", "backup source")?;
    let after = place.stored()?;
    println!("  {} KB stored", (after - before) / 1000);
    fs::write(source.join("zz-new"), "new")?;
    place.lakebed("one file added", "backup source")?;
    println!("  {} KB stored", (place.stored()? - after) / 1000);
    let one = format!("restore latest --target one --path source/{}", path(arguments.files / 2));
    place.lakebed("one file restored", &one)?;
    // four there are
    place.nights(NIGHTS - 4, &source.join("zz-new"))?;
    let one = format!("restore latest --target another --path source/{}", path(arguments.files / 3));
    place.lakebed(&format!("one file restored, {NIGHTS} snapshots"), &one)?;
    Ok(())
}

fn many_snapshots(arguments: &GrowthArgs) -> Result<(), Failure> {
    println!("\n{} snapshots", arguments.snapshots);
    let place = Place::new(arguments, "snapshots")?;
    place.lakebed("init", "init")?;
    place.nights(arguments.snapshots, &place.source().join("file"))?;
    place.lakebed("listed", "snapshots")?;
    place.lakebed("listed again", "snapshots")?;
    place.lakebed("one file restored", "restore latest --target one --path source/file")?;
    Ok(())
}

fn many_chunks(arguments: &GrowthArgs) -> Result<(), Failure> {
    println!("\n{} chunks in the index, 256 MiB for it", arguments.chunks);
    let place = Place::new(arguments, "chunks")?;
    let blob = place.source().join("blob");
    write_noise(&blob, arguments.chunks * 300)?;
    place.lakebed("init", "init --chunk-size 256")?;
    place.lakebed("first backup", "backup --memory 256MiB source")?;
    fs::File::options().append(true).open(&blob)?.set_len(arguments.chunks * 300 - 1)?;
    place.lakebed("backup of a changed file", "backup --memory 256MiB source")?;
    place.lakebed("restore", "restore --memory 256MiB latest --target restored")?;
    place.lakebed("verify", "verify --memory 256MiB --read-data")?;
    place.lakebed("index rebuild", "index rebuild --memory 256MiB")?;
    Ok(())
}

/// Writes bytes that repeat nowhere.
pub fn write_noise(path: &Path, bytes: u64) -> Result<(), Failure> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    let mut numbers = Numbers::new(3);
    for _ in 0..bytes >> 20 {
        file.write_all(&numbers.bytes(1 << 20))?;
    }
    Ok(file.write_all(&numbers.bytes((bytes & ((1 << 20) - 1)) as usize))?)
}

fn sparse_file(arguments: &GrowthArgs) -> Result<(), Failure> {
    println!("\na sparse file of 100 GB");
    let place = Place::new(arguments, "sparse")?;
    fs::File::create(place.source().join("sparse"))?.set_len(100_000_000_000)?;
    place.lakebed("init", "init")?;
    place.lakebed("backup", "backup source")?;
    place.lakebed("restore", "restore latest --target restored")?;
    place.lakebed("verify", "verify --read-data --whole-files")?;
    Ok(())
}
