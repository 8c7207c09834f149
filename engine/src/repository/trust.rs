//! What this machine remembers of a repository: the hash of its configuration, in its cache folder.
//!
//! Whoever can write the storage can replace `lakebed.json` and all key slots together, and so put another repository,
//! perhaps an unencrypted one, where an encrypted one was. A machine that was there before notices; and a machine that was
//! not does not hand plain data to a repository without encryption while its user holds out a password.

use std::path::Path;

use lakebed_core::codec::seal::Encryption;
use lakebed_core::id::{from_hex, to_hex};
use lakebed_core::record::key_slot::Secret;

use crate::error::{Error, Result};

const FILE: &str = "configuration";

/// Checks that a place which had an encrypted repository does not have one without encryption now.
pub(super) fn check_location(cache: Option<&Path>, place: &str, location: &str, encryption: Encryption) -> Result<()> {
    let known = cache.and_then(|cache| std::fs::read_to_string(place_file(cache, place)).ok());
    match known {
        Some(known) if known == ENCRYPTED && encryption == Encryption::None => {
            Err(Error::ConfigExchanged { location: location.into() })
        }
        _ => Ok(()),
    }
}

/// Remembers what a place has. Whoever makes a repository there says so anew.
pub(super) fn remember_location(cache: Option<&Path>, place: &str, encryption: Encryption) {
    let Some(cache) = cache else { return };
    let file = place_file(cache, place);
    let known = if encryption == Encryption::None { OPEN } else { ENCRYPTED };
    let is_known = std::fs::read_to_string(&file).is_ok_and(|text| text == known);
    if let (false, Some(folder)) = (is_known, file.parent())
        && std::fs::create_dir_all(folder).is_ok()
    {
        let _ = std::fs::write(file, known);
    }
}

const ENCRYPTED: &str = "encrypted\n";
const OPEN: &str = "not encrypted\n";

fn place_file(cache: &Path, place: &str) -> std::path::PathBuf {
    // a folder may be named in several ways, a URL in one
    let absolute = match place.contains("://") {
        true => place.into(),
        false => std::path::absolute(place).unwrap_or_else(|_| place.into()),
    };
    let name = lakebed_core::hash::object_hash(absolute.as_os_str().as_encoded_bytes());
    cache.join("places").join(to_hex(name.as_bytes()))
}

/// Returns what was found out of a medium: whether a name that is taken is refused there.
pub(super) fn known_medium(cache: Option<&Path>, place: &[u8]) -> Option<bool> {
    match std::fs::read_to_string(medium_file(cache?, place)).ok()?.as_str() {
        REFUSES => Some(true),
        REPLACES => Some(false),
        _ => None,
    }
}

/// Remembers what was found out of a medium.
pub(super) fn remember_medium(cache: Option<&Path>, place: &[u8], put_if_absent: bool) {
    if let Some(file) = cache.map(|cache| medium_file(cache, place))
        && let Some(folder) = file.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        let _ = std::fs::write(file, if put_if_absent { REFUSES } else { REPLACES });
    }
}

const REFUSES: &str = "refuses names that are taken\n";
const REPLACES: &str = "replaces what has a name\n";

fn medium_file(cache: &Path, place: &[u8]) -> std::path::PathBuf {
    cache.join("storage").join(to_hex(place))
}

/// Returns the configuration that a place had, where it still has one of that size. Whoever has exchanged it since is not
/// served: what was there is gone on with.
pub(super) fn known_config(cache: Option<&Path>, place: &str, size_bytes: u64) -> Option<Vec<u8>> {
    let bytes = std::fs::read(config_file(cache?, place)).ok()?;
    Some(bytes).filter(|bytes| bytes.len() as u64 == size_bytes)
}

/// Remembers the configuration of a place.
pub(super) fn remember_config(cache: Option<&Path>, place: &str, bytes: &[u8]) {
    let Some(file) = cache.map(|cache| config_file(cache, place)) else { return };
    if std::fs::read(&file).is_ok_and(|known| known == bytes) {
        return;
    }
    if let Some(folder) = file.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        let _ = std::fs::write(file, bytes);
    }
}

fn config_file(cache: &Path, place: &str) -> std::path::PathBuf {
    place_file(cache, place).with_extension("json")
}

/// Checks a configuration against what is remembered.
pub(super) fn check(
    cache: Option<&Path>,
    location: &str,
    encryption: Encryption,
    config_hash: &[u8; 32],
    secret: &Secret,
) -> Result<()> {
    match cache.and_then(remembered) {
        Some(hash) if hash == *config_hash => Ok(()),
        Some(_) => Err(Error::ConfigExchanged { location: location.into() }),
        None if encryption == Encryption::None && !matches!(secret, Secret::None) => {
            Err(Error::UnexpectedlyOpen { location: location.into() })
        }
        None => Ok(()),
    }
}

/// Returns the hash that is remembered. What is no hash, a file cut off by a full disk say, is no memory.
fn remembered(cache: &Path) -> Option<[u8; 32]> {
    let text = std::fs::read_to_string(cache.join(FILE)).ok()?;
    from_hex(text.trim())?.try_into().ok()
}

/// Remembers a configuration that was found good. A cache that cannot be written remembers nothing, and that is all.
pub(super) fn remember(cache: Option<&Path>, config_hash: &[u8; 32]) {
    if let Some(cache) = cache
        && remembered(cache).is_none()
        && std::fs::create_dir_all(cache).is_ok()
    {
        let _ = std::fs::write(cache.join(FILE), to_hex(config_hash));
    }
}
