//! Where the repository of a tool lies: in a folder, or in a bucket behind a network that is made slow.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lakebed_testkit::proxy::{Network, Proxy, Seen, nothing};

use crate::Failure;
use crate::measure::{bytes_below, shell};

/// A server that speaks S3, and the network before it. Keys and region are those of the environment.
#[derive(Debug, Clone, Args)]
pub struct BucketArgs {
    /// Compare on an S3 server at this address, such as 127.0.0.1:9000, and beside it in a folder
    #[arg(long, requires = "bucket")]
    endpoint: Option<SocketAddr>,
    /// Bucket to work in; nothing in it is touched but what this makes
    #[arg(long)]
    bucket: Option<String>,
    /// Milliseconds that each request waits
    #[arg(long, default_value_t = 50)]
    latency: u64,
    /// Megabits a second, in each direction
    #[arg(long, default_value_t = 1000)]
    bandwidth: u64,
    /// List the requests of each phase
    #[arg(long)]
    list_requests: bool,
}

/// A place for one repository.
pub enum Place {
    Folder(PathBuf),
    Bucket { proxy: Proxy, bucket: String, prefix: String },
}

impl BucketArgs {
    /// Tells whether a bucket is asked for.
    pub fn is_asked_for(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Tells whether requests are to be listed.
    pub fn lists_requests(&self) -> bool {
        self.list_requests
    }

    /// Makes a place in the bucket, behind a network of its own; `None` where none is asked for.
    pub fn place(&self, prefix: String) -> Result<Option<Place>, Failure> {
        let (Some(endpoint), Some(bucket)) = (self.endpoint, self.bucket.clone()) else { return Ok(None) };
        let network = Network {
            latency: Duration::from_millis(self.latency),
            connect: true,
            bytes_per_second: Some(self.bandwidth * 1_000_000 / 8),
        };
        let proxy = Proxy::start(endpoint, network, nothing())?;
        Ok(Some(Place::Bucket { proxy, bucket, prefix }))
    }
}

impl Place {
    /// Returns how a tool is told of it, and writes what it has to find at home for that.
    pub fn told(&self, tool: &str, home: &Path) -> Result<String, Failure> {
        let (proxy, bucket, prefix) = match self {
            Self::Folder(folder) => return Ok(folder.display().to_string()),
            Self::Bucket { proxy, bucket, prefix } => (proxy, bucket, prefix),
        };
        let endpoint = format!("http://{}", proxy.address());
        Ok(match tool {
            "lakebed" => format!("s3:{endpoint}/{bucket}/{prefix} --allow-http"),
            "rustic" => {
                let folder = home.join(".config/rustic");
                std::fs::create_dir_all(&folder)?;
                let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
                let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
                let region = variable("AWS_REGION")?;
                let profile = format!(
                    "[repository.options]\nendpoint = \"{endpoint}\"\nbucket = \"{bucket}\"\nroot = \"/{prefix}\"\n\
                     region = \"{region}\"\naccess_key_id = \"{id}\"\nsecret_access_key = \"{secret}\"\n"
                );
                std::fs::write(folder.join("rustic.toml"), profile)?;
                "opendal:s3".into()
            }
            _ => format!("s3:{endpoint}/{bucket}/{prefix}"),
        })
    }

    /// Reads every file of it once, so that all are in memory.
    pub fn read_through(&self) -> Result<(), Failure> {
        match self {
            Self::Folder(folder) => read_through(folder),
            // what the server does is the server's affair
            Self::Bucket { .. } => Ok(()),
        }
    }

    /// Returns the bytes of its files, or those that were sent to the bucket.
    pub fn stored(&self) -> Result<u64, Failure> {
        match self {
            Self::Folder(folder) => bytes_below(folder),
            Self::Bucket { proxy, .. } => Ok(proxy.counts().values().map(|count| count.request_bytes).sum()),
        }
    }

    /// Returns the requests that there were after the first so many.
    pub fn requests(&self, after: usize) -> Vec<Seen> {
        match self {
            Self::Folder(_) => Vec::new(),
            Self::Bucket { proxy, .. } => proxy.log().split_off(after),
        }
    }
}

/// Reads every file once, so that all are in memory.
pub fn read_through(folder: &Path) -> Result<(), Failure> {
    shell(&format!("find {} -type f -print0 | xargs -0 -r cat > /dev/null", folder.display()))
}
