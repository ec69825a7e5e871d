//! A snapshot as a response: whole, or the range that a client lacks.

use crate::snapshot::Snapshot;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use std::ops::Range;
use std::sync::Arc;

/// What is read at once. Fewer reads cost less; each download holds one piece in memory.
const PIECE: u64 = 256 << 10;

pub fn respond(snapshot: Arc<Snapshot>, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", snapshot.hash);
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag)) {
        return build(
            Response::builder().status(StatusCode::NOT_MODIFIED).header(header::ETAG, tag),
            Body::empty(),
        );
    }
    // A range of another snapshot is of no use: then the whole new one is sent.
    let same = text(header::IF_RANGE).is_none_or(|of| of == tag);
    let range = if same { range(text(header::RANGE), snapshot.bytes) } else { Asked::Whole };
    let response = Response::builder()
        .header(header::ETAG, tag)
        .header("rejoin-blake3", &snapshot.hash)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONTENT_TYPE, "application/vnd.sqlite3");
    let bytes = snapshot.bytes;
    let (status, part) = match range {
        Asked::Whole => (StatusCode::OK, 0..bytes),
        Asked::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Asked::Outside => {
            let response = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            return build(response.header(header::CONTENT_RANGE, format!("bytes */{bytes}")), Body::empty());
        }
    };
    let mut response = response.status(status).header(header::CONTENT_LENGTH, part.end - part.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let shown = format!("bytes {}-{}/{bytes}", part.start, part.end - 1);
        response = response.header(header::CONTENT_RANGE, shown);
    }
    build(response, body(snapshot, part))
}

fn build(response: axum::http::response::Builder, body: Body) -> Response {
    response.body(body).unwrap_or_else(|_| Response::new(Body::empty()))
}

fn body(snapshot: Arc<Snapshot>, part: Range<u64>) -> Body {
    Body::from_stream(stream::try_unfold((snapshot, part), |(snapshot, part)| async move {
        if part.is_empty() {
            return Ok(None);
        }
        let len = PIECE.min(part.end - part.start);
        let start = part.start;
        let (read, snapshot) = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; len as usize];
            (snapshot.read(start, &mut piece).map(|()| piece), snapshot)
        })
        .await
        .map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(Some((Bytes::from(read?), (snapshot, start + len..part.end))))
    }))
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Outside,
}

/// One range of bytes; what is asked in another way is answered whole, as RFC 9110 allows.
fn range(header: Option<&str>, bytes: u64) -> Asked {
    let Some((first, last)) = header.and_then(|h| h.strip_prefix("bytes=")).and_then(|h| h.split_once('-'))
    else {
        return Asked::Whole;
    };
    let part = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(bytes),
        (Ok(first), Err(_)) if last.is_empty() => first..bytes,
        (Err(_), Ok(last)) if first.is_empty() => bytes.saturating_sub(last)..bytes,
        _ => return Asked::Whole,
    };
    if part.is_empty() { Asked::Outside } else { Asked::Part(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (header, asked) in [
            (None, Asked::Whole),
            (Some("bytes=0-9"), Asked::Part(0..10)),
            (Some("bytes=90-"), Asked::Part(90..100)),
            (Some("bytes=90-1000"), Asked::Part(90..100)),
            (Some("bytes=-10"), Asked::Part(90..100)),
            (Some("bytes=-1000"), Asked::Part(0..100)),
            (Some("bytes=99-18446744073709551615"), Asked::Part(99..100)),
            (Some("bytes=100-"), Asked::Outside),
            (Some("bytes=-0"), Asked::Outside),
            (Some("bytes=5-4"), Asked::Whole),
            (Some("bytes=0-1,5-6"), Asked::Whole),
            (Some("lines=0-1"), Asked::Whole),
            (Some("bytes=x-y"), Asked::Whole),
        ] {
            assert_eq!(range(header, 100), asked, "{header:?}");
        }
        assert_eq!(range(Some("bytes=0-"), 0), Asked::Outside);
    }
}
