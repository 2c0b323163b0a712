//! The client's half of the opening handshake (RFC 6455, section 4.1).

use super::{Frames, SUBPROTOCOL};
use async_tungstenite::tungstenite::handshake::client::{Response, generate_key};
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::handshake::machine::TryParse;
use async_tungstenite::tungstenite::http::header;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use std::fmt;
use std::io;

/// Longest answer to the handshake, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1_024;

/// Why there is no WebSocket.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection broke.
    Io(io::Error),
    /// The server answered with this status and words.
    Status(u16, String),
    /// The answer is not that of a WebSocket server, or not of one that speaks frames.
    Answer(&'static str),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Status(status, words) if words.is_empty() => write!(f, "the server answered {status}"),
            Self::Status(status, words) => write!(f, "the server answered {status}: {words}"),
            Self::Answer(what) => write!(f, "not a broker's WebSocket: {what}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a WebSocket for frames over a connected stream. `host` is the header's value, with its port unless that is the
/// scheme's; `path` is [`super::PATH`] unless a proxy says otherwise. The caller bounds the time.
///
/// # Errors
/// [`HandshakeError`].
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    path: &str,
    frame_bytes_max: u32,
) -> Result<Frames<S>, HandshakeError> {
    let key = generate_key();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::with_capacity(1_024);
    let (len, response) = loop {
        match Response::try_parse(&answer) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) if answer.len() < ANSWER_BYTES_MAX => {}
            Ok(None) => return Err(HandshakeError::Answer("its answer has no end")),
            Err(_) => return Err(HandshakeError::Answer("its answer is no HTTP")),
        }
        let start = answer.len();
        answer.resize(start + 1_024, 0);
        let n = stream.read(&mut answer[start..]).await?;
        answer.truncate(start + n);
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    let rest = answer.split_off(len);
    let status = response.status().as_u16();
    if status != 101 {
        return Err(HandshakeError::Status(status, words(&rest)));
    }
    let is = |name, value: &str| {
        response.headers().get(name).is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
    };
    if !is(header::UPGRADE, "websocket") || !is(header::CONNECTION, "upgrade") {
        return Err(HandshakeError::Answer("it does not upgrade"));
    }
    let accept = derive_accept_key(key.as_bytes());
    if response.headers().get(header::SEC_WEBSOCKET_ACCEPT).is_none_or(|found| found.as_bytes() != accept.as_bytes()) {
        return Err(HandshakeError::Answer("it did not read the key"));
    }
    if !is(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(HandshakeError::Answer("it does not speak tidegate.v1"));
    }
    Ok(Frames::client(stream, rest, frame_bytes_max))
}

/// The first line of what came behind the head, as far as it is text.
fn words(rest: &[u8]) -> String {
    let text = String::from_utf8_lossy(&rest[..rest.len().min(256)]);
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}
