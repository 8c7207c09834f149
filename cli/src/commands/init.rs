//! `init`: make a repository.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use lakebed_engine::core::chunker::ChunkerParameters;
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::layout;
use lakebed_engine::core::record::key_slot::{KEY_FILE_MIN_BYTES, KdfCost, Secret, Unlock};
use lakebed_engine::core::storage::{Storage, StorageErrorKind};
use lakebed_engine::core::time::Random;
use lakebed_engine::storage::LocalStorage;
use lakebed_engine::{Error, InitOptions, Repository};
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::Kdf;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::location::Location;
use crate::secret;
use crate::size::parse_size;

const EXAMPLES: &str = "\
The folder above the repository must exist, so that no repository is made below the mount point of a missing disk; a \
bucket or container must be there too. \
Whoever loses the password and every key file has lost the data: nobody can open the repository then.

Examples:
  lakebed init --repo /mnt/backup/lake
  lakebed init --repo /mnt/backup/lake --new-key-file lake.key
  lakebed init --repo /mnt/backup/public --no-encryption
  lakebed init --repo s3://bucket/lake --from-repo /mnt/backup/lake";

/// Make a repository
///
/// Makes an empty repository in a new or empty folder, or at a place on an object store. Needed once, before the first
/// backup.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Do not encrypt: whoever can read the place can read the backups, and whoever can write there can forge them
    #[arg(long, conflicts_with_all = ["new_key_file", "password_file", "password_command", "key_file", "kdf", "label"])]
    no_encryption: bool,
    /// Make this file of 32 random bytes and use it as the key; it must not exist
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "password_command", "key_file", "kdf"])]
    new_key_file: Option<PathBuf>,
    /// Cut large files into pieces of about this size, a power of two. Small pieces find more that is there already,
    /// large ones need fewer names: about 100 bytes for each. It cannot be changed later
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk_size, default_value = "16KiB")]
    chunk_size: u32,
    /// Cut files as this repository does, which snapshots are to be copied from, and encrypt only if it is encrypted
    #[arg(long, value_name = "FOLDER|URL", conflicts_with_all = ["chunk_size", "no_encryption"])]
    from_repo: Option<PathBuf>,
    /// How costly it is to guess the password
    #[arg(long, value_enum, default_value_t, value_name = "COST")]
    kdf: Kdf,
    /// Label of the first key slot, to know it by [default: none]
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
}

pub(crate) fn run(ctx: &Context, args: &InitArgs) -> Result<Exit, CliError> {
    let location = ctx.location()?;
    refuse_existing(&location)?;
    let model = match &args.from_repo {
        Some(from) => Some(ctx.read_config(&Location::parse(Some(from), "No repository was named by --from-repo")?)?),
        None => None,
    };
    let no_encryption = args.no_encryption || model.as_ref().is_some_and(|model| model.encryption == Encryption::None);
    if let Some(file) = args.new_key_file.as_deref().filter(|file| file.symlink_metadata().is_ok()) {
        return Err(CliError::failed(format!("`{}` exists already", file.display()))
            .hint("to use it as the key give --key-file; a file is never replaced"));
    }
    // asked before anything is made: whoever gives up at the prompt leaves nothing behind
    let typed = match (no_encryption, &args.new_key_file) {
        (true, _) => Some(Secret::None),
        (false, None) => Some(ctx.globals.secret.places().read_new()?),
        (false, Some(_)) => None,
    };
    let options = ctx.open_options()?;
    let storage = create(ctx, &location)?;
    let secret = match (typed, &args.new_key_file) {
        (None, Some(file)) => make_key_file(file, &*options.random)?,
        (typed, _) => typed.unwrap_or(Secret::None),
    };
    let init = InitOptions {
        encryption: if no_encryption { Encryption::None } else { Encryption::Aes256Gcm },
        unlock: match &secret {
            Secret::KeyFile(_) => Unlock::KeyFile,
            _ => KdfCost::from(args.kdf).unlock(),
        },
        label: args.label.clone(),
        chunker: model.map_or_else(|| ChunkerParameters::with_average(args.chunk_size), |model| model.chunker),
    };
    let repository = Repository::init(storage, &secret, &init, &options)?;
    ctx.ui.set_repository(&repository);
    let info = repository.info();
    let key = secret::describe(&secret);
    ctx.ui.report(
        || json!({ "id": info.id, "location": info.location, "encrypted": !no_encryption, "key": key }),
        |out| {
            writeln!(out, "repository {} made at {}", info.id.short(), info.location)?;
            match &secret {
                Secret::None => writeln!(out, "not encrypted: whoever can read the place can read the backups"),
                Secret::KeyFile(_) => {
                    writeln!(out, "encrypted with AES-256-GCM, opened by the key file")?;
                    writeln!(out, "Keep a copy of the key file elsewhere: without it nobody can open the repository.")
                }
                Secret::Passphrase(_) => {
                    writeln!(out, "encrypted with AES-256-GCM, opened by the password")?;
                    writeln!(out, "Keep the password safe: without it nobody can open the repository.")
                }
            }
        },
    )?;
    Ok(Exit::Done)
}

