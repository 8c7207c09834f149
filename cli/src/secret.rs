//! Where passwords and keys come from: files, commands, the environment, the terminal. Never the argument list, which
//! every user of the machine can read.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use lakebed_engine::core::record::key_slot::{KEY_FILE_MIN_BYTES, Secret};
use zeroize::Zeroizing;

use crate::error::CliError;

/// What opens an encrypted repository.
#[derive(Debug, Args)]
pub(crate) struct SecretArgs {
    /// File whose first line is the password [env: LAKEBED_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["password_command", "key_file"])]
    pub(crate) password_file: Option<PathBuf>,
    /// Command, run by `sh -c`, whose first line of output is the password [env: LAKEBED_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "key_file")]
    pub(crate) password_command: Option<OsString>,
    /// File that is the key: its bytes, at least 32 [env: LAKEBED_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// A place that a secret can come from.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    PasswordFile(PathBuf),
    PasswordCommand(OsString),
    KeyFile(PathBuf),
    /// The variable of that name, which is set.
    Variable(&'static str),
    Terminal,
}

/// Reads the environment; replaced in tests.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn process_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What opens the repository that is copied from, where it is encrypted.
#[derive(Debug, Args)]
pub(crate) struct FromSecretArgs {
    /// File whose first line is that repository's password [env: LAKEBED_FROM_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from_password_command", "from_key_file"])]
    pub(crate) from_password_file: Option<PathBuf>,
    /// Command, run by `sh -c`, whose first line of output is its password [env: LAKEBED_FROM_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", conflicts_with = "from_key_file")]
    pub(crate) from_password_command: Option<OsString>,
    /// File that is its key [env: LAKEBED_FROM_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) from_key_file: Option<PathBuf>,
}

/// Variables that name the secret of a repository, in the order in which they count.
#[derive(Debug)]
struct Variables {
    password_file: &'static str,
    password_command: &'static str,
    key_file: &'static str,
    password: &'static str,
    /// How to give the secret, for people.
    advice: &'static str,
}

const VARIABLES: Variables = Variables {
    password_file: "LAKEBED_PASSWORD_FILE",
    password_command: "LAKEBED_PASSWORD_COMMAND",
    key_file: "LAKEBED_KEY_FILE",
    password: "LAKEBED_PASSWORD",
    advice: "give --password-file, --password-command or --key-file, or set LAKEBED_PASSWORD",
};

const FROM_VARIABLES: Variables = Variables {
    password_file: "LAKEBED_FROM_PASSWORD_FILE",
    password_command: "LAKEBED_FROM_PASSWORD_COMMAND",
    key_file: "LAKEBED_FROM_KEY_FILE",
    password: "LAKEBED_FROM_PASSWORD",
    advice: "give --from-password-file, --from-password-command or --from-key-file, or set LAKEBED_FROM_PASSWORD",
};

/// Where the secret of one repository may come from: options, then variables, then the terminal.
#[derive(Debug)]
pub(crate) struct SecretPlaces<'a> {
    password_file: Option<&'a PathBuf>,
    password_command: Option<&'a OsString>,
    key_file: Option<&'a PathBuf>,
    variables: Variables,
}

impl SecretArgs {
    /// Returns where the repository's secret may come from.
    pub(crate) fn places(&self) -> SecretPlaces<'_> {
        SecretPlaces {
            password_file: self.password_file.as_ref(),
            password_command: self.password_command.as_ref(),
            key_file: self.key_file.as_ref(),
            variables: VARIABLES,
        }
    }
}

impl FromSecretArgs {
    /// Returns where the secret of the repository that is copied from may come from.
    pub(crate) fn places(&self) -> SecretPlaces<'_> {
        SecretPlaces {
            password_file: self.from_password_file.as_ref(),
            password_command: self.from_password_command.as_ref(),
            key_file: self.from_key_file.as_ref(),
            variables: FROM_VARIABLES,
        }
    }
}

