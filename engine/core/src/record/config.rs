//! `lakebed.json`: what a repository is. Written once; its hash is sealed in every key slot.

use serde::{Deserialize, Serialize};

use super::decode_json;
use crate::chunker::ChunkerParameters;
use crate::codec::seal::Encryption;
use crate::id::RepositoryId;
use crate::time::Timestamp;
use crate::wire::DecodeError;

/// The format version that this lakebed reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// The configuration of a repository, in the clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Format version of the whole repository.
    pub version: u32,
    /// Name of the repository.
    pub repository_id: RepositoryId,
    /// When it was made.
    pub created: Timestamp,
    /// How objects are protected.
    pub encryption: Encryption,
    /// How files are cut.
    pub chunker: ChunkerParameters,
    /// What a lakebed must know to work with it.
    pub features: Features,
}

/// Features beyond the format version, by what they stand in the way of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Needed to read anything.
    pub read: Vec<String>,
    /// Needed to write.
    pub write: Vec<String>,
    /// Needed to free space.
    pub gc: Vec<String>,
}

/// Features that this lakebed knows: none yet beyond format 1.
pub const KNOWN_FEATURES: &[&str] = &[];

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not a configuration, or of a newer version.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The repository needs something that this lakebed does not know.
    #[error("the repository needs the feature `{feature}`, which this lakebed does not know")]
    UnknownFeature {
        /// Its name.
        feature: String,
    },
    /// The chunker's parameters cannot be.
    #[error("the repository cannot be used: {why}")]
    Chunker {
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// Returns the bytes of the configuration, readable for people.
    pub fn encode(&self) -> Vec<u8> {
        // plain structs with string keys can always be written as JSON
        #[expect(clippy::expect_used)]
        let mut out = serde_json::to_vec_pretty(self).expect("a configuration that JSON can hold");
        out.push(b'\n');
        out
    }

    /// Reads a configuration and checks that this lakebed may read the repository.
    ///
    /// # Errors
    /// It is damaged, or needs a newer lakebed.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = decode_json(bytes, "repository configuration", FORMAT_VERSION)?;
        check_features(&config.features.read)?;
        config.chunker.check().map_err(|why| ConfigError::Chunker { why })?;
        Ok(config)
    }

    /// Checks that this lakebed may write to the repository.
    ///
    /// # Errors
    /// The first feature that it does not know.
    pub fn check_writable(&self) -> Result<(), ConfigError> {
        check_features(&self.features.write)
    }

    /// Checks that this lakebed may free space in the repository.
    ///
    /// # Errors
    /// The first feature that it does not know.
    pub fn check_prunable(&self) -> Result<(), ConfigError> {
        self.check_writable()?;
        check_features(&self.features.gc)
    }

    /// Returns the hash of the stored bytes, which every key slot seals.
    pub fn hash(bytes: &[u8]) -> [u8; 32] {
        *blake3::hash(bytes).as_bytes()
    }
}

fn check_features(needed: &[String]) -> Result<(), ConfigError> {
    match needed.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
        Some(feature) => Err(ConfigError::UnknownFeature { feature: feature.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            version: FORMAT_VERSION,
            repository_id: RepositoryId::new([1; 32]),
            created: Timestamp::default(),
            encryption: Encryption::Aes256Gcm,
            chunker: ChunkerParameters::default(),
            features: Features::default(),
        }
    }

    #[test]
    fn a_configuration_comes_back_as_lines_that_people_can_read() {
        let bytes = config().encode();
        assert_eq!(Config::decode(&bytes), Ok(config()));
        assert!(bytes.starts_with(b"{\n  \"version\": 1,\n") && bytes.ends_with(b"}\n"));
        assert_eq!(Config::hash(&bytes), *blake3::hash(&bytes).as_bytes());
    }

    #[test]
    fn a_configuration_that_is_not_known_in_full_is_refused() {
        let newer = Config { version: FORMAT_VERSION + 1, ..config() };
        let error = Config::decode(&newer.encode()).unwrap_err();
        assert!(matches!(error, ConfigError::Decode(DecodeError::NewerVersion { found: 2, known: 1, .. })), "{error}");
        let chunker = ChunkerParameters { min_bytes: 0, ..ChunkerParameters::default() };
        let error = Config::decode(&Config { chunker, ..config() }.encode()).unwrap_err();
        assert!(matches!(error, ConfigError::Chunker { .. }), "{error}");
        let text = String::from_utf8(config().encode()).unwrap().replacen('{', "{\"extra\": 1,", 1);
        assert!(Config::decode(text.as_bytes()).is_err());
    }

    #[test]
    fn an_unknown_feature_forbids_what_it_stands_in_the_way_of() {
        let unknown = || vec!["unheard-of".to_owned()];
        let refused = Err(ConfigError::UnknownFeature { feature: "unheard-of".into() });
        let check = |features: Features| {
            let config = Config { features, ..config() };
            let read = Config::decode(&config.encode()).map(drop);
            (read, config.check_writable(), config.check_prunable())
        };
        let none = Features::default();
        assert_eq!(check(none.clone()), (Ok(()), Ok(()), Ok(())));
        assert_eq!(check(Features { read: unknown(), ..none.clone() }).0, refused);
        assert_eq!(check(Features { write: unknown(), ..none.clone() }), (Ok(()), refused.clone(), refused.clone()));
        assert_eq!(check(Features { gc: unknown(), ..none }), (Ok(()), Ok(()), refused));
    }
}
