//! What is counted, and the one line that is logged for each refusal.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::OnceLock;

pub const CONNECTIONS: &str = "rejoin_connections";
pub const ROOMS_OPEN: &str = "rejoin_rooms_open";
pub const REQUESTS: &str = "rejoin_http_requests_total";
pub const FRAMES_IN: &str = "rejoin_frames_received_total";
pub const FRAMES_OUT: &str = "rejoin_frames_sent_total";
pub const BYTES_IN: &str = "rejoin_bytes_received_total";
pub const BYTES_OUT: &str = "rejoin_bytes_sent_total";
pub const TRANSACTIONS: &str = "rejoin_transactions_applied_total";
pub const REJECTED: &str = "rejoin_transactions_rejected_total";
pub const REFUSED: &str = "rejoin_refused_total";
pub const APPLY_SECONDS: &str = "rejoin_apply_seconds";
pub const SNAPSHOTS: &str = "rejoin_snapshots_made_total";
pub const THROTTLED: &str = "rejoin_throttled_total";

/// The recorder of the process; programs that have one already keep theirs, and `/metrics` says so.
pub fn install() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let buckets = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
            let handle = PrometheusBuilder::new().set_buckets(&buckets).ok()?.install_recorder().ok()?;
            describe();
            Some(handle)
        })
        .clone()
}

fn describe() {
    use metrics::{describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram};
    gauge!(CONNECTIONS, "WebSockets that are open.");
    gauge!(ROOMS_OPEN, "Rooms whose file is open.");
    counter!(REQUESTS, "HTTP requests, by status.");
    counter!(FRAMES_IN, "Frames received.");
    counter!(FRAMES_OUT, "Frames sent.");
    counter!(BYTES_IN, "Bytes of frames received.");
    counter!(BYTES_OUT, "Bytes of frames sent.");
    counter!(TRANSACTIONS, "Transactions of clients that were applied.");
    counter!(REJECTED, "Transactions of clients that were rejected, by code.");
    counter!(REFUSED, "Requests, connections and cuts that were refused, by what refused them.");
    histogram!(APPLY_SECONDS, "Time to check and apply one changeset of a client.");
    counter!(SNAPSHOTS, "Snapshots made.");
    counter!(THROTTLED, "Frames that were read later because of a rate limit.");
}

/// The line that says what was refused and why. What a client wrote is quoted by the caller.
pub fn refused(peer: SocketAddr, what: &'static str, why: &dyn Display) {
    metrics::counter!(REFUSED, "what" => what).increment(1);
    tracing::warn!(%peer, what, "refused: {why}");
}
