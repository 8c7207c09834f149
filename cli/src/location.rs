//! Where repositories lie: folders and object stores, and how the latter are reached.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use lakebed_connectors::Tell;
use lakebed_connectors::object_storage::{ConnectError, ConnectOptions, ObjectStorage, Prices, Target};

use crate::error::CliError;
use crate::size::parse_rate;

/// How object stores are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Object stores")]
pub(crate) struct NetworkArgs {
    /// Speak plain HTTP where the endpoint is one: whoever listens can see and change what is sent
    #[arg(long, global = true, env = "LAKEBED_ALLOW_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    allow_http: Option<bool>,
    /// Bytes a second to send at most, such as 50MiB, on average [default: no limit]
    #[arg(long, global = true, env = "LAKEBED_LIMIT_UPLOAD", value_name = "RATE", value_parser = parse_rate)]
    limit_upload: Option<u64>,
    /// Bytes a second to receive at most, such as 50MiB [default: no limit]
    #[arg(long, global = true, env = "LAKEBED_LIMIT_DOWNLOAD", value_name = "RATE", value_parser = parse_rate)]
    limit_download: Option<u64>,
    /// Requests under way at once at most [default: 64]
    #[arg(long, global = true, env = "LAKEBED_REQUESTS_IN_FLIGHT", value_name = "N")]
    requests_in_flight: Option<usize>,
    /// File with what requests and bytes cost, to say what a run has cost; docs/repositories.md shows one
    #[arg(long, global = true, env = "LAKEBED_PRICES", value_name = "FILE")]
    prices: Option<PathBuf>,
}

impl NetworkArgs {
    /// Tells whether plain HTTP is meant where an address is one of it.
    pub(crate) fn allows_http(&self) -> bool {
        self.allow_http.unwrap_or(false)
    }

    /// Reads what requests and bytes cost, where that was asked for.
    pub(crate) fn prices(&self) -> Result<Option<Prices>, CliError> {
        let Some(file) = &self.prices else { return Ok(None) };
        let failed = || CliError::failed(format!("Cannot read the prices in `{}`", file.display()));
        let bytes = std::fs::read(file).map_err(|error| failed().caused_by(error))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| failed().caused_by(error))
    }

    /// Connects to an object store. What is to be sent waits in `spool`, which is made if need be.
    pub(crate) fn connect(
        &self,
        target: &Target,
        spool: PathBuf,
        tell: Option<Tell>,
    ) -> Result<Arc<ObjectStorage>, CliError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool).map_err(|error| {
            CliError::failed(format!("Cannot make the folder `{}`", spool.display()))
                .caused_by(error)
                .hint("what is to be sent waits in the cache folder: give another one by --cache-dir")
        })?;
        let options = ConnectOptions {
            allow_http: self.allows_http(),
            spool: Some(spool),
            requests_in_flight: self.requests_in_flight,
            upload_limit: self.limit_upload,
            download_limit: self.limit_download,
            tell,
            ..ConnectOptions::default()
        };
        Ok(Arc::new(ObjectStorage::connect(target, &options)?))
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        let usage = |error: &ConnectError| Self::usage(crate::error::one_line(error));
        match &error {
            ConnectError::NoUrl { .. } | ConnectError::NoStore { .. } | ConnectError::TooMuch { .. } => usage(&error),
            ConnectError::PlainHttp { .. } => Self::failed(error.to_string())
                .hint("if that is meant, say --allow-http or set LAKEBED_ALLOW_HTTP=true"),
            ConnectError::Settings { .. } | ConnectError::Profile { .. } => {
                let told = error.to_string();
                let cause = std::error::Error::source(&error).map(crate::error::one_line);
                let failed = Self::failed(told).hint("docs/repositories.md says which variables each cloud reads");
                cause.map_or_else(|| Self::failed(error.to_string()), |cause| failed.caused_by(cause))
            }
            ConnectError::Runtime { .. } => Self::failed(error.to_string()).caused_by(error),
        }
    }
}

/// A place for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A place on an object store.
    Store(Target),
}

impl Location {
    /// Reads what was named for a repository; `unnamed` says how, where nothing was.
    pub(crate) fn parse(given: Option<&Path>, unnamed: &str) -> Result<Self, CliError> {
        let Some(given) = given.filter(|given| !given.as_os_str().is_empty()) else {
            return Err(CliError::usage(unnamed));
        };
        match given.to_str().filter(|text| Target::looks_like_one(text)) {
            Some(url) => Ok(Self::Store(Target::parse(url)?)),
            None => Ok(Self::Folder(given.to_path_buf())),
        }
    }

    /// Returns the folder, where it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Store(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_store_and_anything_else_a_folder() {
        let parse = |given: &str| Location::parse(Some(Path::new(given)), "name one");
        assert_eq!(parse("/mnt/lake").unwrap(), Location::Folder("/mnt/lake".into()));
        assert_eq!(parse("s3:lake").unwrap(), Location::Folder("s3:lake".into()));
        assert!(matches!(parse("s3://bucket/lake").unwrap(), Location::Store(_)));
        assert!(matches!(parse("s3:https://host/bucket").unwrap(), Location::Store(_)));
        for wrong in ["sftp://host/lake", "s3://key:secret@bucket/lake"] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert_eq!(parse("").unwrap_err().to_string(), "name one");
    }
}
