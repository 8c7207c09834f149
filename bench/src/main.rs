//! One run of the engine over a folder of real files, phase by phase, beside plain floors.
//!
//!     lakebed-bench SOURCE WORK [ROUNDS]
//!
//! `SOURCE` is a folder that is only read; `WORK` is a folder for repositories and restored trees, which stay there (on
//! ext4 without a journal, creating files soon after deleting many is many times slower, so nothing is deleted between
//! rounds). Printed are seconds, and the ratio to the floor that does the least a phase could do: `tar | zstd -3 -T2` for
//! a first backup, `find -printf` for a night without changes, `zstd -d | tar x` for a restore, `zstd -d` for a
//! verification. Only ratios of one run mean anything.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use lakebed_engine::backup::BackupOptions;
use lakebed_engine::core::chunker::ChunkerParameters;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::record::key_slot::{KdfCost, Secret};
use lakebed_engine::repository::{SnapshotFilter, SnapshotSelector};
use lakebed_engine::restore::{RestoreOptions, restore};
use lakebed_engine::source::{Filter, FilterOptions, LocalOptions, local_mounts};
use lakebed_engine::storage::LocalStorage;
use lakebed_engine::verify::{ReadData, VerifyOptions};
use lakebed_engine::{InitOptions, OpenOptions, Repository, Silent};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(source), Some(work)) = (arguments.next(), arguments.next()) else {
        return Err("usage: lakebed-bench SOURCE WORK [ROUNDS]".into());
    };
    let rounds: usize = arguments.next().map_or(Ok(1), |rounds| rounds.parse())?;
    let (source, work) = (PathBuf::from(source), PathBuf::from(work));
    for round in 0..rounds {
        let folder = work.join(format!("round-{}-{round}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        run(&source, &folder)?;
    }
    Ok(())
}

fn run(source: &Path, work: &Path) -> Result<(), Failure> {
    let (from, to) = (source.display(), work.display());
    shell(&format!("find {from} -type f -print0 | xargs -0 cat > /dev/null"))?;
    let archive = shell(&format!("tar -C {from} -cf - . | zstd -q -3 -T2 -o {to}/floor.tar.zst"))?;
    let walk = shell(&format!("find {from} -printf '%s %T@ %p\\n' > /dev/null"))?;
    let unpack = shell(&format!("mkdir {to}/floor && zstd -qdc {to}/floor.tar.zst | tar -C {to}/floor -xpf -"))?;
    let decompress = shell(&format!("zstd -qdc {to}/floor.tar.zst > /dev/null"))?;

    let (repository, _) = timed(|| make(work))?;
    let (first, initial) = timed(|| backup(&repository, source))?;
    report("initial", initial, archive);
    let (_, unchanged) = timed(|| backup(&open(work)?, source))?;
    report("no change", unchanged, walk);
    let (_, restored) = timed(|| restore_latest(&open(work)?, &work.join("restored")))?;
    report("restore", restored, unpack);
    let (_, structure) = timed(|| verify(&open(work)?, ReadData::None))?;
    report("verify, structure", structure, decompress);
    let (_, verified) = timed(|| verify(&open(work)?, ReadData::All))?;
    report("verify, all data", verified, decompress);
    let floor_bytes = std::fs::metadata(work.join("floor.tar.zst"))?.len();
    println!(
        "{:<20} {:>8.1} MB  {:.2} of the archive",
        "stored",
        first as f64 / 1e6,
        first as f64 / floor_bytes as f64
    );
    Ok(())
}

fn report(phase: &str, seconds: f64, floor: f64) {
    println!("{phase:<20} {seconds:>8.3} s   {:.2} of the floor ({floor:.3} s)", seconds / floor);
}

fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(T, f64), Failure> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed().as_secs_f64()))
}

fn shell(command: &str) -> Result<f64, Failure> {
    let run = || match Command::new("sh").args(["-c", command]).status()?.success() {
        true => Ok(()),
        false => Err(format!("failed: {command}").into()),
    };
    timed(run).map(|((), seconds)| seconds)
}

fn secret() -> Secret {
    Secret::Passphrase(b"benchmark".to_vec().into())
}

fn options(work: &Path) -> OpenOptions {
    OpenOptions { cache_dir: Some(work.join("cache")), ..OpenOptions::default() }
}

fn make(work: &Path) -> Result<Repository, Failure> {
    let init = InitOptions {
        encryption: Encryption::Aes256Gcm,
        unlock: KdfCost::Standard.unlock(),
        label: String::new(),
        chunker: ChunkerParameters::default(),
    };
    let storage = Arc::new(LocalStorage::create(work.join("repository"))?);
    Ok(Repository::init(storage, &secret(), &init, &options(work))?)
}

fn open(work: &Path) -> Result<Repository, Failure> {
    let storage = Arc::new(LocalStorage::open(work.join("repository"))?);
    Ok(Repository::open(storage, &secret(), &options(work))?)
}

fn backup(repository: &Repository, source: &Path) -> Result<u64, Failure> {
    let filter = Arc::new(Filter::new(&FilterOptions::default())?);
    let mounts = local_mounts(&[source.to_path_buf()], &filter, &LocalOptions::default())?;
    Ok(repository.backup(mounts, &BackupOptions::default(), &Silent)?.summary.bytes_stored)
}

fn restore_latest(repository: &Repository, target: &Path) -> Result<(), Failure> {
    let latest = repository.find_snapshot(&SnapshotSelector::Latest, &SnapshotFilter::default(), &Silent)?;
    let options = RestoreOptions { target: target.to_path_buf(), ..RestoreOptions::default() };
    let report = restore(&repository.reader(&Silent)?, &latest, &options, &|_, _| {}, &Silent)?;
    match report.failures.first() {
        None => Ok(()),
        Some(failure) => Err(format!("{}: {}", failure.path.display(), failure.error).into()),
    }
}

fn verify(repository: &Repository, read: ReadData) -> Result<(), Failure> {
    let report = repository.verify(&VerifyOptions { read, ..VerifyOptions::default() }, &Silent)?;
    if report.is_good() { Ok(()) } else { Err("the repository is damaged".into()) }
}
