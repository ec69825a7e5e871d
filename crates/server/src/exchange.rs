//! The same session over HTTP, for hosts without WebSockets: frames in, frames out, each behind its length in four bytes
//! (little-endian).

use crate::app::App;
use crate::driver::{Driver, fault};
use axum::body::{Body, BodyDataStream};
use axum::response::Response;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use rejoin_sync::Defaults;
use rejoin_sync::server::{Effect, Event};
use rejoin_wire::frame::{Code, Fault, Frame};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::Instrument;

pub const CONTENT_TYPE: &str = "application/vnd.rejoin.frames";

/// Frames of a request.
pub struct Frames {
    body: BodyDataStream,
    buffer: BytesMut,
    frame_bytes_max: usize,
    pause_max: Duration,
}

impl Frames {
    pub fn new(body: Body, app: &App) -> Frames {
        let limits = &app.config.limits;
        Frames {
            body: body.into_data_stream(),
            buffer: BytesMut::new(),
            frame_bytes_max: limits.frame_bytes as usize,
            pause_max: Duration::from_secs(u64::from(limits.body_s)),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            if let Some((head, _)) = self.buffer.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*head) as usize;
                if len > self.frame_bytes_max {
                    let message =
                        format!("a frame of {len} bytes, at most {} are taken", self.frame_bytes_max);
                    return Err(fault(Code::TooLarge, message));
                }
                if self.buffer.len() >= 4 + len {
                    self.buffer.advance(4);
                    return Ok(Some(self.buffer.split_to(len).to_vec()));
                }
            }
            match timeout(self.pause_max, self.body.next()).await {
                Ok(Some(Ok(part))) => self.buffer.extend_from_slice(&part),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(fault(Code::Protocol, "the body ends inside a frame")),
                Ok(Some(Err(e))) => return Err(fault(Code::Protocol, e.to_string())),
                Err(_) => return Err(fault(Code::Silent, "the body does not go on")),
            }
        }
    }
}

/// Runs the session to its end. The response begins with the first frame of the answer.
pub async fn run(app: Arc<App>, mut driver: Driver, frames: Frames) -> Result<Response, Fault> {
    let (out, mut answers) = mpsc::channel::<Vec<u8>>(16);
    let session = async move { converse(&app, &mut driver, frames, out).await };
    let task = tokio::spawn(session.in_current_span());
    let Some(first) = answers.recv().await else {
        return Err(match task.await {
            Ok(Some(why)) => why,
            _ => fault(Code::Protocol, "no frame, no answer"),
        });
    };
    if let Ok(Frame::Fault(why)) = Frame::decode(&first, usize::MAX) {
        return Err(why);
    }
    let parts = stream::unfold((Some(first), answers), |(first, mut answers)| async move {
        let frame = match first {
            Some(frame) => frame,
            None => answers.recv().await?,
        };
        let mut part = Vec::with_capacity(4 + frame.len());
        part.extend_from_slice(&u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes());
        part.extend_from_slice(&frame);
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(part)), (None, answers)))
    });
    Response::builder()
        .header("content-type", CONTENT_TYPE)
        .header("cache-control", "no-store")
        .body(Body::from_stream(parts))
        .map_err(|e| fault(Code::Internal, e.to_string()))
}

async fn converse(
    app: &App,
    driver: &mut Driver,
    mut frames: Frames,
    out: mpsc::Sender<Vec<u8>>,
) -> Option<Fault> {
    let mut draining = app.drain.subscribe();
    let mut more = true;
    loop {
        let mut effects: VecDeque<Effect> = if more {
            let next = tokio::select! {
                next = frames.next() => next,
                _ = draining.wait_for(|d| *d) => Err(fault(Code::GoingAway, "the server is stopping")),
            };
            match next {
                Ok(Some(frame)) => {
                    driver.owe(frame.len());
                    driver.waits().0.await;
                    driver.handle(Event::Frame(frame)).into()
                }
                Ok(None) => {
                    more = false;
                    continue;
                }
                Err(why) => driver.end(why).into(),
            }
        } else if driver.at_rest() || !driver.is_open() {
            return None;
        } else {
            // The client cannot speak any more, so what it would grant is taken as granted.
            let credit = Frame::Credit(Defaults::CREDIT).encode().unwrap_or_default();
            driver.handle(Event::Frame(credit)).into()
        };
        if !more && effects.is_empty() {
            if !driver.is_receiving() {
                return None;
            }
            effects = driver.end(fault(Code::Protocol, "the request ends in the middle of a cut")).into();
        }
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(frame) => out.send(frame).await.ok()?,
                Effect::Ask(request) => {
                    let answer = driver.ask(request).await;
                    effects.extend(driver.answered(answer));
                }
                Effect::Close(why) => return Some(why),
            }
        }
    }
}
