//! Key slots: the data key, wrapped for one passphrase or key file.
//!
//! What is wrapped is the data key and the hash of `lakebed.json`, so whoever can open a slot knows that the
//! configuration is the one that the repository was made with.

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::decode_json;
use crate::codec::frame::{FrameKind, FrameScratch, open_record, seal_record};
use crate::codec::seal::{DataKey, Encryption, ObjectSealer, RepositoryKeys, Salt};
use crate::id::{KeySlotId, RepositoryId, from_hex, to_hex};
use crate::time::Timestamp;
use crate::wire::DecodeError;

/// Version of key slots.
pub const KEY_SLOT_VERSION: u32 = 1;

/// What opens a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Unlock {
    /// A passphrase, stretched by Argon2id (RFC 9106).
    Passphrase {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over the memory.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// A file of random bytes; nothing needs to be stretched.
    KeyFile,
    /// Nothing: the repository is not encrypted, and the slot protects nothing.
    Clear,
}

impl Unlock {
    /// Returns what trying it costs, to compare: KiB of memory passed over.
    pub fn cost(&self) -> u64 {
        match self {
            Self::Passphrase { memory_kib, passes, .. } => u64::from(*memory_kib) * u64::from(*passes),
            Self::KeyFile | Self::Clear => 0,
        }
    }
}

/// Costs of a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KdfCost {
    /// 19 MiB and 2 passes, as OWASP recommends: about 30 ms.
    #[default]
    Standard,
    /// 256 MiB and 4 passes: about a second.
    Strong,
}

impl KdfCost {
    /// Returns how a slot of this cost is unlocked.
    pub fn unlock(self) -> Unlock {
        match self {
            Self::Standard => Unlock::Passphrase { memory_kib: 19 * 1024, passes: 2, lanes: 1 },
            Self::Strong => Unlock::Passphrase { memory_kib: 256 * 1024, passes: 4, lanes: 1 },
        }
    }
}

/// What the user shows to open a repository.
#[derive(Clone)]
pub enum Secret {
    /// A passphrase.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The bytes of a key file: at least [`KEY_FILE_MIN_BYTES`].
    KeyFile(Zeroizing<Vec<u8>>),
    /// Nothing, for repositories that are not encrypted.
    None,
}

/// A key file with fewer bytes cannot be random enough.
pub const KEY_FILE_MIN_BYTES: usize = 32;

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::KeyFile(_) => "KeyFile(..)",
            Self::None => "None",
        })
    }
}

/// A key slot as it is stored, in the clear but for what it wraps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    /// Version of the slot.
    pub version: u32,
    /// When it was made.
    pub created: Timestamp,
    /// What opens it.
    pub unlock: Unlock,
    /// Salt of the key that wraps, in hexadecimal.
    pub salt: String,
    /// The data key and the configuration's hash, sealed, in hexadecimal.
    pub wrapped: String,
    /// The slot's label, sealed with the repository's own keys, in hexadecimal.
    pub label: String,
}

/// Why a slot does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeySlotError {
    /// It is damaged or of a newer version.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The secret is not the one that it was made for.
    #[error("the secret does not open the key slot")]
    WrongSecret,
    /// The slot opens, but not for the configuration that is there.
    #[error("`lakebed.json` is not the one that the key slot was made for: it was changed or exchanged")]
    OtherConfig,
    /// The key cannot be derived.
    #[error("the key cannot be derived: {why}")]
    Derivation {
        /// What is wrong.
        why: String,
    },
}

/// Tells whether a slot asks for more than 4 GiB or a thousand passes: a forged one must not exhaust the machine.
fn costs_too_much(memory_kib: u32, passes: u32) -> bool {
    memory_kib > 4 << 20 || passes > 1000
}

