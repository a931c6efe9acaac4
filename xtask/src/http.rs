//! Just enough HTTP/1.1 to check a running server: one request per connection, answers whole or line by line.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A server that says nothing for this long has lost the request.
const SILENCE: Duration = Duration::from_secs(120);

/// An answer whose body is still to be read. Dropping it closes the connection.
pub struct Answer {
    pub status: u16,
    chunked: bool,
    ended: bool,
    socket: BufReader<TcpStream>,
    /// What was read of the next line.
    held: Vec<u8>,
}

/// Sends a request to `at` (host and port): a POST if there is a body.
pub fn send(at: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
    let mut socket = TcpStream::connect(at).with_context(|| format!("{at}: no connection"))?;
    socket.set_read_timeout(Some(SILENCE))?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n");
    let kind = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all((head + &kind + &body).as_bytes())?;
    let mut answer =
        Answer { status: 0, chunked: false, ended: false, socket: BufReader::new(socket), held: Vec::new() };
    let line = answer.wire_line()?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
    answer.status = status.with_context(|| format!("got {line:?}, want an HTTP status"))?;
    loop {
        let line = answer.wire_line()?.to_ascii_lowercase();
        if line.is_empty() {
            return Ok(answer);
        }
        answer.chunked |= line == "transfer-encoding: chunked";
    }
}

/// The text of a GET that has to be answered by 200.
pub fn get(at: &str, path: &str) -> Result<String> {
    send(at, path, None)?.ok()
}

impl Answer {
    fn wire_line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.socket.read_line(&mut line)? == 0 {
            bail!("got a closed connection, want the rest of the answer");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads some of the body; false at its end.
    fn more(&mut self) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let mut bytes = vec![0; 16 << 10];
        if self.chunked {
            let size = self.wire_line()?;
            let size =
                usize::from_str_radix(&size, 16).with_context(|| format!("a chunk of {size:?} bytes"))?;
            bytes.resize(size + 2, 0);
            self.socket.read_exact(&mut bytes)?;
            bytes.truncate(size);
        } else {
            let n = self.socket.read(&mut bytes)?;
            bytes.truncate(n);
        }
        self.ended = bytes.is_empty();
        self.held.extend(bytes);
        Ok(!self.ended)
    }

    /// The next line of the body.
    pub fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.held.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.held.drain(..=at).collect();
                return Ok(Some(String::from_utf8(line)?.trim_end().to_owned()));
            }
            if !self.more()? {
                let rest = std::mem::take(&mut self.held);
                return Ok((!rest.is_empty()).then(|| String::from_utf8(rest)).transpose()?);
            }
        }
    }

    /// The data of the next server-sent event; `None` at the end of the body.
    pub fn event(&mut self) -> Result<Option<String>> {
        while let Some(line) = self.line()? {
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(Some(data.to_owned()));
            }
        }
        Ok(None)
    }

    /// The rest of the body; any status but 200 is an error.
    pub fn ok(mut self) -> Result<String> {
        while self.more()? {}
        let text = String::from_utf8(std::mem::take(&mut self.held))?;
        match self.status {
            200 => Ok(text),
            status => bail!("got {status} {}, want 200", text.trim()),
        }
    }
}
