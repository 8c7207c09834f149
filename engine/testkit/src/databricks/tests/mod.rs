//! Behaviour of a fake workspace, over real connections.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::{FakeOptions, FakeWorkspace};

mod access;
mod beside;
mod faults;
mod objects;

/// What a request was answered with.
#[derive(Debug)]
struct Reply {
    status: u16,
    /// With names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?} is no JSON"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns status and error code.
    fn error(&self) -> (u16, String) {
        (self.status, self.json()["error_code"].as_str().unwrap_or("none").to_owned())
    }

    fn is_cut(&self) -> bool {
        self.header("content-length").is_some_and(|length| length != self.body.len().to_string())
    }
}

fn started(options: FakeOptions) -> FakeWorkspace {
    FakeWorkspace::start(options)
}

fn workspace() -> FakeWorkspace {
    started(FakeOptions::default())
}

/// Sends a request with these headers and no others but those that it must have.
fn ask_with(workspace: &FakeWorkspace, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let url = workspace.url();
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: fake\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    // a connection that is cut may end in an error
    let _end = stream.read_to_end(&mut answer);
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let length = response.parse(&answer).unwrap().unwrap();
    Reply {
        status: response.code.unwrap(),
        headers: response
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8(header.value.to_vec()).unwrap()))
            .collect(),
        body: answer[length..].to_vec(),
    }
}

/// Sends a request with the token of the workspace.
fn ask(workspace: &FakeWorkspace, method: &str, target: &str, body: &[u8]) -> Reply {
    let authorization = format!("Bearer {}", workspace.token());
    ask_with(workspace, method, target, &[("Authorization", &authorization)], body)
}

fn get(workspace: &FakeWorkspace, target: &str) -> Reply {
    ask(workspace, "GET", target, b"")
}

fn post(workspace: &FakeWorkspace, target: &str, body: Value) -> Reply {
    ask(workspace, "POST", target, body.to_string().as_bytes())
}

/// Follows the pages of a listing. Returns how many entries each of them has.
fn page_sizes(workspace: &FakeWorkspace, target: &str, name: &str) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut next = target.to_owned();
    loop {
        let page = get(workspace, &next).json();
        sizes.push(page.get(name).map_or(0, |entries| entries.as_array().unwrap().len()));
        let Some(token) = page.get("next_page_token") else {
            return sizes;
        };
        let token = percent_encoding::utf8_percent_encode(token.as_str().unwrap(), percent_encoding::NON_ALPHANUMERIC);
        next = format!("{target}{}page_token={token}", if target.contains('?') { "&" } else { "?" });
    }
}
