//! Profiles of AWS: `~/.aws/config` and `~/.aws/credentials`, as the AWS tools read them.
//!
//! Keys and `credential_process` are read here. What a profile asks for besides (a role, single sign-on, a login) is the
//! affair of the AWS command line, which is asked for credentials then, and again before they expire. ("Configuration and
//! credential file settings" and "Sourcing credentials with an external process" of the AWS documentation.)

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use configparser::ini::Ini;
use lakebed_core::time::Timestamp;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::ini::{IniError, read_ini};
use crate::process::{ProcessError, output_of, quoted};

/// Credentials are asked for again so long before they expire: a request may take long.
const REFRESH_BEFORE: Duration = Duration::from_secs(300);

/// They are asked for again no sooner than after so long, as long as those that are known have not ended: a process may hand
/// the same out until they do.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is in neither file.
    #[error("There is no profile `{name}` of AWS in {} or {}", .credentials.display(), .config.display())]
    Missing {
        /// Its name.
        name: String,
        /// The file of credentials.
        credentials: PathBuf,
        /// The file of configuration.
        config: PathBuf,
    },
    /// A file cannot be read.
    #[error("Cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no such file.
    #[error("{} is no configuration of AWS: {why}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It names one half of a key.
    #[error("The profile `{name}` of AWS has `{has}` and no `{lacks}`")]
    HalfAKey {
        /// Its name.
        name: String,
        /// What is there.
        has: &'static str,
        /// What is missing.
        lacks: &'static str,
    },
}

/// What a profile says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) credentials: Option<Credentials>,
}

/// Where a profile's credentials come from.
#[derive(PartialEq, Eq)]
pub(super) enum Credentials {
    Key {
        id: String,
        secret: String,
        token: Option<String>,
    },
    /// A command line, whose output they are.
    Process(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // command lines may hold secrets too
        f.write_str(match self {
            Self::Key { .. } => "Key",
            Self::Process(_) => "Process",
        })
    }
}

/// What says that a role, single sign-on or the like is meant.
const FOR_THE_CLI: [&str; 6] =
    ["role_arn", "sso_session", "sso_account_id", "sso_start_url", "login_session", "web_identity_token_file"];

impl Profile {
    /// Reads the profile that the environment names, or else the default one; `None` where nobody has asked for one and
    /// there is none, or it cannot be read.
    ///
    /// # Errors
    /// It is asked for and is not there; a file cannot be read.
    pub(super) fn load(env: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, ProfileError> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let asked = set("AWS_PROFILE").or_else(|| set("AWS_DEFAULT_PROFILE"));
        // a home that is not absolute would be that of whoever owns the current folder
        let home = set("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let path = |variable: &str, name: &str| match (set(variable), &home) {
            (Some(path), _) => Some(PathBuf::from(path)),
            (None, home) => home.as_ref().map(|home| home.join(".aws").join(name)),
        };
        let credentials = path("AWS_SHARED_CREDENTIALS_FILE", "credentials").unwrap_or_default();
        let config = path("AWS_CONFIG_FILE", "config").unwrap_or_default();
        let name = asked.as_ref().map_or("default".into(), |name| name.to_string_lossy().into_owned());
        let in_config = if name == "default" { name.clone() } else { format!("profile {name}") };
        let (keys, settings) = match (read(&credentials), read(&config)) {
            // the home of another user, say: nobody has asked for what lies there
            (Err(ProfileError::Unreadable { .. }), _) | (_, Err(ProfileError::Unreadable { .. }))
                if asked.is_none() =>
            {
                return Ok(None);
            }
            (keys, settings) => (keys?, settings?),
        };
        let section = |file: &'_ Option<Ini>, name: &str| file.as_ref()?.get_map_ref().get(name).cloned();
        // what the file of credentials says comes first
        let mut sections = vec![section(&keys, &name), section(&settings, &in_config)];
        if name == "default" {
            sections.push(section(&settings, "profile default"));
        }
        if sections.iter().all(Option::is_none) {
            return if asked.is_some() { Err(ProfileError::Missing { name, credentials, config }) } else { Ok(None) };
        }
        let get = |key: &str| {
            let of =
                |(name, value): (&String, &Option<String>)| value.clone().filter(|_| name.eq_ignore_ascii_case(key));
            let found = sections.iter().flatten().find_map(|section| section.iter().find_map(of));
            found.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        // what else says who we are beats a profile that nobody has asked for, and keys in the environment beat every one
        let others = [
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ];
        let is_of_use = set("AWS_ACCESS_KEY_ID").is_none()
            && (asked.is_some() || others.into_iter().all(|name| set(name).is_none()));
        let (region, endpoint) = (get("region"), get("endpoint_url"));
        if !is_of_use {
            return Ok(Some(Self { region, endpoint, credentials: None }));
        }
        let credentials = match (get("aws_access_key_id"), get("aws_secret_access_key")) {
            // a role is taken on with the key that stands beside it
            _ if FOR_THE_CLI.into_iter().any(|key| get(key).is_some()) => {
                Some(Credentials::Process(asking_the_cli(&name)))
            }
            (Some(id), Some(secret)) => Some(Credentials::Key { id, secret, token: get("aws_session_token") }),
            (None, None) => get("credential_process").map(Credentials::Process),
            (id, _) => {
                let (id_key, secret_key) = ("aws_access_key_id", "aws_secret_access_key");
                let (has, lacks) = if id.is_some() { (id_key, secret_key) } else { (secret_key, id_key) };
                return Err(ProfileError::HalfAKey { name, has, lacks });
            }
        };
        Ok(Some(Self { region, endpoint, credentials }))
    }
}

/// Returns the command line by which the AWS command line hands credentials over, whatever the profile asks for.
fn asking_the_cli(profile: &str) -> String {
    format!("aws configure export-credentials --format process --profile {}", quoted(profile))
}

/// Reads a file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Ini>, ProfileError> {
    read_ini(path).map_err(|error| match error {
        IniError::Unreadable(source) => ProfileError::Unreadable { path: path.into(), source },
        IniError::Malformed(why) => ProfileError::Malformed { path: path.into(), why },
    })
}

