//! Files in volumes: the calls that read them.

use bytes::Bytes;
use http::header::{CONTENT_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE};
use http::{HeaderValue, Method};
use serde::Deserialize;

use super::api::encoded;
use super::calls::FILES;
use super::pages::Pages;
use crate::rest::{Answer, Call, CallError, CallErrorKind, Client};

/// What lies in a folder of a volume.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct VolumeEntry {
    pub(super) name: String,
    #[serde(default)]
    pub(super) is_directory: bool,
    #[serde(default)]
    pub(super) file_size: Option<u64>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub(super) last_modified: Option<i64>,
}

/// Lists a folder of a volume.
pub(super) async fn list(client: &Client, path: &str) -> Result<Vec<VolumeEntry>, CallError> {
    let place = encoded("/api/2.0/fs/directories", path);
    let pages = Pages { kind: FILES, path: &place, query: &[("page_size", "1000")], items: "contents", subject: path };
    let entries = pages.all(client).await?;
    let read = entries.into_iter().map(serde_json::from_value).collect::<Result<Vec<VolumeEntry>, _>>();
    read.map_err(|error| {
        let kind = CallErrorKind::Malformed { why: format!("it lists what is no file and no folder ({error})") };
        CallError { call: format!("GET {place}"), kind }
    })
}

/// Returns the size of a file.
pub(super) async fn size(client: &Client, path: &str) -> Result<u64, CallError> {
    let call = Call::get(FILES, encoded("/api/2.0/fs/files", path), path);
    let read = |answer: &Answer| {
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        length.ok_or_else(|| CallErrorKind::Malformed { why: "it says no length".into() })
    };
    client.send(&Call { method: Method::HEAD, ..call }, read).await
}

/// A piece of a file, and what tells of which version of the file it is.
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) version: Option<HeaderValue>,
}

/// What became of reading a piece.
pub(super) enum Read {
    Piece(Piece),
    /// The file is not the one any more of which the other pieces are.
    Changed,
}

/// Reads a piece of a file of a known size. Pieces of different versions are never put together: each is asked for, and
/// looked at, as one of the version that the first one had.
pub(super) async fn read(
    client: &Client,
    path: &str,
    range: std::ops::Range<u64>,
    size: u64,
    version: Option<&HeaderValue>,
) -> Result<Read, CallError> {
    let mut call = Call::get(FILES, encoded("/api/2.0/fs/files", path), path);
    let is_whole = range == (0..size);
    if !is_whole {
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        call.headers.extend(HeaderValue::try_from(asked).ok().map(|value| (RANGE, value)));
        call.headers.extend(version.map(|version| (IF_UNMODIFIED_SINCE, version.clone())));
    }
    let read = |answer: &Answer| {
        let here = answer.headers.get(LAST_MODIFIED);
        let (start, total) = match answer.status {
            206 => {
                let told = answer.headers.get(CONTENT_RANGE).and_then(|value| parse_range(value.to_str().ok()?));
                told.ok_or_else(|| CallErrorKind::Malformed { why: "it does not say which part it is".into() })?
            }
            // the whole file, asked for or not
            _ => (0, answer.body.len() as u64),
        };
        if total != size || (version.is_some() && here != version) {
            return Ok(Read::Changed);
        }
        if !is_whole && here.is_none() {
            let why = "it does not say of which version it is, and would be put together of several".into();
            return Err(CallErrorKind::Malformed { why });
        }
        if start != range.start || answer.body.len() as u64 != range.end - range.start {
            let why = format!("{} bytes from {start} came, where {range:?} was asked for", answer.body.len());
            return Err(CallErrorKind::Malformed { why });
        }
        Ok(Read::Piece(Piece { bytes: answer.body.clone(), version: here.cloned() }))
    };
    match client.send(&call, read).await {
        Err(error) if error.kind.refusal().is_some_and(|refusal| matches!(refusal.status, 412 | 416)) => {
            Ok(Read::Changed)
        }
        result => result,
    }
}

/// Reads `bytes 0-99/1234`: where it starts, and how long the whole is.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()?))
}
