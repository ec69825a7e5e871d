//! A session over a WebSocket.

use crate::app::{App, now_ms};
use crate::driver::{Asked, Driver, fault};
use crate::listener::Socket;
use crate::metrics::{BYTES_IN, BYTES_OUT, CONNECTIONS, FRAMES_IN, FRAMES_OUT};
use crate::names::RoomName;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, StreamExt};
use rejoin_sync::Defaults;
use rejoin_sync::server::{Effect, Event};
use rejoin_wire::frame::{Code, Fault, Frame};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// A client is not read while it leaves more than this unread: what it had credit for, and some answers. A slow client
/// that downloads is read, or its heartbeats would be missed.
const UNREAD_MAX: usize = Defaults::CREDIT_MAX as usize + (1 << 20);
const CLOSING: Duration = Duration::from_secs(2);

/// What waits to be sent.
struct Outbox {
    sink: SplitSink<WebSocket, Message>,
    waiting: VecDeque<Message>,
    bytes: usize,
    flushed: bool,
}

impl Outbox {
    fn push(&mut self, frame: Vec<u8>) {
        metrics::counter!(FRAMES_OUT).increment(1);
        metrics::counter!(BYTES_OUT).increment(frame.len() as u64);
        self.bytes += frame.len();
        self.waiting.push_back(Message::Binary(Bytes::from(frame)));
        self.flushed = false;
    }

    /// Ready when everything is with the kernel. Nothing is lost if it is not polled to the end.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        while !self.waiting.is_empty() {
            ready!(Pin::new(&mut self.sink).poll_ready(cx))?;
            let Some(message) = self.waiting.pop_front() else { break };
            if let Message::Binary(bytes) = &message {
                self.bytes -= bytes.len();
            }
            Pin::new(&mut self.sink).start_send(message)?;
        }
        ready!(Pin::new(&mut self.sink).poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    async fn send(&mut self) -> Result<(), axum::Error> {
        std::future::poll_fn(|cx| self.poll_send(cx)).await
    }
}

enum Step {
    Read(Option<Result<Message, axum::Error>>),
    Answered(crate::driver::Answer),
    Moved,
    Tick,
    Drain,
    Reloaded,
    Sent(Result<(), axum::Error>),
}

/// `_socket` keeps the connection's place as long as it lives.
pub async fn run(app: Arc<App>, name: RoomName, ws: WebSocket, _socket: Socket, number: u64) {
    metrics::gauge!(CONNECTIONS).increment(1.0);
    let mut driver = Driver::new(app.clone(), name.clone(), number, None, true);
    let (sink, stream) = ws.split();
    let outbox = Outbox { sink, waiting: VecDeque::new(), bytes: 0, flushed: true };
    let why = converse(&app, &mut driver, outbox, stream).await;
    metrics::gauge!(CONNECTIONS).decrement(1.0);
    let (subject, site) = driver.who();
    match why {
        Some(why) if refuses(why.code, driver.is_admitted()) => {
            metrics::counter!(crate::metrics::REFUSED, "what" => "session").increment(1);
            tracing::warn!(room = %name, subject, %site, code = ?why.code, "refused: {}", why.message);
        }
        Some(why) if why.code == Code::Silent => {
            tracing::info!(room = %name, subject, %site, "ended: {}", why.message);
        }
        Some(why) => {
            tracing::debug!(room = %name, subject, %site, code = ?why.code, "ended: {}", why.message);
        }
        None => tracing::debug!(room = %name, subject, %site, "connection lost"),
    }
}

/// Who falls silent has gone to sleep, as a rule; but not before it has said who it is.
fn refuses(code: Code, admitted: bool) -> bool {
    !matches!(code, Code::GoingAway | Code::Internal) && (code != Code::Silent || !admitted)
}