/// Why a process gave no credentials.
#[derive(Debug, thiserror::Error)]
enum AskingError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{program} was not found: a profile with a role or single sign-on needs the AWS command line, version 2")]
    NoCli { program: &'static str },
    #[error("`aws configure export-credentials`, of version 2 of the AWS command line, ended with {status}: {said}")]
    Cli { status: std::process::ExitStatus, said: String },
    #[error("what it printed is no JSON with `Version` 1, `AccessKeyId` and `SecretAccessKey`")]
    Output,
    #[error("the credentials that it printed have ended at {end}")]
    Ended { end: Timestamp },
}

/// What such a process prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<Timestamp>,
}

/// Credentials that a process has handed over.
struct Known {
    credential: Arc<AwsCredential>,
    end: Option<Timestamp>,
    asked: Instant,
}

/// Credentials that a process hands over, and again before they expire.
pub(super) struct ProcessCredentials {
    line: String,
    known: Mutex<Option<Known>>,
}

impl std::fmt::Debug for ProcessCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProcessCredentials")
    }
}

impl ProcessCredentials {
    pub(super) fn new(line: String) -> Self {
        Self { line, known: Mutex::default() }
    }

    async fn run(&self) -> Result<Known, AskingError> {
        let printed = output_of(&self.line).await.map_err(|error| match error {
            // as the shell says that there is no such program
            ProcessError::Failed { status, .. } if status.code() == Some(127) && self.line.starts_with("aws ") => {
                AskingError::NoCli { program: "aws" }
            }
            ProcessError::Failed { status, said } if self.line.starts_with("aws ") => AskingError::Cli { status, said },
            error => error.into(),
        })?;
        let printed: Printed = serde_json::from_slice(&printed).map_err(|_| AskingError::Output)?;
        if printed.version != 1 {
            return Err(AskingError::Output);
        }
        let credential = AwsCredential {
            key_id: printed.access_key_id,
            secret_key: printed.secret_access_key,
            token: printed.session_token,
        };
        if let Some(end) = printed.expiration.filter(|end| !is_later(*end, Duration::ZERO)) {
            return Err(AskingError::Ended { end });
        }
        Ok(Known { credential: Arc::new(credential), end: printed.expiration, asked: Instant::now() })
    }
}

