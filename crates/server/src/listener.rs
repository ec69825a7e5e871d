//! Sockets: accepted up to a number, given a time for each step, and ended gracefully.

use crate::app::App;
use crate::patience::Patience;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower_service::Service;

/// A socket in use: what an upgraded one keeps as long as it lives.
#[derive(Clone)]
pub struct Socket {
    pub peer: SocketAddr,
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Accepts until the server drains, then waits for the requests that are under way.
pub async fn serve(listener: TcpListener, routes: Router, app: Arc<App>) {
    let sockets = Arc::new(Semaphore::new(app.config.limits.connections as usize));
    let mut draining = app.drain.subscribe();
    loop {
        let accepted = tokio::select! {
            _ = draining.wait_for(|d| *d) => break,
            accepted = accept(&listener, &sockets) => accepted,
        };
        match accepted {
            Ok((stream, socket)) => {
                tokio::spawn(connection(stream, socket, routes.clone(), app.clone()));
            }
            Err(e) => {
                // Out of file descriptors, mostly: those in use go on.
                tracing::error!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    // Every socket in use has one.
    let _ = sockets.acquire_many(app.config.limits.connections).await;
}

async fn accept(listener: &TcpListener, sockets: &Arc<Semaphore>) -> std::io::Result<(TcpStream, Socket)> {
    let permit = sockets.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, Socket { peer, _permit: Arc::new(permit) }))
}

async fn connection(stream: TcpStream, socket: Socket, routes: Router, app: Arc<App>) {
    let limits = &app.config.limits;
    let (peer, handshake) = (socket.peer, Duration::from_secs(u64::from(limits.handshake_s)));
    // Frames are small and wait for nobody.
    let _ = stream.set_nodelay(true);
    let stream = Patience::new(stream, Duration::from_secs(u64::from(limits.send_s)));
    let Some(tls) = app.live().tls.clone() else {
        return http(stream, socket, routes, &app).await;
    };
    match timeout(handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(stream, socket, routes, &app).await,
        Ok(Err(e)) => crate::metrics::refused(peer, "tls", &e),
        Err(_) => crate::metrics::refused(peer, "tls", &"no TLS handshake in time"),
    }
}

async fn http<S>(stream: S, socket: Socket, routes: Router, app: &App)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &app.config.limits;
    let peer = socket.peer;
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(socket.clone());
        routes.clone().call(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(u64::from(limits.handshake_s)))
            .max_headers(limits.headers as usize)
            .max_buf_size(limits.header_bytes as usize)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let mut draining = app.drain.subscribe();
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = async { drop(draining.wait_for(|d| *d).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = done {
        // Malformed or endless heads; a client that goes away is no refusal.
        if e.is_parse() || e.is_parse_too_large() || e.is_timeout() {
            crate::metrics::refused(peer, "http", &e);
        }
    }
}
