//! HTTP/2 written by hand, frame by frame.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::timeout;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Each field as a literal that nobody indexes, as it is written.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat()).collect()
}

pub fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    // An integer with a prefix of seven bits.
    if text.len() < 127 {
        out.push(text.len() as u8);
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text.as_bytes());
    out
}

/// The client's end of a connection: what it is to send, and all that came back.
pub struct Talk {
    reader: OwnedReadHalf,
    ahead: Vec<u8>,
    writer: Option<tokio::net::tcp::OwnedWriteHalf>,
    /// How long it waits for the first word.
    pub patience: Duration,
}

#[derive(Debug, Default)]
pub struct Heard {
    /// `:status` by stream.
    pub statuses: Vec<(u32, u16)>,
    pub resets: Vec<(u32, u32)>,
    pub goaway: Option<u32>,
    pub data: Vec<u8>,
    pub pongs: usize,
    pub closed: bool,
}

impl Talk {
    pub async fn open(to: SocketAddr, settings: &[u8]) -> Self {
        let (reader, mut writer) = TcpStream::connect(to).await.unwrap().into_split();
        writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        writer.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        writer.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
        Self { reader, ahead: Vec::new(), writer: Some(writer), patience: Duration::ZERO }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.write_all(bytes).await,
            // A flood has it.
            None => Ok(()),
        }
    }

    /// Sends all of it beside listening, however much it is.
    pub fn flood(&mut self, frames: impl Iterator<Item = Vec<u8>> + Send + 'static) {
        let mut writer = self.writer.take().unwrap();
        tokio::spawn(async move {
            let mut frames = frames.peekable();
            while frames.peek().is_some() {
                let bytes: Vec<u8> = frames.by_ref().take(256).flatten().collect();
                // The edge has heard enough.
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        });
    }

    /// Listens until the connection ends, or is quiet for so long once something was said at all.
    pub async fn hear(&mut self, quiet: Duration) -> Heard {
        let mut heard = Heard::default();
        loop {
            let patience = if heard.is_empty() { quiet.max(self.patience) } else { quiet };
            match timeout(patience, self.next()).await {
                Ok(Ok((PING, flags, 0, payload))) if flags & ACK == 0 => {
                    let _ = self.send(&frame(PING, ACK, 0, &payload)).await;
                }
                Ok(Ok((kind, flags, stream, payload))) => heard.take(kind, flags, stream, &payload),
                Ok(Err(_)) => {
                    heard.closed = true;
                    return heard;
                }
                Err(_) => return heard,
            }
        }
    }

    async fn next(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        while self.ahead.len() < 9 {
            self.more().await?;
        }
        let length = u32::from_be_bytes([0, self.ahead[0], self.ahead[1], self.ahead[2]]) as usize;
        while self.ahead.len() < 9 + length {
            self.more().await?;
        }
        let frame: Vec<u8> = self.ahead.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
        Ok((frame[3], frame[4], stream, frame[9..].to_vec()))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.reader.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Heard {
    fn is_empty(&self) -> bool {
        self.statuses.is_empty() && self.resets.is_empty() && self.goaway.is_none()
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            HEADERS => self.statuses.push((stream, status(payload))),
            DATA => self.data.extend_from_slice(payload),
            RST_STREAM => self.resets.push((stream, code(0))),
            GOAWAY => self.goaway = Some(code(4)),
            PING if flags & ACK != 0 => self.pongs += 1,
            _ => {}
        }
    }

    /// What became of it, in few words.
    pub fn outcome(&self) -> String {
        let mut told: Vec<String> = self.statuses.iter().map(|(_, status)| status.to_string()).collect();
        let code =
            self.data.windows(8).position(|bytes| bytes == b"\"code\":\"").map(|at| &self.data[at + 8..]);
        if let Some(code) = code.and_then(|code| code.split(|byte| *byte == b'"').next()) {
            told.push(format!("`{}`", String::from_utf8_lossy(code)));
        }
        told.extend(self.resets.iter().map(|(_, code)| format!("RST_STREAM {}", reason(*code))));
        told.extend(self.goaway.iter().map(|code| format!("GOAWAY {}", reason(*code))));
        let told = if told.is_empty() { "no answer".to_owned() } else { told.join(", ") };
        format!("{told} | {}", if self.closed { "closed" } else { "open" })
    }
}

fn reason(code: u32) -> String {
    format!("{:?}", h2::Reason::from(code))
}

/// The first field of an answer, by the static table or in Huffman's digits.
fn status(block: &[u8]) -> u16 {
    let block = match block {
        // A change of the table's size may stand in front.
        [size, rest @ ..] if size & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [_, length, rest @ ..] if length & 0x80 != 0 => {
            let bits: Vec<u8> = rest[..usize::from(length & 0x7f)]
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
                .collect();
            let number = |bits: &[u8]| bits.iter().fold(0_u16, |sum, bit| sum * 2 + u16::from(*bit));
            let (mut at, mut status) = (0, 0);
            for _ in 0..3 {
                let short = number(&bits[at..at + 5]);
                let (digit, length) =
                    if short < 3 { (short, 5) } else { (number(&bits[at..at + 6]) - 0x19 + 3, 6) };
                status = status * 10 + digit;
                at += length;
            }
            status
        }
        [_, 3, rest @ ..] => std::str::from_utf8(&rest[..3]).unwrap().parse().unwrap(),
        other => panic!("no status in {other:?}"),
    }
}
