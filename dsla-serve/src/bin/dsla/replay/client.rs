//! The little HTTP/1.1 that a load generator needs: one request per connection, answers whole or line by line.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longest line or chunk taken from a server.
const MOST: u64 = 64 << 20;

/// Where the server is: `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Host and port.
    authority: String,
    /// What all paths begin with, without the last slash.
    prefix: String,
    pub api_key: Option<String>,
}

impl Target {
    pub fn parse(url: &str) -> Result<Target> {
        let Some(rest) = url.strip_prefix("http://").filter(|r| !r.is_empty() && !r.starts_with('/')) else {
            bail!("URL: got {url:?}, want http://HOST:PORT (no TLS: put it behind a tunnel)");
        };
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let bare = !authority.rsplit(']').next().unwrap_or_default().contains(':');
        let authority = if bare { format!("{authority}:80") } else { authority.to_owned() };
        // Clients of OpenAI's API are given the URL with /v1: the paths here begin with it.
        let prefix = prefix.trim_end_matches('/');
        let prefix = prefix.strip_suffix("/v1").unwrap_or(prefix).to_owned();
        Ok(Target { authority, prefix, api_key: None })
    }

    /// Sends a request: a POST if there is a body.
    pub async fn send(&self, path: &str, body: Option<&Value>) -> Result<Answer> {
        let what = || format!("http://{}{}{path}", self.authority, self.prefix);
        let socket = TcpStream::connect(&self.authority).await.with_context(what)?;
        socket.set_nodelay(true)?;
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!(
            "{method} {}{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
            self.prefix, self.authority
        );
        if !body.is_empty() {
            head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        if let Some(key) = &self.api_key {
            head.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        let mut socket = BufReader::new(socket);
        // In one piece: many small requests would otherwise wait for acknowledgements.
        socket.write_all((head + "\r\n" + &body).as_bytes()).await.with_context(what)?;
        let mut answer = Answer { socket, status: 0, left: Left::Close, line: Vec::new() };
        answer.head().await.with_context(what)?;
        Ok(answer)
    }

    /// A GET's or POST's JSON.
    pub async fn json(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut answer = self.send(path, body).await?;
        let (status, text) = (answer.status, answer.text().await?);
        if status != 200 {
            bail!("http://{}{}{path}: got {status} {}, want 200", self.authority, self.prefix, text.trim());
        }
        serde_json::from_str(&text).with_context(|| format!("{path}: got no JSON"))
    }
}

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// Until the server closes.
    Close,
    /// Bytes.
    Length(usize),
    /// Bytes of the chunk that is being read.
    Chunk(usize),
    End,
}

/// An answer whose body is still to be read.
pub struct Answer {
    socket: BufReader<TcpStream>,
    pub status: u16,
    left: Left,
    /// What was read of the next line.
    line: Vec<u8>,
}

impl Answer {
    async fn wire_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        (&mut self.socket).take(MOST).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            bail!("got a closed connection, want an answer");
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn head(&mut self) -> Result<()> {
        let line = self.wire_line().await?;
        let status = line.strip_prefix("HTTP/1.").and_then(|l| l.split(' ').nth(1)?.parse().ok());
        self.status = status.with_context(|| format!("got {line:?}, want an HTTP status"))?;
        loop {
            let line = self.wire_line().await?;
            let Some((name, value)) = line.split_once(':') else { return Ok(()) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => self.left = Left::Length(value.trim().parse()?),
                "transfer-encoding" if value.trim() == "chunked" => self.left = Left::Chunk(0),
                _ => {}
            }
        }
    }

    /// Reads some bytes of the body into `line`; false at its end.
    async fn more(&mut self) -> Result<bool> {
        let most = match self.left {
            Left::End | Left::Length(0) => return Ok(false),
            Left::Close => usize::MAX,
            Left::Length(n) => n,
            Left::Chunk(0) => {
                let mut size = self.wire_line().await?;
                if size.is_empty() {
                    // The line end behind the chunk before.
                    size = self.wire_line().await?;
                }
                let n = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)?;
                if n == 0 {
                    self.left = Left::End;
                    return Ok(false);
                }
                n
            }
            Left::Chunk(n) => n,
        };
        let have = self.socket.fill_buf().await?;
        let n = have.len().min(most);
        self.line.extend_from_slice(&have[..n]);
        self.socket.consume(n);
        if n == 0 {
            return match self.left {
                Left::Close => Ok(false),
                _ => bail!("got a closed connection, want the rest of the answer"),
            };
        }
        self.left = match self.left {
            Left::Length(_) => Left::Length(most - n),
            Left::Chunk(_) => Left::Chunk(most - n),
            other => other,
        };
        Ok(true)
    }

    /// The next line of the body.
    pub async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.line.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.line.drain(..=at).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.line.len() as u64 > MOST {
                bail!("got a line above {MOST} bytes, want shorter ones");
            }
            if !self.more().await? {
                let rest = std::mem::take(&mut self.line);
                return Ok((!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned()));
            }
        }
    }

    /// The rest of the body.
    pub async fn text(&mut self) -> Result<String> {
        let mut out = String::new();
        while let Some(line) = self.line().await? {
            out.push_str(&line);
            out.push('\n');
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parse = |url| Target::parse(url).map(|t| (t.authority, t.prefix)).map_err(|e| e.to_string());
        let two = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(parse("http://localhost"), two("localhost:80", ""));
        assert_eq!(parse("http://127.0.0.1:8080/"), two("127.0.0.1:8080", ""));
        assert_eq!(parse("http://127.0.0.1:8080/v1"), two("127.0.0.1:8080", ""));
        assert_eq!(parse("http://[::1]/llm/v1/"), two("[::1]:80", "/llm"));
        for wrong in ["https://x", "localhost:8080", "http://", "http:///v1"] {
            assert!(parse(wrong).is_err_and(|e| e.contains("want http://HOST:PORT")), "{wrong}");
        }
    }
}
