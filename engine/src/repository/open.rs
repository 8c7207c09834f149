//! Making and opening repositories.

use std::path::PathBuf;
use std::sync::Arc;

use lakebed_core::chunker::ChunkerParameters;
use lakebed_core::codec::seal::{DataKey, Encryption, RepositoryKeys};
use lakebed_core::id::{KeySlotId, RepositoryId};
use lakebed_core::layout;
use lakebed_core::process::Processes;
use lakebed_core::record::config::{Config, FORMAT_VERSION, Features};
use lakebed_core::record::key_slot::{KeySlot, KeySlotError, Secret, Unlock};
use lakebed_core::storage::{Storage, StorageErrorKind};
use lakebed_core::time::{Clock, Random};

use super::store::draw;
use super::{ObjectCache, Repository, Store, medium, trust};
use crate::error::{Error, Result};
use crate::storage::{Survey, SurveyedStorage};
use crate::system::{SystemClock, SystemProcesses, SystemRandom};

/// How this process works with a repository. Nothing of it is kept there.
#[derive(Clone)]
pub struct OpenOptions {
    /// Folder for caches: each repository gets a folder of its own in it. `None` keeps the index in memory, which suits
    /// small repositories and tests.
    pub cache_dir: Option<PathBuf>,
    /// Memory for the index, in bytes. 128 MiB keep the filters of 50 million chunks at hand.
    pub memory_bytes: u64,
    /// Copies of objects of a remote medium take so many bytes of the cache folder at most.
    pub copies_bytes: u64,
    /// What is looked at when the repository is opened, which saves requests to a remote medium.
    pub look_ahead: LookAhead,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub random: Arc<dyn Random>,
    /// Who this process is, and which others still live.
    pub processes: Arc<dyn Processes>,
}

/// What is listed by the request that finds a repository. Who lists it for the first time gets what was there then. That is
/// for who opens a repository, asks one thing, and is done, and not for who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LookAhead {
    /// Nothing but what opening needs.
    #[default]
    Opening,
    /// What reading needs besides: which snapshots there are, and the index.
    Reading,
    /// Every object.
    Everything,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            memory_bytes: 128 << 20,
            copies_bytes: 1 << 30,
            look_ahead: LookAhead::default(),
            clock: Arc::new(SystemClock::default()),
            random: Arc::new(SystemRandom),
            processes: Arc::new(SystemProcesses),
        }
    }
}

/// How a repository is to be made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// How its objects are protected.
    pub encryption: Encryption,
    /// What the first key slot asks for; ignored where nothing is encrypted.
    pub unlock: Unlock,
    /// Label of the first key slot.
    pub label: String,
    /// How large files are cut.
    pub chunker: ChunkerParameters,
}

/// What a repository is, to show to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryInfo {
    /// Its id.
    pub id: RepositoryId,
    /// Where it lies.
    pub location: String,
    /// How it is protected.
    pub encryption: Encryption,
}

impl Repository {
    /// Makes a repository in an empty place and opens it.
    ///
    /// # Errors
    /// There is one already, or what is left of one; storage failed; the secret does not fit.
    pub fn init(storage: Arc<dyn Storage>, secret: &Secret, init: &InitOptions, options: &OpenOptions) -> Result<Self> {
        let location = storage.location();
        match storage.size(&layout::config()) {
            Ok(_) => return Err(Error::RepositoryExists { location }),
            Err(error) if error.is_not_found() => refuse_lost_config(&*storage)?,
            Err(error) => return Err(error.into()),
        }
        let findings = medium::check_fitness(&*storage, &*options.random)?;
        let created = options.clock.now();
        let config = Config {
            version: FORMAT_VERSION,
            repository_id: RepositoryId::new(draw(&*options.random)?),
            created,
            encryption: init.encryption,
            chunker: init.chunker.clone(),
            features: Features::default(),
        };
        let bytes = config.encode();
        // what cannot be opened again is not made in the first place
        Config::decode(&bytes).map_err(Error::Config)?;
        let data_key = DataKey::new(draw(&*options.random)?);
        let keys = RepositoryKeys::derive(config.repository_id, config.encryption, data_key);
        let unlock = if init.encryption == Encryption::None { Unlock::Clear } else { init.unlock.clone() };
        let salts = [draw(&*options.random)?, draw(&*options.random)?];
        let slot = KeySlot::seal(&keys, &Config::hash(&bytes), unlock, secret, &init.label, created, salts)
            .map_err(|source| Error::KeySlot { slot: "new".into(), source })?
            .encode();
        // the slot first: a configuration without a slot could never be opened, a slot without one does no harm
        let slot_key = layout::key_slot(KeySlot::id(&slot));
        storage.put(&slot_key, &slot)?;
        storage.sync()?;
        match storage.put(&layout::config(), &bytes) {
            Err(error) if error.kind == StorageErrorKind::AlreadyExists => {
                // somebody else made it at the same time: our slot is of no use there
                storage.delete(&slot_key)?;
                return Err(Error::RepositoryExists { location });
            }
            result => result?,
        }
        // slots that an attempt before this one left are of another key
        for object in storage.list(layout::KEYS)?.into_iter().filter(|object| object.key != slot_key) {
            storage.delete(&object.key)?;
        }
        storage.sync()?;
        trust::remember_location(options.cache_dir.as_deref(), &storage.identity(), init.encryption);
        // whoever makes a repository without encryption means it: a password that is set all the same is not in the way
        let secret = if init.encryption == Encryption::None { &Secret::None } else { secret };
        if storage.capabilities().is_remote {
            // not what was there before
            trust::remember_config(options.cache_dir.as_deref(), &storage.identity(), &bytes);
        }
        let opened = Found::look(storage, options)?.unlock(secret, options)?;
        if let Some(findings) = findings {
            opened.record_findings(&findings)?;
        }
        let mut repository = opened.know_medium()?;
        repository.ahead = None;
        Ok(repository)
    }

