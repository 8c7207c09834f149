//! Embedding the engine: make a repository, back a folder up, restore it, verify everything.
//!
//!     cargo run --release --example embed -- SOURCE WORK
//!
//! `SOURCE` is a folder to back up; `WORK` is a folder for the repository, the cache and the restored copy.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::PathBuf;
use std::sync::Arc;

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(work)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embed SOURCE WORK".into());
    };
    std::fs::create_dir_all(&work)?;

    let storage = Arc::new(LocalStorage::create(work.join("repository"))?);
    let secret = Secret::Passphrase(b"correct horse battery staple".to_vec().into());
    let open = OpenOptions { cache_dir: Some(work.join("cache")), ..OpenOptions::default() };
    let init = InitOptions {
        encryption: Encryption::Aes256Gcm,
        unlock: KdfCost::Standard.unlock(),
        label: "example".into(),
        chunker: ChunkerParameters::default(),
    };
    let repository = Repository::init(storage, &secret, &init, &open)?;

    let filter = Arc::new(Filter::new(&FilterOptions::default())?);
    let mounts = local_mounts(&[source], &filter, &LocalOptions::default())?;
    let report = repository.backup(mounts, &BackupOptions::default(), &Silent)?;
    println!("backed up {} files, {} bytes stored", report.summary.files, report.summary.bytes_stored);

    let latest = repository.find_snapshot(&SnapshotSelector::Latest, &SnapshotFilter::default(), &Silent)?;
    let reader = repository.reader(&Silent)?;
    let options = RestoreOptions { target: work.join("restored"), ..RestoreOptions::default() };
    let restored = restore(&reader, &latest, &options, &|_, _| {}, &Silent)?;
    println!("restored {} entries, {} failures", restored.created, restored.failures.len());

    let options = VerifyOptions { read: ReadData::All, ..VerifyOptions::default() };
    let verified = repository.verify(&options, &Silent)?;
    println!("verified {} packs, {} damages", verified.packs_read, verified.damage.len());
    Ok(())
}