fn wrapping_key(unlock: &Unlock, salt: &Salt, secret: &Secret) -> Result<Zeroizing<[u8; 32]>, KeySlotError> {
    let mut key = Zeroizing::new([0; 32]);
    match (unlock, secret) {
        (Unlock::Passphrase { memory_kib, passes, lanes }, Secret::Passphrase(passphrase)) => {
            let derivation = |why: argon2::Error| KeySlotError::Derivation { why: why.to_string() };
            if costs_too_much(*memory_kib, *passes) {
                return Err(KeySlotError::Derivation { why: "it would cost too much memory or time".into() });
            }
            let params = Params::new(*memory_kib, *passes, *lanes, Some(32)).map_err(derivation)?;
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(passphrase, salt, &mut *key)
                .map_err(derivation)?;
        }
        (Unlock::KeyFile, Secret::KeyFile(bytes)) if bytes.len() < KEY_FILE_MIN_BYTES => {
            let why = format!("a key file must have at least {KEY_FILE_MIN_BYTES} bytes, this one has {}", bytes.len());
            return Err(KeySlotError::Derivation { why });
        }
        (Unlock::KeyFile, Secret::KeyFile(bytes)) => {
            let mut hasher = blake3::Hasher::new_derive_key("lakebed 2026 key file v1");
            hasher.update(salt).update(bytes);
            *key = *hasher.finalize().as_bytes();
        }
        (Unlock::Clear, _) => *key = *blake3::hash(salt).as_bytes(),
        _ => return Err(KeySlotError::WrongSecret),
    }
    Ok(key)
}

fn wrap_sealer(unlock: &Unlock, repository: RepositoryId, key: &[u8; 32]) -> ObjectSealer {
    let encryption = if *unlock == Unlock::Clear { Encryption::None } else { Encryption::Aes256Gcm };
    ObjectSealer::new(encryption, repository, key)
}

/// What is sealed with the wrapped key: everything that decides how it is unwrapped.
fn wrap_context(unlock: &Unlock) -> String {
    match unlock {
        Unlock::Passphrase { memory_kib, passes, lanes } => {
            format!("key slot {KEY_SLOT_VERSION} argon2id {memory_kib} {passes} {lanes}")
        }
        Unlock::KeyFile => format!("key slot {KEY_SLOT_VERSION} key-file"),
        Unlock::Clear => format!("key slot {KEY_SLOT_VERSION} clear"),
    }
}

impl KeySlot {
    /// Wraps the repository's data key for a secret.
    ///
    /// `salts` are two fresh random salts: for the wrapping key and for the label.
    ///
    /// # Errors
    /// The secret does not fit `unlock`, or the key cannot be derived.
    pub fn seal(
        keys: &RepositoryKeys,
        config_hash: &[u8; 32],
        unlock: Unlock,
        secret: &Secret,
        label: &str,
        created: Timestamp,
        salts: [Salt; 2],
    ) -> Result<Self, KeySlotError> {
        let [salt, label_salt] = salts;
        let key = wrapping_key(&unlock, &salt, secret)?;
        let mut wrapped = [&keys.data_key().as_bytes()[..], config_hash].concat();
        let failed = |why: &str| KeySlotError::Derivation { why: why.into() };
        wrap_sealer(&unlock, keys.repository(), &key)
            .seal(0, wrap_context(&unlock).as_bytes(), b"", &mut wrapped, 0)
            .map_err(|_| failed("it cannot be sealed"))?;
        let mut scratch = FrameScratch::new().map_err(|error| failed(&error.to_string()))?;
        let label = seal_record(keys, FrameKind::KeyLabel, &label_salt, "", label.as_bytes(), &mut scratch)
            .map_err(|error| failed(&error.to_string()))?;
        Ok(Self {
            version: KEY_SLOT_VERSION,
            created,
            unlock,
            salt: to_hex(&salt),
            wrapped: to_hex(&wrapped),
            label: to_hex(&label),
        })
    }

    /// Unwraps the data key.
    ///
    /// # Errors
    /// The secret is another one; the slot is damaged; the configuration is another one.
    pub fn open(
        &self,
        repository: RepositoryId,
        encryption: Encryption,
        config_hash: &[u8; 32],
        secret: &Secret,
    ) -> Result<DataKey, KeySlotError> {
        let invalid = |why: &str| DecodeError::invalid("key slot", why);
        let salt: Salt =
            from_hex(&self.salt).and_then(|salt| salt.try_into().ok()).ok_or_else(|| invalid("its salt is not one"))?;
        let wrapped = from_hex(&self.wrapped).ok_or_else(|| invalid("its wrapped key is not hexadecimal"))?;
        // a slot in the clear cannot open an encrypted repository, and the other way round
        if (self.unlock == Unlock::Clear) != (encryption == Encryption::None) {
            return Err(KeySlotError::OtherConfig);
        }
        let key = wrapping_key(&self.unlock, &salt, secret)?;
        let mut plain = Zeroizing::new(Vec::new());
        wrap_sealer(&self.unlock, repository, &key)
            .open(0, wrap_context(&self.unlock).as_bytes(), b"", &wrapped, &mut plain)
            .map_err(|_| KeySlotError::WrongSecret)?;
        let (data_key, hash) =
            plain.split_first_chunk::<32>().ok_or_else(|| invalid("its wrapped key is too short"))?;
        if hash != config_hash {
            return Err(KeySlotError::OtherConfig);
        }
        Ok(DataKey::new(*data_key))
    }