    /// Reads what a repository is, which is in the clear: no secret is needed.
    ///
    /// # Errors
    /// There is none; storage; it needs a newer lakebed.
    pub fn read_config(storage: &dyn Storage) -> Result<Config> {
        let bytes = storage.get(&layout::config()).map_err(|error| match error.is_not_found() {
            true => Error::NoRepository { location: storage.location() },
            false => error.into(),
        })?;
        Config::decode(&bytes).map_err(Error::Config)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// There is none; the secret opens no key slot; the configuration is lost, was changed or needs a newer lakebed.
    pub fn open(storage: Arc<dyn Storage>, secret: &Secret, options: &OpenOptions) -> Result<Self> {
        Self::open_asking(storage, |_| Ok(secret.clone()), options)
    }

    /// Opens a repository, and asks for the secret once it is known how it is protected.
    ///
    /// # Errors
    /// As [`Repository::open`], and what `ask` fails with.
    pub fn open_asking<E: From<Error>>(
        storage: Arc<dyn Storage>,
        ask: impl FnOnce(Encryption) -> std::result::Result<Secret, E>,
        options: &OpenOptions,
    ) -> std::result::Result<Self, E> {
        let found = Found::look(storage, options)?;
        let secret = ask(found.config.encryption)?;
        let mut repository = found.unlock(&secret, options)?.know_medium()?;
        if options.look_ahead == LookAhead::Opening {
            repository.ahead = None;
        }
        Ok(repository)
    }

    /// Reads the configuration again and checks that it is the one that the repository was opened with.
    ///
    /// # Errors
    /// It is gone or another one.
    pub(crate) fn check_config(&self) -> Result<()> {
        let key = layout::config();
        let found = Config::hash(&self.store.storage().get(&key)?);
        match found == self.config_hash {
            true => Ok(()),
            false => Err(Error::WrongHash { key, found: lakebed_core::id::to_hex(&found[..4]) }),
        }
    }

    /// Returns what the repository is.
    pub fn info(&self) -> RepositoryInfo {
        RepositoryInfo {
            id: self.config.repository_id,
            location: self.store.storage().location(),
            encryption: self.config.encryption,
        }
    }
}

/// What is listed by who reads.
const READING: [&str; 5] =
    [layout::FORGOTTEN, layout::ANNOTATIONS, layout::CATALOGUE, layout::SNAPSHOTS, layout::INDEX];

/// The prefix of every object.
const EVERYTHING: &str = "";

/// A repository that was found and is not open yet.
struct Found {
    bare: Arc<dyn Storage>,
    storage: SurveyedStorage,
    survey: Survey,
    config: Config,
    config_bytes: Vec<u8>,
    /// It is what this machine remembers, and was not read.
    is_remembered: bool,
    /// The newest generation, where it was looked up ahead.
    generation: Option<u64>,
    /// This repository's folder in the cache.
    cache: Option<PathBuf>,
    copies: Option<Arc<ObjectCache>>,
}

impl Found {
    /// Looks for a repository. On a remote medium, one request says whether it is there and what is new; what this
    /// machine knows of it is not asked for.
    fn look(bare: Arc<dyn Storage>, options: &OpenOptions) -> Result<Self> {
        let (location, place) = (bare.location(), bare.identity());
        let storage = SurveyedStorage::new(bare.clone());
        let no_repository = || {
            refuse_lost_config(&*bare)?;
            Err(Error::NoRepository { location: location.clone() })
        };
        let probes = medium::probes_of(&*bare);
        let mut ahead = vec![layout::CONFIG, layout::KEYS, layout::GC, probes.as_str()];
        match options.look_ahead {
            LookAhead::Opening => {}
            LookAhead::Reading => ahead.extend(READING),
            LookAhead::Everything => ahead.push(EVERYTHING),
        }
        let survey = match storage.look_ahead(&ahead) {
            Err(error) if error.is_not_found() => return no_repository(),
            result => result?,
        };
        let cache_dir = options.cache_dir.as_deref();
        let remembered = match storage.foresaw(&layout::config()) {
            Some(None) => return no_repository(),
            Some(Some(listed)) => trust::known_config(cache_dir, &place, listed.size_bytes),
            None => None,
        };
        let is_remembered = remembered.is_some();
        let config_bytes = match remembered {
            Some(bytes) => bytes,
            None => match bare.get(&layout::config()) {
                Err(error) if error.is_not_found() => return no_repository(),
                result => result?,
            },
        };
        let config = Config::decode(&config_bytes).map_err(Error::Config)?;
        let generation = storage.foresaw_below(layout::GC).map(|listed| super::generations::newest(&listed));
        let cache = cache_dir.map(|cache| cache.join(config.repository_id.to_string()));
        let copies = cache.as_ref().filter(|_| bare.capabilities().is_remote);
        let copies = copies.map(|cache| Arc::new(ObjectCache::new(cache.join("objects"), options.copies_bytes)));
        Ok(Self { bare, storage, survey, config, config_bytes, is_remembered, generation, cache, copies })
    }

