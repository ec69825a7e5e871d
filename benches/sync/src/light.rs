//! A client that speaks the protocol and keeps no database: the real session on a store that holds a version vector.

use crate::Result;
use futures_util::{SinkExt, StreamExt};
use rejoin::{SiteId, VersionVector};
use rejoin_sync::client::{Client, Config, Effect, Event, Facts, NotApplied, Reply, Request, Step};
use rejoin_sync::{Relation, State};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Clients that share a source address: an address has some 28,000 ports.
const PER_ADDRESS: usize = 8_000;
/// Little is read at once.
const BUFFER: usize = 4 << 10;

pub struct Light {
    machine: Client,
    store: Store,
    socket: WebSocketStream<TcpStream>,
}

/// Remembers what it was sent, and the rest as a database would.
struct Store {
    facts: Facts,
    /// Transactions that came since somebody looked.
    came: VersionVector,
}

impl Store {
    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Describe => Reply::Described(Box::new(self.facts.clone())),
            Request::Compare { .. } => {
                Reply::Compared { relation: Relation::Same, chain: None, server: None }
            }
            Request::Prepare(steps) => {
                for step in steps {
                    if let Step::TakeLineage(lineage) = step {
                        self.facts.lineage = Some(lineage);
                    }
                }
                Reply::Prepared(Box::new(self.facts.clone()))
            }
            Request::MakeCut { .. } => Reply::Made(None),
            Request::Apply(bytes) => self.apply(&bytes),
            Request::Acknowledge(vector) => Reply::Acknowledged(vector),
            Request::Adopt { .. } | Request::MergeRows(_) | Request::StartOver => {
                Reply::Impossible("nothing was written here".into())
            }
        }
    }

    fn apply(&mut self, bytes: &[u8]) -> Reply {
        let not = |why, facts: &Facts| Reply::NotApplied { why, facts: Box::new(facts.clone()) };
        let reader = match rejoin_wire::Reader::open(bytes) {
            Ok(reader) => reader,
            Err(e) => return not(NotApplied::Bad(e.to_string()), &self.facts),
        };
        if !self.facts.vector.covers(&reader.builds_on()) {
            return not(NotApplied::Gap("builds on what is not here".into()), &self.facts);
        }
        let brings = reader.brings();
        self.facts.vector.merge(&brings);
        self.came.merge(&brings);
        Reply::Applied { holds: reader.holds(), facts: Box::new(self.facts.clone()) }
    }
}

impl Light {
    /// Connects the client of this number and waits until it has all that the room has.
    pub async fn connect(address: SocketAddr, room: &str, number: usize) -> Result<Light> {
        let socket = TcpSocket::new_v4()?;
        let host = u8::try_from(1 + number / PER_ADDRESS)?;
        socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{address}/{room}").into_client_request()?;
        let protocol = HeaderValue::from_static("rejoin.v1");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        let mut site = [0; 16];
        getrandom::fill(&mut site)?;
        let facts = Facts { site, mine: vec![site], ..Facts::default() };
        let machine = Client::new(Config { agent: "light".into(), seed: number as u64, ..Config::default() });
        let mut light = Light { machine, store: Store { facts, came: VersionVector::new() }, socket };
        light.handle(Event::Start).await?;
        light.handle(Event::Connected).await?;
        let ready = async {
            while light.machine.state() != State::Synced {
                light.step().await?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        match tokio::time::timeout(Duration::from_secs(120), ready).await {
            Ok(done) => done?,
            Err(_) => return Err(format!("not ready in time: {}", light.machine.state()).into()),
        }
        light.store.came = VersionVector::new();
        Ok(light)
    }

    /// Goes on until it is told to stop; tells of each transaction that comes.
    pub async fn follow(
        &mut self,
        stop: &mut watch::Receiver<bool>,
        mut came: impl FnMut(SiteId, u64),
    ) -> Result<()> {
        while !*stop.borrow_and_update() {
            tokio::select! {
                done = self.step() => done?,
                stopped = stop.changed() => stopped?,
            }
            if self.store.came.is_empty() {
                continue;
            }
            for (site, versions) in std::mem::take(&mut self.store.came).iter() {
                versions.iter().flatten().for_each(|version| came(*site, version));
            }
        }
        Ok(())
    }

    /// The next thing that happens.
    async fn step(&mut self) -> Result<()> {
        let wake = self.machine.wake_at().unwrap_or(u64::MAX).saturating_sub(now_ms()).min(60_000);
        let message = tokio::time::timeout(Duration::from_millis(wake), self.socket.next()).await;
        match message {
            Err(_) => self.handle(Event::Tick).await,
            Ok(Some(Ok(Message::Binary(frame)))) => self.handle(Event::Frame(frame.into())).await,
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(e))) => Err(e.into()),
            Ok(None) => Err("the server closed the connection".into()),
        }
    }

    async fn handle(&mut self, event: Event) -> Result<()> {
        let mut events = VecDeque::from([event]);
        let mut sent = false;
        while let Some(event) = events.pop_front() {
            for effect in self.machine.handle(event, now_ms()) {
                match effect {
                    Effect::Send(frame) => {
                        self.socket.feed(Message::Binary(frame.into())).await?;
                        sent = true;
                    }
                    Effect::Ask(request) => events.push_back(Event::Reply(self.store.answer(request))),
                    Effect::Disconnect => return Err(format!("ended: {}", self.machine.state()).into()),
                    Effect::Connect | Effect::State(_) => {}
                }
            }
        }
        if sent {
            self.socket.flush().await?;
        }
        Ok(())
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Connects so many, some at a time, to one room.
pub async fn crowd(address: SocketAddr, room: &str, count: usize) -> Result<Vec<Light>> {
    const AT_ONCE: usize = 64;
    let connecting = (0..count).map(|n| {
        let room = room.to_owned();
        async move { Light::connect(address, &room, n).await }
    });
    let mut connected = futures_util::stream::iter(connecting).buffer_unordered(AT_ONCE);
    let mut lights = Vec::with_capacity(count);
    while let Some(light) = connected.next().await {
        lights.push(light?);
    }
    Ok(lights)
}