/// Until one of both ends it; None: the connection was lost.
async fn converse(
    app: &App,
    driver: &mut Driver,
    mut outbox: Outbox,
    mut stream: SplitStream<WebSocket>,
) -> Option<Fault> {
    let mut draining = app.drain.subscribe();
    let mut live = app.live.subscribe();
    let mut asked: Option<Asked> = None;
    loop {
        let wake = driver.wake_at().map_or_else(|| Instant::now() + Duration::from_secs(60), instant);
        let reads = outbox.bytes < UNREAD_MAX;
        let step = tokio::select! {
            sent = outbox.send(), if !outbox.flushed => Step::Sent(sent),
            answer = answer_of(&mut asked), if asked.is_some() => Step::Answered(answer),
            _ = draining.wait_for(|d| *d) => Step::Drain,
            Ok(()) = live.changed() => Step::Reloaded,
            news = next(driver, &mut stream, reads) => news,
            () = sleep_until(wake) => Step::Tick,
        };
        driver.unsent = outbox.bytes as u64;
        let effects = match step {
            Step::Sent(Ok(())) => continue,
            Step::Sent(Err(_)) => return None,
            Step::Answered(answer) => {
                asked = None;
                driver.answered(answer)
            }
            Step::Moved => driver.advanced(),
            Step::Tick => driver.handle(Event::Tick),
            Step::Reloaded => driver.check_again(),
            Step::Drain => driver.handle(Event::Drain),
            Step::Read(Some(Ok(Message::Binary(bytes)))) => {
                metrics::counter!(FRAMES_IN).increment(1);
                metrics::counter!(BYTES_IN).increment(bytes.len() as u64);
                driver.owe(bytes.len());
                driver.handle(Event::Frame(bytes.into()))
            }
            // The library answers pings; they count as frames like others.
            Step::Read(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {
                driver.owe(1);
                continue;
            }
            Step::Read(Some(Ok(Message::Text(_)))) => {
                let why = fault(Code::Protocol, "a text message; frames are binary");
                return end(outbox, stream, why).await;
            }
            Step::Read(Some(Ok(Message::Close(_))) | None) => return None,
            Step::Read(Some(Err(e))) => return broken(outbox, stream, &e).await,
        };
        let mut close = None;
        for effect in effects {
            match effect {
                Effect::Send(frame) => outbox.push(frame),
                Effect::Ask(request) => asked = Some(driver.ask(request)),
                Effect::Close(fault) => close = Some(fault),
            }
        }
        if let Some(fault) = close {
            finish(outbox, stream, &fault).await;
            return Some(fault);
        }
    }
}

/// What comes from the room or, as soon as the rates allow, from the client.
async fn next(driver: &mut Driver, stream: &mut SplitStream<WebSocket>, reads: bool) -> Step {
    let (paid, moved) = driver.waits();
    tokio::select! {
        () = moved => Step::Moved,
        message = async { paid.await; stream.next().await }, if reads => Step::Read(message),
    }
}

async fn answer_of(asked: &mut Option<Asked>) -> crate::driver::Answer {
    match asked {
        Some(asked) => asked.as_mut().await,
        None => std::future::pending().await,
    }
}

fn instant(at_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(at_ms.saturating_sub(now_ms()))
}

/// A message that WebSockets do not allow, or one that is too long; a lost connection is no refusal.
async fn broken(outbox: Outbox, stream: SplitStream<WebSocket>, e: &axum::Error) -> Option<Fault> {
    let text = e.to_string();
    let lost = ["reset", "closed", "broken pipe", "takes nothing", "without closing", "IO error"];
    if lost.iter().any(|l| text.contains(l)) {
        return None;
    }
    end(outbox, stream, fault(Code::Protocol, text)).await
}

async fn end(mut outbox: Outbox, stream: SplitStream<WebSocket>, why: Fault) -> Option<Fault> {
    if let Ok(frame) = Frame::Fault(why.clone()).encode() {
        outbox.push(frame);
    }
    finish(outbox, stream, &why).await;
    Some(why)
}

/// Says good-bye, for a moment. What the client has sent meanwhile is read and let go: of a socket that is closed with
/// something unread in it, the other side hears nothing more.
async fn finish(mut outbox: Outbox, mut stream: SplitStream<WebSocket>, why: &Fault) {
    let reason = why.message.chars().take(100).filter(char::is_ascii).collect::<String>();
    let code = if why.code == Code::GoingAway { 1001 } else { 1008 };
    outbox.waiting.push_back(Message::Close(Some(CloseFrame { code, reason: reason.into() })));
    let said = async {
        outbox.send().await?;
        while let Some(Ok(_)) = stream.next().await {}
        Ok::<_, axum::Error>(())
    };
    let _ = timeout(CLOSING, said).await;
}
