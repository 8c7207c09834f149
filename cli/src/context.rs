//! What commands work with: the storage and the repository that the global options name, and the output.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use lakebed_connectors::object_storage::{ObjectStorage, Target};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::id::RepositoryId;
use lakebed_engine::core::record::config::Config;
use lakebed_engine::core::record::key_slot::Secret;
use lakebed_engine::core::storage::Storage;
use lakebed_engine::source::directory_identity;
use lakebed_engine::storage::{LocalStorage, ReadOnlyStorage, WithReserve};
use lakebed_engine::{Error, LookAhead, OpenOptions, Repository};

use crate::args::Globals;
use crate::error::CliError;
use crate::location::Location;
use crate::secret::SecretPlaces;
use crate::ui::{CliMonitor, Ui};

/// What a command wants to do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing of it is changed, whatever happens.
    Read,
    /// Objects are added or deleted.
    Write,
    /// Every object is looked at, and what was found good is noted.
    Check,
    /// Space is to be freed: what storage holds back for that may be used up.
    Free,
}

/// Global options, and where output goes.
pub(crate) struct Context {
    pub(crate) globals: Globals,
    pub(crate) ui: Ui,
}

impl Context {
    /// Returns where the repository lies or shall lie.
    pub(crate) fn location(&self) -> Result<Location, CliError> {
        let unnamed = "No repository was named: give --repo FOLDER, --repo URL or set LAKEBED_REPO";
        Location::parse(self.globals.repo.as_deref(), unnamed)
    }

    /// Connects to an object store. What is asked of it is counted and told.
    pub(crate) fn connect(&self, target: &Target) -> Result<Arc<ObjectStorage>, CliError> {
        let storage = self.globals.network.connect(target, self.cache_dir()?.join("spool"), Some(self.ui.teller()))?;
        self.ui.add_store(storage.clone());
        Ok(storage)
    }

    /// Reads what another repository is.
    pub(crate) fn read_config(&self, location: &Location) -> Result<Config, CliError> {
        Ok(Repository::read_config(&*self.storage(location, Access::Read)?)?)
    }

    /// Opens the storage that is named for the repository, whether there is one or not.
    pub(crate) fn place(&self, access: Access) -> Result<Arc<dyn Storage>, CliError> {
        self.storage(&self.location()?, access)
    }

    /// Opens the storage, without asking whether there is a repository in it.
    fn storage(&self, location: &Location, access: Access) -> Result<Arc<dyn Storage>, CliError> {
        let storage: Arc<dyn Storage> = match location {
            Location::Store(target) => self.connect(target)?,
            Location::Folder(path) => {
                Arc::new(LocalStorage::open(path).map_err(|error| match error.is_not_found() {
                    true => Error::NoRepository { location: path.display().to_string() },
                    false => error.into(),
                })?)
            }
        };
        Ok(match access {
            Access::Read => Arc::new(ReadOnlyStorage::new(storage)),
            Access::Write | Access::Check => storage,
            Access::Free => Arc::new(WithReserve::new(storage)),
        })
    }

    /// Opens the repository, with the secret that it needs.
    pub(crate) fn open(&self, access: Access) -> Result<Repository, CliError> {
        let repository = self.open_at(&self.location()?, access, &self.globals.secret.places())?;
        self.ui.set_repository(&repository);
        Ok(repository)
    }

    /// Opens a second repository, to read from it.
    pub(crate) fn open_other(&self, location: &Location, secret: &SecretPlaces<'_>) -> Result<Repository, CliError> {
        self.open_at(location, Access::Read, secret)
    }

    fn open_at(&self, location: &Location, access: Access, places: &SecretPlaces<'_>) -> Result<Repository, CliError> {
        let storage = self.storage(location, access)?;
        let location = storage.location();
        let secret = |encryption: Encryption| match encryption {
            // a secret that is held out is shown: the engine refuses to take an unencrypted repository for the one meant
            Encryption::None if !places.is_given() => Ok(Secret::None),
            _ => places.read(&location),
        };
        let look_ahead = match access {
            // who only reads wants the repository as it is now
            Access::Read => LookAhead::Reading,
            Access::Check => LookAhead::Everything,
            Access::Write | Access::Free => LookAhead::Opening,
        };
        let options = OpenOptions { look_ahead, ..self.open_options()? };
        Repository::open_asking(storage, secret, &options)
    }

    /// Returns how this process works with repositories.
    pub(crate) fn open_options(&self) -> Result<OpenOptions, CliError> {
        let mut options = OpenOptions { cache_dir: Some(self.cache_dir()?), ..OpenOptions::default() };
        if let Some(memory) = self.globals.memory {
            options.memory_bytes = memory;
        }
        if let Some(limit) = self.globals.cache_limit {
            options.copies_bytes = limit;
        }
        Ok(options)
    }

    fn cache_dir(&self) -> Result<PathBuf, CliError> {
        let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        self.globals
            .cache_dir
            .clone()
            .filter(|path| !path.as_os_str().is_empty())
            .or_else(|| set("XDG_CACHE_HOME").map(|path| path.join("lakebed")))
            .or_else(|| set("HOME").map(|path| path.join(".cache/lakebed")))
            .ok_or_else(|| {
                CliError::failed("There is no place for the local index: HOME is not set")
                    .hint("give --cache-dir FOLDER or set LAKEBED_CACHE_DIR")
            })
    }

    /// Returns the folders that a backup leaves out whole: the repository, and the cache, which is made if need be. A
    /// cache folder that can be neither made nor looked at holds nothing that a backup could come across.
    pub(crate) fn never_enter(&self) -> Result<Vec<(u64, u64)>, CliError> {
        let mut folders = self.repository_folders()?;
        let cache = self.cache_dir()?;
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&cache);
        folders.extend(directory_identity(&cache));
        Ok(folders)
    }

    /// Returns the folders in which a restore deletes nothing: the repository, and what the cache has of repositories.
    /// Other things may lie beside that.
    pub(crate) fn never_delete(&self) -> Result<Vec<(u64, u64)>, CliError> {
        let mut folders = self.repository_folders()?;
        let cached = std::fs::read_dir(self.cache_dir()?).into_iter().flatten().flatten();
        let cached =
            cached.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<RepositoryId>().is_ok()));
        folders.extend(cached.filter_map(|entry| directory_identity(&entry.path()).ok()));
        Ok(folders)
    }

    /// Returns the repository's folder and those in it, which may be links, or mounted from elsewhere.
    fn repository_folders(&self) -> Result<Vec<(u64, u64)>, CliError> {
        let location = self.location()?;
        let Some(repository) = location.folder() else { return Ok(Vec::new()) };
        let failed = |error| Error::local("look at the folder", repository, error);
        let mut folders = vec![directory_identity(repository).map_err(failed)?];
        for entry in std::fs::read_dir(repository).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(directory_identity(&path).map_err(failed)?);
            }
        }
        Ok(folders)
    }

    /// Returns a monitor for a long run: it shows progress, and a first signal asks the run to end in good order. A
    /// second one ends the process at once.
    pub(crate) fn monitor(&self) -> Result<CliMonitor<'_>, CliError> {
        CliMonitor::new(&self.ui)
    }

    /// Returns a monitor for a question, which a signal may end at any time.
    pub(crate) fn question(&self) -> CliMonitor<'_> {
        CliMonitor::for_question(&self.ui)
    }
}