impl SecretPlaces<'_> {
    /// Tells whether a secret is held out, by an option or by the environment.
    pub(crate) fn is_given(&self) -> bool {
        !matches!(self.origin(&process_environment), Origin::Terminal)
    }

    /// Options come before the environment; there files and commands come before the bare password.
    fn origin(&self, environment: Environment<'_>) -> Origin {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        if let Some(file) = self.password_file {
            return Origin::PasswordFile(file.clone());
        }
        if let Some(command) = self.password_command {
            return Origin::PasswordCommand(command.clone());
        }
        if let Some(file) = self.key_file {
            return Origin::KeyFile(file.clone());
        }
        if let Some(file) = set(self.variables.password_file) {
            return Origin::PasswordFile(file.into());
        }
        if let Some(command) = set(self.variables.password_command) {
            return Origin::PasswordCommand(command);
        }
        if let Some(file) = set(self.variables.key_file) {
            return Origin::KeyFile(file.into());
        }
        match environment(self.variables.password) {
            Some(_) => Origin::Variable(self.variables.password),
            None => Origin::Terminal,
        }
    }

    /// Reads the secret that opens a repository.
    pub(crate) fn read(&self, location: &str) -> Result<Secret, CliError> {
        let prompt = format!("Password of the repository at {location}: ");
        read(self.origin(&process_environment), &prompt, Times::Once, self.variables.advice)
    }

    /// Reads the secret for a repository that is being made; a person types it twice.
    pub(crate) fn read_new(&self) -> Result<Secret, CliError> {
        let prompt = "Password for the new repository: ";
        read(self.origin(&process_environment), prompt, Times::Twice, self.variables.advice)
    }
}

/// What a new key slot is to ask for.
#[derive(Debug, Args)]
pub(crate) struct NewSecretArgs {
    /// File whose first line is the new password; without it LAKEBED_NEW_PASSWORD, then the terminal
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    pub(crate) new_password_file: Option<PathBuf>,
    /// Existing file that is the new key: its bytes, at least 32
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
}

impl NewSecretArgs {
    /// Reads the secret; a person types it twice.
    pub(crate) fn read(&self) -> Result<Secret, CliError> {
        let variable = || process_environment("LAKEBED_NEW_PASSWORD").map(|_| Origin::Variable("LAKEBED_NEW_PASSWORD"));
        let origin = match (&self.new_password_file, &self.new_key_file) {
            (Some(file), _) => Origin::PasswordFile(file.clone()),
            (None, Some(file)) => Origin::KeyFile(file.clone()),
            (None, None) => variable().unwrap_or(Origin::Terminal),
        };
        let advice = "give --new-password-file or --new-key-file, or set LAKEBED_NEW_PASSWORD";
        read(origin, "New password: ", Times::Twice, advice)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Once,
    Twice,
}

/// `advice` says how to give the secret where there is no terminal.
fn read(origin: Origin, prompt: &str, times: Times, advice: &str) -> Result<Secret, CliError> {
    match origin {
        Origin::PasswordFile(file) => {
            let bytes = read_file(&file, "password file")?;
            passphrase(bytes, &format!("the password file `{}`", file.display()))
        }
        Origin::PasswordCommand(command) => passphrase(run(&command)?, "the output of the password command"),
        Origin::KeyFile(file) => key_file(&file),
        Origin::Variable(name) => {
            // it was there a moment ago; if not, `passphrase` says that it is empty
            let value = process_environment(name).unwrap_or_default().into_vec();
            passphrase(Zeroizing::new(value), name)
        }
        Origin::Terminal => ask(prompt, times, advice),
    }
}

fn read_file(file: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let bytes = std::fs::read(file)
        .map_err(|error| CliError::failed(format!("Cannot read the {what} `{}`", file.display())).caused_by(error))?;
    Ok(Zeroizing::new(bytes))
}

/// Takes a key file as it is.
pub(crate) fn key_file(file: &Path) -> Result<Secret, CliError> {
    let bytes = read_file(file, "key file")?;
    if bytes.len() < KEY_FILE_MIN_BYTES {
        let found = bytes.len();
        let message =
            format!("The key file `{}` has {found} bytes; a key needs at least {KEY_FILE_MIN_BYTES}", file.display());
        return Err(CliError::failed(message)
            .hint("`lakebed init --new-key-file FILE` makes a good one; for a typed password use --password-file"));
    }
    Ok(Secret::KeyFile(bytes))
}

/// Takes the first line, without its end.
fn passphrase(bytes: Zeroizing<Vec<u8>>, origin: &str) -> Result<Secret, CliError> {
    let line = first_line(&bytes);
    if line.is_empty() {
        return Err(CliError::failed(format!("There is no password in {origin}: it is empty")));
    }
    Ok(Secret::Passphrase(Zeroizing::new(line.to_vec())))
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn run(command: &OsStr) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let failed = |why: String| CliError::failed(format!("The password command failed: {why}"));
    let output = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stderr(Stdio::inherit())
        .stdin(Stdio::inherit())
        .output()
        .map_err(|error| failed("it cannot be started".into()).caused_by(error))?;
    let stdout = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    Ok(stdout)
}

fn ask(prompt: &str, times: Times, advice: &str) -> Result<Secret, CliError> {
    let type_in = |prompt: &str| match rpassword::prompt_password(prompt) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => Err(CliError::failed("A password is needed, and there is no terminal to ask for it")
            .caused_by(error)
            .hint(format!("{}: {advice}", prompt.trim_end_matches([':', ' '])))),
    };
    let password = type_in(prompt)?;
    if password.is_empty() {
        return Err(CliError::failed("The password is empty"));
    }
    if times == Times::Twice && *type_in("The same again: ")? != *password {
        return Err(CliError::failed("The two passwords differ"));
    }
    Ok(Secret::Passphrase(Zeroizing::new(password.as_bytes().to_vec())))
}

