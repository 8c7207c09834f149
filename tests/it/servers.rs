//! Real servers of object stores, where `scripts/servers` has installed them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lakebed_connectors::object_storage::{ConnectOptions, ObjectStorage, Target};
use lakebed_engine::core::time::Clock;
use lakebed_engine::system::SystemClock;
use tempfile::TempDir;

/// The account and key that Azurite has, which everybody knows: they are in its documentation.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

#[expect(clippy::print_stderr, reason = "whoever reads the output of a test is to see that it did nothing")]
fn skipped(program: &Path) {
    eprintln!("skipped: there is no {}; scripts/servers installs it", program.display());
}

/// Which store a server speaks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    S3,
    Azure,
}

/// A server with a bucket or container `lake`. It ends with the test.
pub struct Server {
    child: Child,
    port: u16,
    kind: Kind,
    /// What it keeps, where that is on disk.
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // a server that has ended by itself is gone too
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let program = PathBuf::from(std::env::var_os("LAKEBED_TEST_SERVERS")?).join("bin").join(name);
    if !program.exists() {
        skipped(&program);
        return None;
    }
    Some(program)
}

/// Returns the request that makes the container, signed as "Authorize with Shared Key" of Azure's documentation says.
fn make_container() -> String {
    let now = jiff::Timestamp::from_second(SystemClock::default().now().secs).unwrap();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = format!("x-ms-date:{date}\nx-ms-version:2021-08-06\n");
    let resource = format!("/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/lake\nrestype:container");
    let to_sign = format!("PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}{resource}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(AZURITE_KEY).unwrap());
    let signature = BASE64_STANDARD.encode(hmac::sign(&key, to_sign.as_bytes()));
    let headers = headers.replace('\n', "\r\n");
    format!(
        "PUT /{AZURITE_ACCOUNT}/lake?restype=container HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 0\r\n\
         Authorization: SharedKey {AZURITE_ACCOUNT}:{signature}\r\nConnection: close\r\n\r\n"
    )
}

/// Returns a signature by which a container can be used with some permissions only: "Create a service SAS" of Azure's
/// documentation says how.
fn signature_of_container(container: &str, permissions: &str) -> String {
    const VERSION: &str = "2021-08-06";
    const EXPIRY: &str = "2099-01-01T00:00:00Z";
    let resource = format!("/blob/{AZURITE_ACCOUNT}/{container}");
    // permissions, start, expiry, resource, identifier, addresses, protocol, version, kind of resource, then seven that are
    // not used
    let to_sign = format!("{permissions}\n\n{EXPIRY}\n{resource}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n\n");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(AZURITE_KEY).unwrap());
    let signature = BASE64_STANDARD.encode(hmac::sign(&key, to_sign.as_bytes()));
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let fields = [("sv", VERSION), ("se", EXPIRY), ("sr", "c"), ("sp", permissions), ("sig", &signature)];
    query.extend_pairs(fields).finish()
}

impl Server {
    /// Starts an S3 server.
    pub fn moto() -> Option<Self> {
        let mut command = Command::new(program("moto_server")?);
        command.args(["-H", "127.0.0.1", "-p", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let server = Self::start(command, Kind::S3, TempDir::new().unwrap(), "http://127.0.0.1:");
        let answer =
            server.ask("PUT /lake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert!(answer.contains(" 200 "), "{answer}");
        Some(server)
    }

    /// Starts an Azure Blob server.
    pub fn azurite() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(program("azurite-blob")?);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck", "--location"]);
        command.arg(folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let server = Self::start(command, Kind::Azure, folder, "http://127.0.0.1:");
        let answer = server.ask(&make_container());
        assert!(answer.contains(" 201 "), "{answer}");
        Some(server)
    }

    fn start(mut command: Command, kind: Kind, folder: TempDir, before_port: &str) -> Self {
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let output: Box<dyn Read + Send> = match (child.stderr.take(), child.stdout.take()) {
            (Some(stderr), _) => Box::new(stderr),
            (None, Some(stdout)) => Box::new(stdout),
            (None, None) => panic!("a server that says nothing"),
        };
        let mut said = BufReader::new(output).lines().map_while(Result::ok);
        let port = said.find_map(|line| {
            let (_, rest) = line.rsplit_once(before_port)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        // it says something of each request, and somebody must listen
        std::thread::spawn(move || said.for_each(drop));
        Self { child, port: port.expect("a server that says where it listens"), kind, _folder: folder }
    }

    pub fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the storage at a place in the bucket, reached directly.
    pub fn storage(&self, prefix: &str) -> ObjectStorage {
        self.storage_at(self.address(), prefix)
    }

    /// Returns the storage at a place in another bucket.
    pub fn storage_of(&self, bucket: &str, prefix: &str) -> ObjectStorage {
        self.connect(self.address(), bucket, prefix)
    }

    /// Returns the storage at a place in the bucket, reached through another address.
    pub fn storage_at(&self, address: SocketAddr, prefix: &str) -> ObjectStorage {
        self.connect(address, "lake", prefix)
    }

    /// Returns the storage at a place in the bucket, for who has no permission to delete. Only for Azure: moto knows no
    /// permissions.
    pub fn storage_without_deleting(&self, address: SocketAddr, prefix: &str) -> ObjectStorage {
        let settings = vec![
            ("azure_storage_endpoint", format!("http://{address}/{AZURITE_ACCOUNT}")),
            ("azure_storage_account_name", AZURITE_ACCOUNT.into()),
            ("azure_storage_sas_key", signature_of_container("lake", "rlw")),
        ];
        Self::connect_with(&format!("az://lake/{prefix}"), settings)
    }

    fn connect(&self, address: SocketAddr, bucket: &str, prefix: &str) -> ObjectStorage {
        let (url, settings) = match self.kind {
            Kind::S3 => (
                format!("s3://{bucket}/{prefix}"),
                vec![
                    ("aws_endpoint", format!("http://{address}")),
                    ("aws_region", "us-east-1".into()),
                    ("aws_access_key_id", "test".into()),
                    ("aws_secret_access_key", "test".into()),
                ],
            ),
            Kind::Azure => (
                format!("az://{bucket}/{prefix}"),
                vec![
                    ("azure_storage_endpoint", format!("http://{address}/{AZURITE_ACCOUNT}")),
                    ("azure_storage_account_name", AZURITE_ACCOUNT.into()),
                    ("azure_storage_account_key", AZURITE_KEY.into()),
                ],
            ),
        };
        Self::connect_with(&url, settings)
    }

    fn connect_with(url: &str, settings: Vec<(&str, String)>) -> ObjectStorage {
        let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let retry_for = Some(Duration::from_secs(20));
        let options = ConnectOptions { allow_http: true, retry_for, settings, ..ConnectOptions::default() };
        ObjectStorage::connect(&Target::parse(url).unwrap(), &options).unwrap()
    }
}