    /// Opens it. Of its medium nothing is known yet.
    fn unlock(self, secret: &Secret, options: &OpenOptions) -> Result<Repository> {
        let Self { bare, storage, survey, config, config_bytes, is_remembered, generation, cache, copies } = self;
        let (location, place) = (bare.location(), bare.identity());
        let config_hash = Config::hash(&config_bytes);
        let cache_dir = options.cache_dir.as_deref();
        trust::check_location(cache_dir, &place, &location, config.encryption)?;
        trust::check(cache.as_deref(), &location, config.encryption, &config_hash, secret)?;
        let unlocked = unlock(&storage, copies.as_deref(), &config, &config_hash, secret);
        if unlocked.is_err() && is_remembered && bare.get(&layout::config())? != config_bytes {
            return Err(Error::ConfigExchanged { location });
        }
        let (slot, data_key) = unlocked?;
        let keys = Arc::new(RepositoryKeys::derive(config.repository_id, config.encryption, data_key));
        trust::remember(cache.as_deref(), &config_hash);
        trust::remember_location(cache_dir, &place, config.encryption);
        if copies.is_some() {
            trust::remember_config(cache_dir, &place, &config_bytes);
        }
        Ok(Repository {
            bare,
            store: Store::with_copies(storage, keys, copies),
            config: Arc::new(config),
            config_hash,
            slot,
            medium: medium::Medium::default(),
            cache,
            ahead: Some(Arc::new(survey)),
            generation: Arc::new(generation.into()),
            memory_bytes: options.memory_bytes,
            clock: options.clock.clone(),
            random: options.random.clone(),
            processes: options.processes.clone(),
        })
    }
}

/// Tells a place where nothing was made yet from a repository that has lost its configuration: to make another one there
/// would delete the key slots, and with them the only way to what the packs hold.
fn refuse_lost_config(storage: &dyn Storage) -> Result<()> {
    for prefix in [layout::PACKS, layout::SNAPSHOTS] {
        let listed = storage.list(prefix).map_err(|source| match source.is_not_found() {
            // nothing under a prefix is an empty list: it is the bucket that is missing
            true => Error::NoPlace { location: storage.location(), source },
            false => source.into(),
        })?;
        if !listed.is_empty() {
            return Err(Error::ConfigLost { location: storage.location() });
        }
    }
    Ok(())
}

/// Finds a slot that the secret opens. A slot that is damaged is passed over as long as another one opens.
fn unlock(
    storage: &dyn Storage,
    copies: Option<&ObjectCache>,
    config: &Config,
    config_hash: &[u8; 32],
    secret: &Secret,
) -> Result<(KeySlotId, DataKey)> {
    let mut damaged: Option<Error> = None;
    let mut slots = Vec::new();
    for object in storage.list(layout::KEYS)? {
        let Ok(id) = layout::last_part(&object.key).parse::<KeySlotId>() else { continue };
        // a slot is named by its bytes, so a copy that is damaged is noticed
        let copy = copies.and_then(|copies| KeySlot::decode(id, &copies.get(&object.key)?).ok());
        if let Some(slot) = copy {
            slots.push((id, Ok(slot)));
            continue;
        }
        match storage.get(&object.key) {
            Ok(bytes) => {
                let slot = KeySlot::decode(id, &bytes).map_err(KeySlotError::from);
                if let (Some(copies), Ok(_)) = (copies, &slot) {
                    copies.keep(&object.key, &bytes);
                }
                slots.push((id, slot));
            }
            // another one may open all the same
            Err(error) => damaged = Some(error.into()),
        }
    }
    let location = storage.location();
    let wrong_key = Error::WrongKey { location, slots: slots.len() };
    // the cheapest first: a strong slot costs a second to find out that it is another's
    slots.sort_by_key(|(_, slot)| slot.as_ref().map_or(0, |slot| slot.unlock.cost()));
    for (id, slot) in slots {
        match slot.and_then(|slot| slot.open(config.repository_id, config.encryption, config_hash, secret)) {
            Ok(key) => return Ok((id, key)),
            Err(KeySlotError::WrongSecret) => {}
            Err(source) => damaged = Some(Error::KeySlot { slot: id.short(), source }),
        }
    }
    Err(damaged.unwrap_or(wrong_key))
}