    /// Returns the label.
    ///
    /// # Errors
    /// It is damaged.
    pub fn open_label(&self, keys: &RepositoryKeys) -> Result<String, DecodeError> {
        let invalid = |why: String| DecodeError::invalid("key label", why);
        let bytes = from_hex(&self.label).ok_or_else(|| invalid("it is not hexadecimal".into()))?;
        let mut scratch = FrameScratch::new().map_err(|error| invalid(error.to_string()))?;
        let (_, plain) = open_record(keys, &[FrameKind::KeyLabel], "", &bytes, &mut scratch)
            .map_err(|error| invalid(error.to_string()))?;
        String::from_utf8(plain).map_err(|_| invalid("it is not UTF-8".into()))
    }

    /// Returns the bytes of the slot.
    pub fn encode(&self) -> Vec<u8> {
        // plain structs with string keys can always be written as JSON
        #[expect(clippy::expect_used)]
        let mut out = serde_json::to_vec_pretty(self).expect("a key slot that JSON can hold");
        out.push(b'\n');
        out
    }

    /// Reads a slot stored under `id`.
    ///
    /// # Errors
    /// Its bytes do not hash to its name, or are not a slot of a known version.
    pub fn decode(id: KeySlotId, bytes: &[u8]) -> Result<Self, DecodeError> {
        let found = Self::id(bytes);
        if found != id {
            let why = format!("expected hash {}, found {}", id.short(), found.short());
            return Err(DecodeError::invalid("key slot", why));
        }
        decode_json(bytes, "key slot", KEY_SLOT_VERSION)
    }

