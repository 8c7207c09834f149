//! Uploads in parts that nobody will finish: a process that was killed leaves its parts behind, which are in no listing of
//! objects and cost money all the same.
//!
//! Azure forgets them by itself after a week. S3 and its like keep them until they are told, so they are asked for
//! ("ListMultipartUploads" and "AbortMultipartUpload" of the S3 API). The requests are signed in their URLs.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use lakebed_core::id::PackId;
use lakebed_core::layout;
use lakebed_core::storage::ObjectKey;
use lakebed_core::time::Timestamp;
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;

/// Whoever uploads may be slow, and may sleep for a while. Both times are the store's.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A signed URL is used at once.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// No more pages of a thousand are looked at: the next time goes on.
const PAGES: usize = 100;

/// What can be said of uploads on S3.
#[derive(Clone)]
pub(super) struct Uploads {
    store: Arc<AmazonS3>,
    client: HttpClient,
}

/// An upload that was begun long ago.
pub(super) struct Abandoned {
    key: String,
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default, rename = "Upload")]
    uploads: Vec<Upload>,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Timestamp,
}

/// What went wrong, for [`object_store::Error::Generic`].
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the store answered {status} when uploads in parts were asked for (on S3: s3:ListBucketMultipartUploads)")]
    Status { status: http::StatusCode },
    #[error("what it answered is no list of uploads: {why}")]
    Answer { why: String },
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: source.into() }
}

impl Uploads {
    pub(super) fn new(store: Arc<AmazonS3>, client: HttpClient) -> Self {
        Self { store, client }
    }

    /// Sends a request, signed, and returns the head and the body of the answer.
    async fn ask(
        &self,
        method: Method,
        path: &Path,
        query: &[(&str, &str)],
    ) -> object_store::Result<(http::response::Parts, bytes::Bytes)> {
        let options = SignedUrlOptions::new().with_query(query.iter().map(|(name, value)| (*name, *value)));
        let url = self.store.signed_url_opts(method.clone(), path, SIGNED_FOR, &options).await?;
        let mut request = Request::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(failed)?;
        let (head, body) = self.client.execute(request).await.map_err(failed)?.into_parts();
        if !head.status.is_success() {
            return Err(failed(Trouble::Status { status: head.status }));
        }
        Ok((head, body.bytes().await.map_err(failed)?))
    }

    /// Returns the uploads below a prefix, which ends in `/` or is empty, that were begun more than a day ago.
    pub(super) async fn abandoned(&self, prefix: &str) -> object_store::Result<Vec<Abandoned>> {
        let mut abandoned = Vec::new();
        let (mut key_marker, mut id_marker) = (String::new(), String::new());
        for _ in 0..PAGES {
            let mut query = vec![("uploads", ""), ("prefix", prefix)];
            if !key_marker.is_empty() {
                query.extend([("key-marker", key_marker.as_str()), ("upload-id-marker", id_marker.as_str())]);
            }
            let (head, body) = self.ask(Method::GET, &Path::default(), &query).await?;
            let now = head.headers.get(http::header::DATE).and_then(|date| seconds_of(date.to_str().ok()?));
            let page: Page = quick_xml::de::from_reader(&body[..])
                .map_err(|error| failed(Trouble::Answer { why: error.to_string() }))?;
            let old = page.uploads.into_iter();
            let old = old.filter(|upload| is_ours(prefix, &upload.key) && is_old(now, upload.initiated));
            abandoned.extend(old.map(|upload| Abandoned { key: upload.key, id: upload.upload_id }));
            match (page.is_truncated, page.next_key_marker) {
                (true, Some(next)) if next >= key_marker => {
                    (key_marker, id_marker) = (next, page.next_upload_id_marker.unwrap_or_default());
                }
                _ => break,
            }
        }
        Ok(abandoned)
    }

    /// Ends an upload; its parts go.
    pub(super) async fn abort(&self, upload: &Abandoned) -> object_store::Result<()> {
        let path = Path::parse(&upload.key).map_err(failed)?;
        self.ask(Method::DELETE, &path, &[("uploadId", &upload.id)]).await.map(drop)
    }
}

/// Tells whether what is uploaded is a pack of the repository below a prefix: nothing else of it is sent in parts, and what
/// others send to the same bucket is their affair.
fn is_ours(prefix: &str, key: &str) -> bool {
    let rest = key.strip_prefix(prefix).and_then(ObjectKey::new);
    let id = rest.as_ref().and_then(|key| layout::last_part(key).parse::<PackId>().ok());
    rest.zip(id).is_some_and(|(key, id)| layout::pack(id) == key)
}

/// Tells whether an upload was begun so long ago that nobody can be at it. Who does not say what time it is, in seconds, is
/// not asked to forget anything.
fn is_old(now: Option<i64>, initiated: Timestamp) -> bool {
    now.is_some_and(|now| now.saturating_sub(initiated.secs) > GIVEN_UP_AFTER.as_secs() as i64)
}

/// Reads the date of an answer, as seconds.
fn seconds_of(date: &str) -> Option<i64> {
    // of the three forms that HTTP knows, the only one that is sent
    Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_uploads_is_read() {
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>lake</Bucket><KeyMarker></KeyMarker><NextKeyMarker>b</NextKeyMarker>
              <NextUploadIdMarker>2</NextUploadIdMarker><MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload><Key>a&amp;b</Key><UploadId>1</UploadId><Initiator><ID>x</ID></Initiator>
                <StorageClass>STANDARD</StorageClass><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
              <Upload><Key>b</Key><UploadId>2</UploadId><Initiated>2010-11-10T20:49:33Z</Initiated></Upload>
            </ListMultipartUploadsResult>"#;
        let page: Page = quick_xml::de::from_reader(xml.as_bytes()).unwrap();
        assert!(page.is_truncated);
        assert_eq!((page.next_key_marker.as_deref(), page.next_upload_id_marker.as_deref()), (Some("b"), Some("2")));
        let keys: Vec<&str> = page.uploads.iter().map(|upload| upload.key.as_str()).collect();
        assert_eq!(keys, ["a&b", "b"]);
        assert_eq!(page.uploads[1].initiated.secs - page.uploads[0].initiated.secs, 60);
        let none: Page = quick_xml::de::from_reader(&b"<ListMultipartUploadsResult/>"[..]).unwrap();
        assert!(none.uploads.is_empty() && !none.is_truncated);
    }

    #[test]
    fn what_is_young_or_somebody_elses_is_left_alone() {
        let (now, hour) = (1_730_818_875, 3600);
        let begun = |hours: i64| Timestamp { secs: now - hours * hour, nanos: 0 };
        assert!(is_old(Some(now), begun(25)) && !is_old(Some(now), begun(23)) && !is_old(Some(now), begun(-1)));
        assert!(!is_old(None, begun(25)));
        let pack = layout::pack(PackId::new([0xab; 32])).to_string();
        assert!(is_ours("", &pack) && is_ours("lake/one/", &format!("lake/one/{pack}")));
        for key in [pack.clone(), format!("lake/one/x/{pack}"), "lake/one/video.mp4".into(), "lake/one/a//b".into()] {
            assert!(!is_ours("lake/one/", &key), "{key}");
        }
    }

    #[test]
    fn the_date_of_an_answer_is_read() {
        assert_eq!(seconds_of("Tue, 05 Nov 2024 15:01:15 GMT"), Some(1_730_818_875));
        assert_eq!(seconds_of("yesterday"), None);
    }
}
