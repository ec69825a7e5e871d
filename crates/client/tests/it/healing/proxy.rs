//! A line between client and server on which frames get lost, come twice, in another order, or in part.

use crate::util::Dice;
use futures_util::{SinkExt, Stream, StreamExt};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("rejoin.v1");

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Twice,
    /// It comes after the next one.
    Late,
    /// Only its first half comes, as if it were all.
    Half,
}

/// Passes frames on, and one in `one_in` suffers a fate, until that has happened so many times.
pub struct Proxy {
    pub address: SocketAddr,
    left: Arc<AtomicU64>,
    _runtime: Runtime,
}

struct Line {
    fate: Fate,
    one_in: u64,
    left: Arc<AtomicU64>,
    dice: Mutex<Dice>,
}

impl Proxy {
    pub fn start(server: SocketAddr, fate: Fate, one_in: u64, times: u64) -> Proxy {
        let runtime = threads();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let left = Arc::new(AtomicU64::new(times));
        let line = Arc::new(Line { fate, one_in, left: left.clone(), dice: Mutex::new(Dice::new()) });
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Whatever ends a connection is of no interest: that is what connections do here.
                tokio::spawn(connect(client, server, line.clone()));
            }
        });
        Proxy { address, left, _runtime: runtime }
    }

    pub fn url(&self, room: &str) -> String {
        format!("ws://{}/{room}", self.address)
    }

    /// It happens so many times more.
    pub fn set_times(&self, times: u64) {
        self.left.store(times, Ordering::SeqCst);
    }

    pub fn is_done(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

/// Passes bytes on; each connection ends after some more bytes than the one before, wherever in a frame that is.
pub fn cutting(server: SocketAddr, step: u64) -> (SocketAddr, Runtime, Arc<AtomicU64>) {
    let runtime = threads();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicU64::new(0));
    let count = connections.clone();
    runtime.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let most = (count.fetch_add(1, Ordering::SeqCst) + 1) * step;
            tokio::spawn(async move {
                let server = TcpStream::connect(server).await?;
                let ((from_client, mut to_client), (from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let (mut from_client, mut from_server) = (from_client.take(most), from_server.take(most));
                // The first direction that has had its bytes ends both.
                tokio::select! {
                    done = tokio::io::copy(&mut from_client, &mut to_server) => done,
                    done = tokio::io::copy(&mut from_server, &mut to_client) => done,
                }
            });
        }
    });
    (address, runtime, connections)
}

fn threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads")
}

async fn connect(client: TcpStream, server: SocketAddr, line: Arc<Line>) -> Result<(), Error> {
    let mut path = String::new();
    // The type of the answer is the library's.
    #[allow(clippy::result_large_err)]
    let upgrade = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        path = request.uri().path().to_owned();
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
        Ok(response)
    };
    let client = accept_hdr_async(client, upgrade).await?;
    let mut request = format!("ws://{server}{path}").into_client_request()?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    let (server, _) = client_async(request, TcpStream::connect(server).await?).await?;
    let ((to_client, from_client), (to_server, from_server)) = (client.split(), server.split());
    // When one direction ends, so does the other.
    tokio::select! {
        done = pass(from_client, to_server, &line) => done,
        done = pass(from_server, to_client, &line) => done,
    }
}

type Sink = futures_util::stream::SplitSink<WebSocketStream<TcpStream>, Message>;

async fn pass(
    mut from: impl Stream<Item = Result<Message, Error>> + Unpin,
    mut to: Sink,
    line: &Line,
) -> Result<(), Error> {
    let mut late = None;
    while let Some(message) = from.next().await {
        let message = message?;
        match line.fate_of(&message) {
            None => to.send(message).await?,
            Some(Fate::Lost) => {}
            Some(Fate::Twice) => {
                to.send(message.clone()).await?;
                to.send(message).await?;
            }
            Some(Fate::Late) => {
                late = Some(message);
                continue;
            }
            Some(Fate::Half) => {
                let bytes = message.into_data();
                to.send(Message::Binary(bytes.slice(..bytes.len() / 2))).await?;
            }
        }
        if let Some(message) = late.take() {
            to.send(message).await?;
        }
    }
    Ok(())
}

impl Line {
    fn fate_of(&self, message: &Message) -> Option<Fate> {
        let mut dice = self.dice.lock().expect("a lock");
        let suffers = message.is_binary() && dice.below(self.one_in) == 0;
        let left = self.left.load(Ordering::SeqCst);
        if !suffers || left == 0 {
            return None;
        }
        self.left.store(left - 1, Ordering::SeqCst);
        Some(self.fate)
    }
}
