//! One WebSocket: frames in and out through channels, so that neither direction waits for the other.

use crate::dial::{Dialer, Stream};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use rejoin_sync::frame::{Code, Fault, Frame};
use rejoin_wire::limits::FRAME_BYTES_MAX;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

const SUBPROTOCOL: &str = "rejoin.v1";
/// How long the server may take to make a WebSocket of the connection.
const UPGRADE: std::time::Duration = std::time::Duration::from_secs(20);
/// Messages that wait for the driver; the rest waits in the socket.
const WAITING: usize = 32;

type Socket = WebSocketStream<Box<dyn Stream>>;

pub enum Heard {
    Frame(Vec<u8>),
    Closed(String),
}

pub struct Connection {
    out: mpsc::UnboundedSender<Vec<u8>>,
    pub heard: mpsc::Receiver<Heard>,
    reader: AbortHandle,
}

/// Why there is no connection.
pub enum NoConnection {
    Unreachable(String),
    /// The server was reached, and refuses, in the words of the protocol.
    Refused(Fault),
}

impl Connection {
    pub async fn open(dialer: &Dialer) -> Result<Connection, NoConnection> {
        let stream = dialer.dial().await.map_err(NoConnection::Unreachable)?;
        match tokio::time::timeout(UPGRADE, upgrade(dialer, stream)).await {
            Ok(socket) => Ok(Connection::new(socket?)),
            Err(_) => Err(NoConnection::Unreachable(format!("{} does not answer", dialer.url()))),
        }
    }

    fn new(socket: Socket) -> Connection {
        let (sink, stream) = socket.split();
        let (out, frames) = mpsc::unbounded_channel();
        let (told, heard) = mpsc::channel(WAITING);
        tokio::spawn(write(sink, frames));
        let reader = tokio::spawn(read(stream, told)).abort_handle();
        Connection { out, heard, reader }
    }

    /// What is sent ahead is bounded by the credit of the server.
    pub fn send(&self, frame: Vec<u8>) {
        // If the writer has ended, the reader has more to say about it.
        let _ = self.out.send(frame);
    }
}

/// What was sent is still written.
impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn upgrade(dialer: &Dialer, stream: Box<dyn Stream>) -> Result<Socket, NoConnection> {
    let unreachable = |e: Error| NoConnection::Unreachable(format!("{}: {e}", dialer.url()));
    let mut request = dialer.url().to_string().into_client_request().map_err(unreachable)?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(refusal(&response)),
        Err(e) => Err(unreachable(e)),
    }
}

fn refusal(response: &Response<Option<Vec<u8>>>) -> NoConnection {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let status = response.status();
    let message = match body.trim() {
        "" => "nothing more is said".to_owned(),
        text => text.chars().take(500).collect(),
    };
    let seconds = header("retry-after").and_then(|s| s.parse::<u32>().ok());
    match header("rejoin-code").and_then(code) {
        Some(code) => {
            let retry_after_ms = seconds.map(|s| s.saturating_mul(1000));
            NoConnection::Refused(Fault { code, message, retry_after_ms })
        }
        // A proxy, or something else altogether.
        None => {
            NoConnection::Unreachable(format!("no Rejoin server answers there, but HTTP {status}: {message}"))
        }
    }
}

/// The code of an HTTP answer, by its name in `docs/protocol.md`.
pub fn code(name: &str) -> Option<Code> {
    (0..=u8::MAX)
        .map_while(|n| match Frame::decode(&[17, n, 0, 0], 4) {
            Ok(Frame::Fault(fault)) => Some(fault.code),
            _ => None,
        })
        .find(|code| format!("{code:?}") == name)
}

async fn write(mut sink: SplitSink<Socket, Message>, mut frames: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if sink.feed(Message::Binary(frame.into())).await.is_err() {
            return;
        }
        // What is there already goes out together.
        while let Ok(frame) = frames.try_recv() {
            if sink.feed(Message::Binary(frame.into())).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), sink.close()).await;
}

async fn read(mut stream: SplitStream<Socket>, told: mpsc::Sender<Heard>) {
    let why = loop {
        match stream.next().await {
            Some(Ok(Message::Binary(frame))) => {
                if told.send(Heard::Frame(frame.into())).await.is_err() {
                    return;
                }
            }
            Some(Ok(Message::Text(_))) => break "the server sent text where frames are due".to_owned(),
            Some(Ok(Message::Close(_))) | None => break "the server closed the connection".to_owned(),
            Some(Ok(_)) => {}
            Some(Err(e)) => break format!("the connection was lost: {e}"),
        }
    };
    let _ = told.send(Heard::Closed(why)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_name() {
        assert_eq!(code("Protocol"), Some(Code::Protocol));
        assert_eq!(code("NoRoom"), Some(Code::NoRoom));
        assert_eq!(code("Internal"), Some(Code::Internal));
        assert_eq!(code("Nonsense"), None);
    }
}
