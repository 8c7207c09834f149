//! What the proxy knows of HTTP/1.1: heads, and where bodies end.

use std::error::Error;
use std::io::{self, BufRead, ErrorKind, Read};

/// Longer heads are refused.
const MAX_HEAD_BYTES: u64 = 64 << 10;

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    fn of(headers: &[httparse::Header<'_>], otherwise: Self) -> io::Result<Self> {
        if has_token(headers, "transfer-encoding", "chunked") {
            return Ok(Self::Chunked);
        }
        let Some(length) = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length")) else {
            return Ok(otherwise);
        };
        let length = std::str::from_utf8(length.value).ok().and_then(|text| text.trim().parse().ok());
        length.map(Self::Length).ok_or_else(|| invalid("a length that is no number"))
    }
}

fn invalid(what: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    let values = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value);
    values
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn keeps_alive(version: Option<u8>, headers: &[httparse::Header<'_>]) -> bool {
    match version {
        Some(1) => !has_token(headers, "connection", "close"),
        _ => has_token(headers, "connection", "keep-alive"),
    }
}

/// Reads up to the empty line that ends a head. There is no head where the other side has closed the connection.
pub(super) fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let line_start = head.len();
        reader.by_ref().take(MAX_HEAD_BYTES - head.len() as u64).read_until(b'\n', &mut head)?;
        match &head[line_start..] {
            [] if head.is_empty() => return Ok(None),
            b"\r\n" | b"\n" if line_start > 0 => return Ok(Some(head)),
            // some clients send an empty line after a body
            b"\r\n" | b"\n" => head.clear(),
            [.., b'\n'] => {}
            _ => return Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The head of a request.
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) framing: Framing,
    pub(super) keeps_alive: bool,
    pub(super) expects_continue: bool,
}

impl Head {
    pub(super) fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(&bytes).map_err(invalid)?;
        Ok(Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            framing: Framing::of(request.headers, Framing::Length(0))?,
            keeps_alive: keeps_alive(request.version, request.headers),
            expects_continue: has_token(request.headers, "expect", "100-continue"),
            bytes,
        })
    }
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    reason: String,
    headers: Vec<(String, Vec<u8>)>,
    pub(super) framing: Framing,
    pub(super) keeps_alive: bool,
}

impl Answer {
    pub(super) fn parse(bytes: &[u8], method: &str) -> io::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(bytes).map_err(invalid)?;
        let status = response.code.unwrap_or_default();
        let framing = if is_bodiless(method, status) {
            Framing::Length(0)
        } else {
            Framing::of(response.headers, Framing::UntilClose)?
        };
        Ok(Self {
            status,
            reason: response.reason.unwrap_or_default().to_owned(),
            headers: response.headers.iter().map(|header| (header.name.to_owned(), header.value.to_owned())).collect(),
            framing,
            keeps_alive: keeps_alive(response.version, response.headers),
        })
    }

    /// Makes an error like those of S3, with its body.
    pub(super) fn error(method: &str, status: u16) -> (Self, Vec<u8>) {
        let code = match status {
            403 => "AccessDenied",
            404 => "NoSuchKey",
            408 => "RequestTimeout",
            429 => "TooManyRequests",
            500 => "InternalError",
            503 => "SlowDown",
            _ => "Error",
        };
        let body = if is_bodiless(method, status) {
            String::new()
        } else {
            format!("<Error><Code>{code}</Code><Message>It is the network's fault.</Message></Error>")
        };
        let headers = vec![
            ("Content-Type".to_owned(), b"application/xml".to_vec()),
            ("Content-Length".to_owned(), body.len().to_string().into_bytes()),
        ];
        let framing = Framing::Length(body.len() as u64);
        (Self { status, reason: code.to_owned(), headers, framing, keeps_alive: true }, body.into_bytes())
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.headers.retain(|(name, _)| {
            !["content-length", "transfer-encoding", "trailer"].contains(&name.to_ascii_lowercase().as_str())
        });
        self.headers.push(("Content-Length".to_owned(), length.to_string().into_bytes()));
        self.framing = Framing::Length(length as u64);
    }

    /// Returns the head for the client, whose connection may go on where the server's does not.
    pub(super) fn bytes(&self, closes: bool) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} {}\r\n", self.status, self.reason).into_bytes();
        for (name, value) in &self.headers {
            if !["connection", "keep-alive"].contains(&name.to_ascii_lowercase().as_str()) {
                bytes.extend_from_slice(name.as_bytes());
                bytes.extend_from_slice(b": ");
                bytes.extend_from_slice(value);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes.extend_from_slice(if closes { b"Connection: close\r\n\r\n" } else { b"\r\n" });
        bytes
    }
}

fn is_bodiless(method: &str, status: u16) -> bool {
    method == "HEAD" || status < 200 || [204, 304].contains(&status)
}

/// Takes bytes as they are on the wire, and how many of them are content.
pub(super) type Take<'a> = &'a mut dyn FnMut(&[u8], usize) -> io::Result<()>;

/// Hands a body over piece by piece, each one as large as what the reader has.
pub(super) fn each_piece(reader: &mut impl BufRead, framing: Framing, take: Take<'_>) -> io::Result<()> {
    let mut left = match framing {
        Framing::Length(length) => length,
        Framing::UntilClose => u64::MAX,
        Framing::Chunked => return each_chunk(reader, take),
    };
    while left > 0 {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return if framing == Framing::UntilClose { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(available.len());
        take(&available[..count], count)?;
        reader.consume(count);
        left -= count as u64;
    }
    Ok(())
}

fn each_chunk(reader: &mut impl BufRead, take: Take<'_>) -> io::Result<()> {
    loop {
        let size = take_line(reader, take)?;
        let Ok(httparse::Status::Complete((_, length))) = httparse::parse_chunk_size(&size) else {
            return Err(invalid("a chunk without its size"));
        };
        if length == 0 {
            // trailers, and the empty line after them
            while !take_line(reader, take)?.trim_ascii().is_empty() {}
            return Ok(());
        }
        each_piece(reader, Framing::Length(length), take)?;
        take_line(reader, take)?;
    }
}

fn take_line(reader: &mut impl BufRead, take: Take<'_>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(MAX_HEAD_BYTES).read_until(b'\n', &mut line)?;
    take(&line, 0)?;
    if line.ends_with(b"\n") { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
}
