//! Just enough of HTTP/1.1 over a socket: what goes over the wire is in the tests' hands.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer in one piece.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The error's message; the answer must have this status and OpenAI's shape.
    pub fn refused(&self, status: u16, param: Option<&str>) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let error = &self.json()["error"];
        assert_eq!(error["param"].as_str(), param, "{error}");
        assert!(
            error["type"].is_string() && error.as_object().is_some_and(|e| e.contains_key("code")),
            "{error}"
        );
        let message = error["message"].as_str().expect("a message").to_owned();
        assert!(!message.contains('\n'), "{message}");
        message
    }
}

/// Sends a request; the socket and what was said about the body.
fn open(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(at).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).expect("sent");
    // A server that refuses early may have closed before the body is through.
    let _ = socket.write_all(body);
    BufReader::new(socket)
}

fn head(socket: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    socket.read_line(&mut line).expect("a status line");
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
    let mut headers = vec![];
    loop {
        line.clear();
        socket.read_line(&mut line).expect("headers");
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => return (status, headers),
        }
    }
}

/// One chunk of a chunked body; `None` at its end.
fn chunk(socket: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    socket.read_line(&mut line).expect("a chunk's size");
    let size = usize::from_str_radix(line.trim(), 16).ok().filter(|&n| n > 0)?;
    let mut data = vec![0; size + 2];
    socket.read_exact(&mut data).expect("a chunk");
    data.truncate(size);
    Some(data)
}

pub fn send(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut socket = open(at, method, path, headers, body);
    let (status, headers) = head(&mut socket);
    let mut bytes = vec![];
    if headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked") {
        while let Some(data) = chunk(&mut socket) {
            bytes.extend(data);
        }
    } else {
        socket.read_to_end(&mut bytes).expect("a body");
    }
    Reply { status, headers, body: String::from_utf8(bytes).expect("UTF-8") }
}

pub fn get(at: SocketAddr, path: &str) -> Reply {
    send(at, "GET", path, &[], b"")
}

const JSON: (&str, &str) = ("content-type", "application/json");

pub fn post(at: SocketAddr, path: &str, body: &Value) -> Reply {
    send(at, "POST", path, &[JSON], body.to_string().as_bytes())
}

/// A stream of server-sent events: the `data` of each. Dropping it closes the connection.
pub struct Events {
    socket: BufReader<TcpStream>,
    text: String,
}

pub fn stream(at: SocketAddr, path: &str, body: &Value) -> Events {
    let mut socket = open(at, "POST", path, &[JSON], body.to_string().as_bytes());
    let (status, headers) = head(&mut socket);
    assert_eq!(status, 200, "{:?}", chunk(&mut socket).map(String::from_utf8));
    assert!(headers.contains(&("content-type".into(), "text/event-stream".into())), "{headers:?}");
    Events { socket, text: String::new() }
}

impl Iterator for Events {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.strip_prefix("data: ").expect("data").to_owned();
                self.text = rest.to_owned();
                return Some(data);
            }
            self.text.push_str(&String::from_utf8(chunk(&mut self.socket)?).expect("UTF-8"));
        }
    }
}

impl Events {
    /// All chunks; the stream has to end with [DONE].
    pub fn chunks(self) -> Vec<Value> {
        let mut all: Vec<String> = self.collect();
        assert_eq!(all.pop().as_deref(), Some("[DONE]"));
        all.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }
}
