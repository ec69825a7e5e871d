//! Routes.

use crate::app::App;
use crate::auth::Grant;
use crate::download;
use crate::driver::{Driver, denied, fault, too_often};
use crate::exchange::{self, Frames};
use crate::listener::Socket;
use crate::metrics::{REFUSED, REQUESTS};
use crate::names::RoomName;
use crate::room::internal;
use crate::socket;
use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rejoin_wire::frame::{Code, Fault};
use serde::Deserialize;
use std::sync::Arc;
use tracing::Instrument;

pub const SUBPROTOCOL: &str = "rejoin.v1";

pub fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(metrics_page))
        .route("/{room}", get(connect))
        .route("/{room}/push", post(push))
        .route("/{room}/pull", get(pull))
        .route("/{room}/snapshot", get(snapshot))
        .fallback(|| async { refusal(&fault(Code::NoRoom, "there is nothing here; a room is /NAME")) })
        .layer(from_fn_with_state(app.clone(), note))
        .with_state(app)
}

/// The number of a request, which names it in logs.
#[derive(Clone, Copy)]
struct Number(u64);

/// Gives each request an id and a place in the log.
async fn note(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let number = app.next_request();
    let id = app.request_id(number);
    request.extensions_mut().insert(Number(number));
    let peer = request.extensions().get::<Socket>().map(|s| s.peer);
    // Of the highest level, so that every line has it.
    let span = tracing::error_span!("request", id = %id, method = %request.method(), path = %request.uri().path(),
        peer = peer.map(tracing::field::display));
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    metrics::counter!(REQUESTS, "status" => status.as_u16().to_string()).increment(1);
    span.in_scope(|| match response.extensions().get::<Refused>() {
        Some(Refused(why)) => {
            metrics::counter!(REFUSED, "what" => "request").increment(1);
            tracing::warn!(status = status.as_u16(), "refused: {why}");
        }
        // What no handler of ours has seen: a method, a query or a path that is none.
        None if status.is_client_error() => {
            metrics::counter!(REFUSED, "what" => "request").increment(1);
            let why = status.canonical_reason().unwrap_or("a bad request");
            tracing::warn!(status = status.as_u16(), "refused: {why}");
        }
        None => tracing::debug!(status = status.as_u16(), "answered"),
    });
    if let Ok(id) = id.parse() {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Why a request was refused, for the log.
#[derive(Clone)]
struct Refused(String);

/// A fault as an HTTP response.
fn refusal(why: &Fault) -> Response {
    let status = match why.code {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden | Code::ForeignSite | Code::Policy => StatusCode::FORBIDDEN,
        Code::NoRoom => StatusCode::NOT_FOUND,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Limited => StatusCode::TOO_MANY_REQUESTS,
        Code::GoingAway => StatusCode::SERVICE_UNAVAILABLE,
        Code::Silent => StatusCode::REQUEST_TIMEOUT,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Protocol | Code::Malformed => StatusCode::BAD_REQUEST,
        _ => StatusCode::CONFLICT,
    };
    let mut response = (status, format!("{}\n", why.message)).into_response();
    let headers = response.headers_mut();
    if let Ok(code) = format!("{:?}", why.code).parse() {
        headers.insert("rejoin-code", code);
    }
    if let Some(after) = why.retry_after_ms {
        headers.insert(header::RETRY_AFTER, after.div_ceil(1000).into());
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(Refused(why.message.clone()));
    response
}

async fn health(State(app): State<Arc<App>>) -> Response {
    if app.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    "ok\n".into_response()
}

async fn metrics_page(State(app): State<Arc<App>>, Extension(socket): Extension<Socket>) -> Response {
    if !app.config.metrics_public && !socket.peer.ip().is_loopback() {
        return refusal(&fault(Code::Forbidden, "metrics are for this machine; see metrics_public"));
    }
    match &app.prometheus {
        Some(handle) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
        }
        None => refusal(&fault(Code::Internal, "the host program records metrics in its own way")),
    }
}

fn room_of(name: &str) -> Result<RoomName, Fault> {
    RoomName::parse(name).ok_or_else(|| fault(Code::NoRoom, format!("{name:?} cannot be the name of a room")))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

async fn connect(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Extension(socket): Extension<Socket>,
    Extension(Number(number)): Extension<Number>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let name = match room_of(&name) {
        Ok(name) => name,
        Err(why) => return refusal(&why),
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade.protocols([SUBPROTOCOL]),
        Err(_) => return refusal(&fault(Code::Protocol, "a room is opened by a WebSocket")),
    };
    if upgrade.selected_protocol().is_none() {
        let message = format!("the WebSocket must offer the subprotocol {SUBPROTOCOL}");
        return refusal(&fault(Code::Version, message));
    }
    if app.is_draining() {
        return refusal(&fault(Code::GoingAway, "the server is stopping"));
    }
    let frame_bytes = app.config.limits.frame_bytes as usize;
    let span = tracing::Span::current();
    upgrade
        .read_buffer_size(8 << 10)
        .write_buffer_size(8 << 10)
        .max_message_size(frame_bytes)
        .max_frame_size(frame_bytes)
        .on_upgrade(move |ws| socket::run(app, name, ws, socket, number).instrument(span))
}

async fn push(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Extension(Number(number)): Extension<Number>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let done = async {
        let name = room_of(&name)?;
        let bearer = bearer(&headers).map(str::to_owned);
        let frames = Frames::new(body, &app);
        let driver = Driver::new(app.clone(), name, number, bearer, false);
        exchange::run(app, driver, frames).await
    };
    done.await.unwrap_or_else(|why| refusal(&why))
}

#[derive(Deserialize)]
struct Pull {
    /// A Hello frame in hex.
    hello: String,
}

async fn pull(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(Pull { hello }): Query<Pull>,
    Extension(Number(number)): Extension<Number>,
    headers: HeaderMap,
) -> Response {
    let done = async {
        let name = room_of(&name)?;
        let hello = unhex(&hello).ok_or_else(|| fault(Code::Protocol, "hello is a frame in hex"))?;
        let mut body = u32::try_from(hello.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        body.extend_from_slice(&hello);
        let bearer = bearer(&headers).map(str::to_owned);
        let frames = Frames::new(Body::from(body), &app);
        let driver = Driver::new(app.clone(), name, number, bearer, false);
        exchange::run(app, driver, frames).await
    };
    done.await.unwrap_or_else(|why| refusal(&why))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Who asks over plain HTTP.
fn granted(app: &App, name: &RoomName, headers: &HeaderMap) -> Result<Grant, Fault> {
    let grant = app.live().authority.check(bearer(headers), name).map_err(|why| denied(&why))?;
    app.subjects.request(&grant.subject).map_err(|wait| too_often(&grant.subject, wait))?;
    Ok(grant)
}

async fn snapshot(State(app): State<Arc<App>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let done = async {
        let name = room_of(&name)?;
        granted(&app, &name, &headers)?;
        let room = app.rooms.get(&name, false).await?;
        let (version, horizon) =
            room.run(|owner| owner.place()).await.ok_or_else(|| internal("the room has failed"))??;
        let snapshot = room.snapshots.get(version, &horizon).await.map_err(|e| {
            tracing::error!(room = %name, "no snapshot: {e}");
            fault(Code::Internal, "the snapshot could not be made; the server's log says why")
        })?;
        Ok(download::respond(snapshot, &headers))
    };
    done.await.unwrap_or_else(|why| refusal(&why))
}