fn parse_chunk_size(text: &str) -> Result<u32, String> {
    let size = u32::try_from(parse_size(text)?).unwrap_or(u32::MAX);
    match ChunkerParameters::with_average(size).check() {
        Ok(()) => Ok(size),
        Err(_) => Err("it must be a power of two from 256 bytes to 8MiB".into()),
    }
}

/// Says that there is a repository already before anybody is asked for a password. An object store is not asked: the
/// engine does so before it makes anything.
fn refuse_existing(location: &Location) -> Result<(), CliError> {
    let Some(Ok(storage)) = location.folder().map(LocalStorage::open) else { return Ok(()) };
    match storage.size(&layout::config()) {
        Ok(_) => Err(Error::RepositoryExists { location: storage.location() }.into()),
        Err(_) => Ok(()),
    }
}

/// Makes the place for the repository: a folder; buckets and containers are there already.
fn create(ctx: &Context, location: &Location) -> Result<Arc<dyn Storage>, CliError> {
    let path = match location {
        Location::Store(target) => return Ok(ctx.connect(target)?),
        Location::Folder(path) => path,
    };
    let storage = LocalStorage::create(path).map_err(|error| match error.kind {
        StorageErrorKind::AlreadyExists => CliError::failed(format!("`{}` is in use already", path.display()))
            .caused_by(error.source)
            .hint("name a new or empty folder for the repository"),
        StorageErrorKind::NotFound => CliError::failed(format!("The folder above `{}` does not exist", path.display()))
            .hint("make it first, or mount the disk that it belongs to"),
        _ => CliError::from(Error::from(error)),
    })?;
    Ok(Arc::new(storage))
}

fn make_key_file(path: &Path, random: &dyn Random) -> Result<Secret, CliError> {
    let mut key = Zeroizing::new(vec![0; KEY_FILE_MIN_BYTES]);
    let mut write = || -> std::io::Result<()> {
        random.fill(&mut key)?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&key)?;
        file.sync_all()
    };
    write()
        .map_err(|error| CliError::failed(format!("Cannot make the key file `{}`", path.display())).caused_by(error))?;
    Ok(Secret::KeyFile(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lakebed_engine::system::SystemRandom;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn chunk_sizes_are_powers_of_two_within_limits() {
        assert_eq!(parse_chunk_size("16KiB"), Ok(ChunkerParameters::default().average_bytes));
        assert_eq!(parse_chunk_size("8MiB"), Ok(8 << 20));
        for wrong in ["0", "128", "100000", "16MiB", "5GiB", "large"] {
            assert!(parse_chunk_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_file_is_private_random_and_never_replaced() {
        let folder = std::env::temp_dir().join(format!("lakebed-cli-key-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        let Secret::KeyFile(key) = make_key_file(&path, &SystemRandom).unwrap() else { panic!("no key file") };
        assert_eq!(std::fs::read(&path).unwrap(), *key);
        assert_ne!(*key, vec![0; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(make_key_file(&path, &SystemRandom).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), *key);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
