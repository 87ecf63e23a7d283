//! A client that writes its HTTP/1.1 by hand, since no library would send what an attacker sends, nor tell what became
//! of each connection.

use crate::intent::key;
use crate::world::body;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n") || self.head.contains("\r\nConnection: close\r\n")
    }

    /// What an SDK would see of an error.
    pub fn code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let error = body.get("error")?;
        let is_whole = ["message", "type", "param", "code"].iter().all(|field| error.get(field).is_some());
        is_whole.then(|| error["code"].as_str().map(str::to_owned))?
    }
}

/// The fields that every honest request has, without those that say how long it is.
pub fn fields() -> String {
    format!(
        "host: test\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        key("anyone").reveal()
    )
}

/// A whole request to the model.
pub fn request(options: &str) -> Vec<u8> {
    let (fields, body) = (fields(), body(options));
    format!("POST /v1/chat/completions HTTP/1.1\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())
        .into()
}

pub struct Connection {
    pub stream: TcpStream,
    ahead: Vec<u8>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    pub async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request).await?;
        self.answer().await
    }

    /// The next answer. An end before it is complete is an error.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.ahead.drain(..end).collect()).unwrap();
        let status = head[9..12].parse().unwrap();
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = match length {
            Some(length) => self.exactly(length.parse().unwrap()).await?,
            None if lower.contains("transfer-encoding: chunked") => self.chunks().await?,
            None => Vec::new(),
        };
        Ok(Answer { status, head, body })
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            self.more().await?;
        }
        Ok(self.ahead.drain(..length).collect())
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = self.ahead.windows(2).position(|bytes| bytes == b"\r\n") {
                    break at;
                }
                self.more().await?;
            };
            let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
            let length = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
            let chunk = self.exactly(length + 2).await?;
            if length == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Whether the other end closes within this time, whatever it says before.
pub async fn closes_within(stream: &mut (impl AsyncRead + Unpin), time: Duration) -> bool {
    let mut ignored = [0; 4096];
    let end = async { while let Ok(1..) = stream.read(&mut ignored).await {} };
    tokio::time::timeout(time, end).await.is_ok()
}