/// Says what a secret is, to people.
pub(crate) fn describe(secret: &Secret) -> &'static str {
    match secret {
        Secret::Passphrase(_) => "password",
        Secret::KeyFile(_) => "key file",
        Secret::None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> SecretArgs {
        SecretArgs { password_file: None, password_command: None, key_file: None }
    }

    fn environment(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    }

    #[test]
    fn options_come_before_the_environment_and_files_before_bare_passwords() {
        let all = environment(&[
            ("LAKEBED_PASSWORD", "p"),
            ("LAKEBED_PASSWORD_FILE", "f"),
            ("LAKEBED_PASSWORD_COMMAND", "c"),
            ("LAKEBED_KEY_FILE", "k"),
        ]);
        let given = SecretArgs { key_file: Some("mine".into()), ..none() };
        assert_eq!(given.places().origin(&all), Origin::KeyFile("mine".into()));
        assert_eq!(none().places().origin(&all), Origin::PasswordFile("f".into()));
        let key = environment(&[("LAKEBED_PASSWORD", "p"), ("LAKEBED_KEY_FILE", "k"), ("LAKEBED_PASSWORD_FILE", "")]);
        assert_eq!(none().places().origin(&key), Origin::KeyFile("k".into()));
        let bare = environment(&[("LAKEBED_PASSWORD", "")]);
        assert_eq!(none().places().origin(&bare), Origin::Variable("LAKEBED_PASSWORD"));
        assert_eq!(none().places().origin(&environment(&[])), Origin::Terminal);
    }

    #[test]
    fn the_secret_of_one_repository_is_not_held_out_to_the_other() {
        let from = FromSecretArgs { from_password_file: None, from_password_command: None, from_key_file: None };
        let own = environment(&[("LAKEBED_PASSWORD", "p"), ("LAKEBED_KEY_FILE", "k")]);
        assert_eq!(from.places().origin(&own), Origin::Terminal);
        let theirs = environment(&[("LAKEBED_FROM_PASSWORD", "p"), ("LAKEBED_FROM_KEY_FILE", "k")]);
        assert_eq!(from.places().origin(&theirs), Origin::KeyFile("k".into()));
        assert_eq!(none().places().origin(&theirs), Origin::Terminal);
    }

    #[test]
    fn a_password_is_the_first_line() {
        for bytes in [&b"secret"[..], b"secret\n", b"secret\r\n", b"secret\nmore\n"] {
            assert_eq!(first_line(bytes), b"secret");
        }
        assert_eq!(first_line(b" with spaces \n"), b" with spaces ");
        assert!(passphrase(Zeroizing::new(b"\nsecond".to_vec()), "x").is_err());
    }

    #[test]
    fn a_password_command_that_fails_gives_no_password() {
        assert_eq!(run(OsStr::new("printf 'a b\\nc'")).unwrap().as_slice(), b"a b\nc");
        let error = run(OsStr::new("echo secret; exit 3")).unwrap_err();
        assert_eq!(error.to_string(), "The password command failed: exit status: 3");
    }
}
