//! Deletions on Azure, one by one.
//!
//! `object_store` deletes on Azure only in batches, which are posted to the root of the container. OneLake refuses that, and
//! so does Azure where a signature is for blobs only. A batch of one, which is all that is sent here, holds a whole request
//! that is signed by itself: it is taken out and sent instead, and its answer handed back as a batch's would look.
//! (Azure Storage REST API, "Blob Batch" and "Delete Blob".)

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use object_store::client::{HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody};

/// Stands between the parts of an answer; there is only one.
const BOUNDARY: &str = "single";

/// Takes the deletion out of a batch of one; `None` for every other request.
pub(super) fn taken_out(request: &HttpRequest) -> Option<HttpRequest> {
    let is_batch = |query: &str| query.split('&').any(|part| part == "comp=batch");
    if request.method() != Method::POST || !request.uri().query().is_some_and(is_batch) {
        return None;
    }
    let body = std::str::from_utf8(request.body().as_bytes()?).ok()?;
    let (_, inner) = body.split_once("\r\nDELETE ")?;
    if inner.contains("\r\nDELETE ") {
        return None;
    }
    let mut lines = inner.split("\r\n");
    let target = lines.next()?.strip_suffix(" HTTP/1.1")?;
    // below the container, whose root the batch is sent to: else it is left to the batch
    if !target.starts_with(request.uri().path()) {
        return None;
    }
    let mut uri = request.uri().clone().into_parts();
    uri.path_and_query = Some(target.parse().ok()?);
    let mut deletion = Request::new(HttpRequestBody::empty());
    *deletion.method_mut() = Method::DELETE;
    *deletion.uri_mut() = Uri::from_parts(uri).ok()?;
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let mut value = HeaderValue::from_str(value.trim()).ok()?;
        let name: HeaderName = name.parse().ok()?;
        value.set_sensitive(name == http::header::AUTHORIZATION);
        deletion.headers_mut().insert(name, value);
    }
    *deletion.extensions_mut() = request.extensions().clone();
    Some(deletion)
}

/// Makes the answer of a deletion one of a batch, where it says what became of the object. Others are about the request, and
/// stay as they are: who may not delete and what is worth another try are told by their status.
pub(super) fn put_back(answer: HttpResponse) -> HttpResponse {
    let status = answer.status();
    if !status.is_success() && status.as_u16() != 404 {
        return answer;
    }
    let reason = status.canonical_reason().unwrap_or_default();
    let body = format!(
        "--{BOUNDARY}\r\nContent-ID: 0\r\n\r\nHTTP/1.1 {} {reason}\r\n\r\n\r\n--{BOUNDARY}--\r\n",
        status.as_u16()
    );
    let (mut parts, _) = answer.into_parts();
    parts.status = http::StatusCode::ACCEPTED;
    parts.headers.remove(CONTENT_LENGTH);
    let kind = HeaderValue::from_str(&format!("multipart/mixed; boundary={BOUNDARY}"));
    parts.headers.extend(kind.ok().map(|kind| (CONTENT_TYPE, kind)));
    HttpResponse::from_parts(parts, HttpResponseBody::from(Bytes::from(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `object_store` 0.14 writes it.
    fn batch(deletions: &[&str]) -> HttpRequest {
        let mut body = String::new();
        for (number, target) in deletions.iter().enumerate() {
            body += &format!(
                "--batch_x\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: \
                 {number}\r\n\r\nDELETE {target} HTTP/1.1\r\nContent-Length: 0\r\nDate: Tue, 05 Nov 2024 15:01:15 \
                 GMT\r\nX-Ms-Version: 2023-11-03\r\nAuthorization: Bearer token\r\n\r\n\r\n"
            );
        }
        body += "--batch_x--\r\n";
        let uri = "https://account.blob.core.windows.net/container/?restype=container&comp=batch";
        let mut request = Request::new(HttpRequestBody::from(body));
        (*request.method_mut(), *request.uri_mut()) = (Method::POST, uri.parse().unwrap());
        request
    }

    #[test]
    fn a_batch_of_one_is_the_deletion_in_it() {
        let deletion = taken_out(&batch(&["/container/a%20b?sig=x"])).unwrap();
        assert_eq!(deletion.method(), Method::DELETE);
        assert_eq!(deletion.uri(), "https://account.blob.core.windows.net/container/a%20b?sig=x");
        assert_eq!(deletion.headers()["authorization"], "Bearer token");
        assert_eq!(deletion.headers()["date"], "Tue, 05 Nov 2024 15:01:15 GMT");
        assert_eq!(deletion.headers().len(), 4);
        assert!(deletion.headers()["authorization"].is_sensitive() && deletion.body().is_empty());
    }

    #[test]
    fn every_other_request_is_sent_as_it_is() {
        let (one, other_place) = ("/container/a", "/elsewhere/a");
        assert!(taken_out(&batch(&[])).is_none() && taken_out(&batch(&[one, "/container/b"])).is_none());
        assert!(taken_out(&batch(&[one])).is_some() && taken_out(&batch(&[other_place])).is_none());
        let mut other = batch(&[one]);
        *other.uri_mut() = "https://account.blob.core.windows.net/container/a?comp=block".parse().unwrap();
        assert!(taken_out(&other).is_none());
        let mut other = batch(&[one]);
        *other.method_mut() = Method::PUT;
        assert!(taken_out(&other).is_none());
    }

    #[test]
    fn what_became_of_the_object_is_told_as_in_a_batch_and_other_trouble_as_it_is() {
        let answer = |status: u16| {
            let mut answer = HttpResponse::new(HttpResponseBody::from(Bytes::new()));
            *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
            put_back(answer)
        };
        for status in [202, 404] {
            let answer = answer(status);
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()[CONTENT_TYPE]),
                (202, &HeaderValue::from_static("multipart/mixed; boundary=single"))
            );
        }
        for status in [401, 403, 429, 503] {
            assert_eq!(answer(status).status().as_u16(), status);
        }
    }
}
