//! Running the binary in a folder of its own, without anything of the user's.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use lakebed_testkit::damage::object_files;
use serde_json::Value;
use tempfile::TempDir;

pub struct Kit {
    pub folder: TempDir,
}

impl Drop for Kit {
    fn drop(&mut self) {
        lakebed_testkit::remove_all(self.folder.path());
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text) || self.err.contains(text), "expected `{text}` in {self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    #[track_caller]
    pub fn result(&self) -> Value {
        let value = self.json();
        assert_eq!(value["schema"], 1, "{value:#}");
        value["result"].clone()
    }
}

impl Kit {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    /// A kit with a repository `repo` and a small tree `src`.
    pub fn with_repo() -> Self {
        let kit = Self::new();
        kit.file("src/a.py", "print('a')\n");
        kit.file("src/sub/b.py", "print('b')\n");
        kit.run(&["init"]).exits(0);
        kit
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn file(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakebed"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("LAKEBED_REPO", "repo")
            .env("LAKEBED_CACHE_DIR", self.path("cache"))
            .env("LAKEBED_PASSWORD", "secret")
            .stdin(Stdio::null());
        command
    }

    /// The packs of data, which a header's fifth byte tells from those of trees.
    pub fn data_packs(&self) -> Vec<PathBuf> {
        let packs = object_files(&self.path("repo/packs")).into_iter();
        packs.filter(|pack| std::fs::read(pack).unwrap()[4] == 1).collect()
    }

    /// Runs a command with variables.
    pub fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        said(self.command(arguments).envs(variables.iter().copied()).output().unwrap())
    }

    pub fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }
}

pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