#[async_trait]
impl CredentialProvider for ProcessCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut known = self.known.lock().await;
        let serves = |known: &Known, before: Duration| known.end.is_none_or(|end| is_later(end, before));
        if let Some(known) = &*known
            && (serves(known, REFRESH_BEFORE)
                || (serves(known, Duration::ZERO) && known.asked.elapsed() < ASK_AGAIN_AFTER))
        {
            return Ok(known.credential.clone());
        }
        match self.run().await {
            Ok(fresh) => Ok(known.insert(fresh).credential.clone()),
            // the old ones serve until they end
            Err(source) => match known.as_mut().filter(|known| serves(known, Duration::ZERO)) {
                Some(known) => {
                    known.asked = Instant::now();
                    Ok(known.credential.clone())
                }
                None => Err(object_store::Error::Generic { store: "credential_process", source: source.into() }),
            },
        }
    }
}

/// Returns the time since 1970. Credentials end by the store's clock, whatever a test makes of time.
#[expect(clippy::disallowed_methods, reason = "the crate does the same for all credentials that it asks for itself")]
fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Tells whether a time is so far ahead.
fn is_later(time: Timestamp, by: Duration) -> bool {
    i128::from(time.secs) > i128::from((now() + by).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(config: &str, credentials: &str) -> Self {
            let home = tempfile::TempDir::new().unwrap();
            std::fs::create_dir(home.path().join(".aws")).unwrap();
            std::fs::write(home.path().join(".aws/config"), config).unwrap();
            std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
            Self(home)
        }

        fn load(&self, variables: &[(&str, &str)]) -> Result<Option<Profile>, ProfileError> {
            Profile::load(|name| {
                let given = variables.iter().find(|(variable, _)| *variable == name);
                given.map(|(_, value)| value.into()).or_else(|| (name == "HOME").then(|| self.0.path().into()))
            })
        }
    }

    fn key(id: &str, secret: &str, token: Option<&str>) -> Option<Credentials> {
        Some(Credentials::Key { id: id.into(), secret: secret.into(), token: token.map(Into::into) })
    }

    const CONFIG: &str = "\
# a comment
[default]
region = eu-central-1
s3 =
    max_concurrent_requests = 20
    aws_access_key_id = none of the profile's

[profile nightly]
region=eu-west-1
endpoint_url = https://ceph.example.org
credential_process = /opt/keys --of \"a b\" # 1

[profile role]
role_arn = arn:aws:iam::1:role/backup
source_profile = default

[profile half]
aws_secret_access_key = x
";
    const CREDENTIALS: &str = "\
[default]
aws_access_key_id = AKIA1
aws_secret_access_key = a/b+c=\\d

[session]
aws_access_key_id=AKIA2
aws_secret_access_key=s
aws_session_token=t==
";

    #[test]
    fn a_profile_is_read_from_both_files() {
        let home = Home::new(CONFIG, CREDENTIALS);
        let default = home.load(&[]).unwrap().unwrap();
        assert_eq!((default.region.as_deref(), default.endpoint), (Some("eu-central-1"), None));
        assert_eq!(default.credentials, key("AKIA1", "a/b+c=\\d", None));
        let session = home.load(&[("AWS_PROFILE", "session")]).unwrap().unwrap();
        assert_eq!((session.region, session.credentials), (None, key("AKIA2", "s", Some("t=="))));
        let nightly = home.load(&[("AWS_PROFILE", "nightly"), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "x")]);
        let nightly = nightly.unwrap().unwrap();
        assert_eq!(nightly.endpoint.as_deref(), Some("https://ceph.example.org"));
        let process = Credentials::Process("/opt/keys --of \"a b\" # 1".into());
        assert_eq!(nightly.credentials, Some(process));
        let role = home.load(&[("AWS_PROFILE", "role")]).unwrap().unwrap();
        let line = "aws configure export-credentials --format process --profile 'role'";
        assert_eq!(role.credentials, Some(Credentials::Process(line.into())));
    }

    #[test]
    fn what_the_environment_says_comes_first_and_what_is_asked_for_must_be_there() {
        let home = Home::new(CONFIG, CREDENTIALS);
        // nobody has asked for a profile, and there are credentials: it may still say where the bucket is
        for variable in ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
            let default = home.load(&[(variable, "x")]).unwrap().unwrap();
            assert_eq!((default.region.as_deref(), default.credentials), (Some("eu-central-1"), None));
        }
        let beside = home.load(&[("AWS_ACCESS_KEY_ID", "x"), ("AWS_PROFILE", "nightly")]).unwrap().unwrap();
        assert_eq!((beside.region.as_deref(), beside.credentials), (Some("eu-west-1"), None));
        assert!(matches!(home.load(&[("AWS_PROFILE", "other")]), Err(ProfileError::Missing { .. })));
        assert!(matches!(home.load(&[("AWS_PROFILE", "half")]), Err(ProfileError::HalfAKey { .. })));
        assert_eq!(Home::new("", "").load(&[]).unwrap(), None);
        let empty = tempfile::TempDir::new().unwrap();
        assert_eq!(Profile::load(|name| (name == "HOME").then(|| empty.path().into())).unwrap(), None);
        // a home that is none, or another's, is asked for nothing unless somebody means it
        for home in ["", "relative", "/dev/null"] {
            let load = |profile: &str| {
                Profile::load(|name| match name {
                    "HOME" => Some(home.into()),
                    "AWS_PROFILE" => Some(profile.into()),
                    _ => None,
                })
            };
            assert_eq!(load("").unwrap(), None, "{home}");
            assert!(load("nightly").is_err(), "{home}");
        }
        let spelled = Home::new("[default]\nRegion: eu-west-3\nAWS_ACCESS_KEY_ID = a\naws_secret_access_key = b", "");
        let spelled = spelled.load(&[]).unwrap().unwrap();
        assert_eq!((spelled.region.as_deref(), spelled.credentials), (Some("eu-west-3"), key("a", "b", None)));
        let broken = Home::new("[default\nregion", "").load(&[]).unwrap_err();
        assert!(matches!(broken, ProfileError::Malformed { .. }), "{broken}");
    }

    fn ask(provider: &ProcessCredentials) -> object_store::Result<Arc<AwsCredential>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(provider.get_credential())
    }

    /// A process that counts how often it is asked.
    fn counting(folder: &Path, expiration: &str) -> ProcessCredentials {
        let count = folder.join("count");
        let json = format!(
            r#"{{"Version": 1, "AccessKeyId": "id", "SecretAccessKey": "secret", "Expiration": "{expiration}"}}"#
        );
        ProcessCredentials::new(format!("echo x >> '{}'; echo '{json}'", count.display()))
    }

    #[test]
    fn a_process_is_asked_again_only_when_what_it_said_is_about_to_end() {
        let folder = tempfile::TempDir::new().unwrap();
        let asked = || std::fs::read_to_string(folder.path().join("count")).unwrap().lines().count();
        let provider = counting(folder.path(), "2099-01-01T00:00:00Z");
        for _ in 0..3 {
            let credential = ask(&provider).unwrap();
            assert_eq!((credential.key_id.as_str(), credential.secret_key.as_str()), ("id", "secret"));
        }
        assert_eq!(asked(), 1);
        // about to end: once more where it was not asked just now
        let about_to_end = |since: Duration| {
            let mut known = provider.known.blocking_lock();
            let known = known.as_mut().unwrap();
            known.end = Some(Timestamp { secs: now().as_secs() as i64 + 100, nanos: 0 });
            known.asked = Instant::now().checked_sub(since).unwrap();
        };
        about_to_end(Duration::ZERO);
        ask(&provider).unwrap();
        assert_eq!(asked(), 1);
        about_to_end(ASK_AGAIN_AFTER);
        ask(&provider).unwrap();
        assert_eq!(asked(), 2);
        let ended = counting(folder.path(), "2020-01-01T00:00:00Z");
        assert!(crate_chain(&ask(&ended).unwrap_err()).contains("have ended"));
    }

    #[test]
    fn a_process_that_fails_says_why() {
        let said = |line: &str| crate_chain(&ask(&ProcessCredentials::new(line.into())).unwrap_err());
        assert!(said("printf 'no such\\nuser\\n' >&2; exit 3").ends_with(": no such user"));
        assert!(said("yes word | head -n 1000 >&2; exit 3").ends_with("..."));
        assert!(said("echo '{}'").contains("Version"));
        assert!(said("echo nothing of it >&2; exit 127").contains("nothing of it"));
        assert!(said("aws configure --in-a-place-without-it 2>/dev/null; exit 127").contains("AWS command line"));
    }

    fn crate_chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        text
    }
}