    /// Names the bytes of a slot.
    pub fn id(bytes: &[u8]) -> KeySlotId {
        KeySlotId::new(*blake3::hash(bytes).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG_HASH: [u8; 32] = [5; 32];

    fn keys(encryption: Encryption) -> RepositoryKeys {
        RepositoryKeys::derive(RepositoryId::new([1; 32]), encryption, DataKey::new([9; 32]))
    }

    fn slot(encryption: Encryption, unlock: Unlock, secret: &Secret) -> KeySlot {
        let salts = [[3; 32], [4; 32]];
        KeySlot::seal(&keys(encryption), &CONFIG_HASH, unlock, secret, "ops", Timestamp::default(), salts).unwrap()
    }

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.into()))
    }

    fn cheap() -> Unlock {
        Unlock::Passphrase { memory_kib: 8, passes: 1, lanes: 1 }
    }

    /// The data key as format 1 wraps it, from two other implementations of Argon2, BLAKE3 and AES.
    #[test]
    fn golden_wrapped_keys() {
        let file = Secret::KeyFile(Zeroizing::new(vec![6; 32]));
        let by_passphrase = slot(Encryption::Aes256Gcm, cheap(), &passphrase("right"));
        assert_eq!(
            by_passphrase.wrapped,
            "2e66c7901f6d3034dc135a4d97a761549952ae156c64902a498a21f10b514076\
             71367e9f1d136ab29a67a532fad89cc516d9eb7de908a423cae79f0fd819791e\
             58b650ed0c3c368936568ffcd0fb5023"
        );
        let by_file = slot(Encryption::Aes256Gcm, Unlock::KeyFile, &file);
        assert_eq!(
            by_file.wrapped,
            "5d4d0a47a3ba4228266dad3b3740b40f7390b8544488b4095a0284d41161ca5e\
             7fa2ccd6d93496154e9652f9723101df57665cb789c1cce4f67b8c51802e1246\
             a32156acb3fb60a0fe95acaee6ba9fc4"
        );
        let clear = slot(Encryption::None, Unlock::Clear, &Secret::None);
        let plain = format!("{}{}", "09".repeat(32), "05".repeat(32));
        assert_eq!(clear.wrapped, format!("{plain}c8513ee618e9ab381b702b3b3853e585"));
    }

    #[test]
    fn costs_are_those_that_are_documented() {
        assert_eq!(KdfCost::Standard.unlock(), Unlock::Passphrase { memory_kib: 19_456, passes: 2, lanes: 1 });
        assert_eq!(KdfCost::Strong.unlock(), Unlock::Passphrase { memory_kib: 262_144, passes: 4, lanes: 1 });
        assert_eq!([KdfCost::Standard, KdfCost::Strong].map(|cost| cost.unlock().cost()), [38_912, 1_048_576]);
        assert_eq!([Unlock::KeyFile, Unlock::Clear].map(|unlock| unlock.cost()), [0, 0]);
        assert!(!costs_too_much(4_194_304, 1000));
        assert!(costs_too_much(4_194_305, 1));
        assert!(costs_too_much(8, 1001));
    }

    #[test]
    fn a_short_key_file_is_refused() {
        let sealed = |length| {
            let secret = Secret::KeyFile(Zeroizing::new(vec![6; length]));
            let keys = keys(Encryption::Aes256Gcm);
            let salts = [[3; 32], [4; 32]];
            KeySlot::seal(&keys, &CONFIG_HASH, Unlock::KeyFile, &secret, "", Timestamp::default(), salts).map(drop)
        };
        assert_eq!((sealed(KEY_FILE_MIN_BYTES), sealed(KEY_FILE_MIN_BYTES + 1)), (Ok(()), Ok(())));
        assert!(matches!(sealed(KEY_FILE_MIN_BYTES - 1), Err(KeySlotError::Derivation { .. })));
    }

    #[test]
    fn only_the_right_secret_of_the_right_kind_opens_a_slot() {
        let repository = RepositoryId::new([1; 32]);
        let open = |slot: &KeySlot, secret: &Secret| {
            slot.open(repository, Encryption::Aes256Gcm, &CONFIG_HASH, secret).map(|key| *key.as_bytes())
        };
        let by_passphrase = slot(Encryption::Aes256Gcm, cheap(), &passphrase("right"));
        assert_eq!(open(&by_passphrase, &passphrase("right")), Ok([9; 32]));
        assert_eq!(open(&by_passphrase, &passphrase("wrong")), Err(KeySlotError::WrongSecret));
        assert_eq!(open(&by_passphrase, &Secret::None), Err(KeySlotError::WrongSecret));
        let file = Secret::KeyFile(Zeroizing::new(vec![6; 32]));
        let by_file = slot(Encryption::Aes256Gcm, Unlock::KeyFile, &file);
        assert_eq!(open(&by_file, &file), Ok([9; 32]));
        assert_eq!(open(&by_file, &Secret::KeyFile(Zeroizing::new(vec![7; 32]))), Err(KeySlotError::WrongSecret));
        assert_eq!(by_file.open_label(&keys(Encryption::Aes256Gcm)).unwrap(), "ops");
    }

    #[test]
    fn nobody_can_switch_encryption_off_or_exchange_the_configuration() {
        let repository = RepositoryId::new([1; 32]);
        let sealed = slot(Encryption::Aes256Gcm, cheap(), &passphrase("right"));
        let other = sealed.open(repository, Encryption::Aes256Gcm, &[6; 32], &passphrase("right"));
        assert_eq!(other.map(|_| ()), Err(KeySlotError::OtherConfig));
        let clear = slot(Encryption::None, Unlock::Clear, &Secret::None);
        assert!(clear.open(repository, Encryption::None, &CONFIG_HASH, &Secret::None).is_ok());
        assert!(clear.open(repository, Encryption::Aes256Gcm, &CONFIG_HASH, &Secret::None).is_err());
        assert!(sealed.open(repository, Encryption::None, &CONFIG_HASH, &passphrase("right")).is_err());
    }

    #[test]
    fn weakened_costs_and_damage_are_found() {
        let repository = RepositoryId::new([1; 32]);
        let good = slot(Encryption::Aes256Gcm, cheap(), &passphrase("right"));
        let weaker = KeySlot { unlock: Unlock::Passphrase { memory_kib: 9, passes: 1, lanes: 1 }, ..good.clone() };
        assert!(weaker.open(repository, Encryption::Aes256Gcm, &CONFIG_HASH, &passphrase("right")).is_err());
        let greedy =
            KeySlot { unlock: Unlock::Passphrase { memory_kib: u32::MAX, passes: 1, lanes: 1 }, ..good.clone() };
        assert!(greedy.open(repository, Encryption::Aes256Gcm, &CONFIG_HASH, &passphrase("right")).is_err());
        let bytes = good.encode();
        let id = KeySlot::id(&bytes);
        assert_eq!(KeySlot::decode(id, &bytes).unwrap(), good);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(KeySlot::decode(id, &bad).is_err());
        }
    }
}
