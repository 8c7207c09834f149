//! Repositories on object stores: the contract of storage, and a repository's life, on a store in memory and on a real
//! S3 server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lakebed_connectors::object_storage::{ConnectOptions, ObjectStorage, Store, Target};
use lakebed_engine::core::codec::seal::Encryption;
use lakebed_engine::core::storage::{ObjectKey, Storage, StorageErrorKind};
use lakebed_engine::storage::contract;
use lakebed_engine::{OpenOptions, Repository};
use lakebed_testkit::compare::{CompareOptions, assert_tree_is, snapshot_of};
use lakebed_testkit::tree::{Content, TreeSpec};

use crate::common::*;

fn in_memory(prefix: &str) -> ObjectStorage {
    let store = Store::of(Arc::new(object_store::memory::InMemory::new()));
    ObjectStorage::over(store, prefix.into(), "memory".into(), &ConnectOptions::default()).unwrap()
}

#[expect(clippy::print_stderr, reason = "whoever reads the output of a test is to see that it did nothing")]
fn skipped(program: &Path) {
    eprintln!("skipped: there is no {}; scripts/servers installs it", program.display());
}

/// An S3 server, with a bucket `lake`. It ends with the test.
struct Moto {
    server: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // a server that has ended by itself is gone too
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Moto {
    /// Starts one, where `scripts/servers` has installed it; else says that it is not there.
    fn start() -> Option<Self> {
        let program = PathBuf::from(std::env::var_os("LAKEBED_TEST_SERVERS")?).join("bin/moto_server");
        if !program.exists() {
            skipped(&program);
            return None;
        }
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut said = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
        let port = said.find_map(|line| line.trim().rsplit_once("http://127.0.0.1:")?.1.parse().ok());
        // it says something of each request, and somebody must listen
        std::thread::spawn(move || said.for_each(drop));
        let moto = Self { server, port: port.expect("a server that says where it listens") };
        moto.make_bucket();
        Some(moto)
    }

    fn make_bucket(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request = "PUT /lake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
    }

    fn storage(&self, url: &str) -> ObjectStorage {
        let settings = [
            ("aws_endpoint", format!("http://127.0.0.1:{}", self.port)),
            ("aws_region", "us-east-1".into()),
            ("aws_access_key_id", "test".into()),
            ("aws_secret_access_key", "test".into()),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let options = ConnectOptions { allow_http: true, settings, ..ConnectOptions::default() };
        ObjectStorage::connect(&Target::parse(url).unwrap(), &options).unwrap()
    }
}

#[test]
fn a_store_in_memory_keeps_the_contract() {
    for prefix in ["", "some/where"] {
        contract::check(&in_memory(prefix)).unwrap();
    }
}

#[test]
fn an_s3_server_keeps_the_contract() {
    let Some(moto) = Moto::start() else { return };
    for url in ["s3://lake", "s3://lake/some/where"] {
        contract::check(&moto.storage(url)).unwrap();
    }
}

/// Sent in parts, and not to be seen before the last one.
#[test]
fn a_long_object_is_put_in_parts() {
    let Some(moto) = Moto::start() else { return };
    let storage = moto.storage("s3://lake/parts");
    let key = ObjectKey::new("packs/aa/1").unwrap();
    let content = Content::random(1, 40 << 20).bytes();
    let mut writer = storage.writer().unwrap();
    for part in content.chunks(3_000_001) {
        writer.append(part).unwrap();
    }
    assert!(storage.list("").unwrap().is_empty());
    writer.finish(&key).unwrap();
    assert_eq!(storage.size(&key).unwrap(), content.len() as u64);
    assert!(storage.get(&key).unwrap() == content);
    let mut again = storage.writer().unwrap();
    again.append(&content).unwrap();
    assert_eq!(again.finish(&key).unwrap_err().kind, StorageErrorKind::AlreadyExists);
}

fn lives(storage: Arc<dyn Storage>) {
    let folder = tempfile::TempDir::new().unwrap();
    let source = folder.path().join("source");
    let tree = (0..50).fold(TreeSpec::new(), |tree, n| tree.file(format!("{n}/notebook.py"), Content::random(n, 3000)));
    tree.file("large", Content::random(99, 3_000_000)).write(&source);
    let open = OpenOptions::default();
    let repository = Repository::init(storage.clone(), &secret(), &init_options(Encryption::Aes256Gcm), &open).unwrap();
    let info = backup(&repository, std::slice::from_ref(&source)).snapshot.unwrap();
    let observed = snapshot_of(&source);
    std::fs::write(source.join("0/notebook.py"), "edited").unwrap();
    backup(&repository, std::slice::from_ref(&source));
    // another machine
    let reopened = Repository::open(storage, &secret(), &open).unwrap();
    assert_good(&reopened);
    let restored = restore_to(&reopened, &info, &folder.path().join("out"), &source);
    assert_tree_is(&observed, &restored, &CompareOptions::default());
}

#[test]
fn a_repository_lives_on_an_object_store() {
    lives(Arc::new(in_memory("lake")));
    if let Some(moto) = Moto::start() {
        lives(Arc::new(moto.storage("s3://lake/repositories/one")));
    }
}

#[test]
fn a_place_that_is_not_there_is_an_error_and_no_empty_repository() {
    let Some(moto) = Moto::start() else { return };
    let storage = moto.storage("s3://no-such-bucket/lake");
    let key = ObjectKey::new("lakebed.json").unwrap();
    let error = storage.put(&key, b"content").unwrap_err();
    assert!(error.to_string().contains("lakebed.json"), "{error}");
    assert!(storage.list("").is_err());
}
