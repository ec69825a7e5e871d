//! Snapshots of a room over HTTP: in ranges, so that what was lost on the way goes on, and checked by hash.

use crate::dial::Dialer;
use crate::error::Error;
use crate::options::Options;
use crate::swap::Swap;
use crate::url::RoomUrl;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rejoin::{Replayed, Replica};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The server may have to make the snapshot first.
const ANSWER: Duration = Duration::from_secs(300);
/// How long the body may pause.
const PAUSE: Duration = Duration::from_secs(60);
/// Attempts in a row that bring nothing.
const ATTEMPTS: u32 = 5;
const REFUSAL_BYTES_MAX: u64 = 4096;

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    pub bytes: u64,
    pub bytes_total: u64,
    /// What an earlier attempt had brought.
    pub bytes_before: u64,
}

/// What [`clone_room`] made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cloned {
    pub transfer: Transfer,
}

/// Makes a new replica from a snapshot of a room. It is as old as the snapshot: sync brings the rest.
///
/// What is downloaded stands in `PATH.part` until it is complete; called again after a failure, it goes on from there.
pub fn clone_room(
    url: &str,
    path: impl AsRef<Path>,
    options: &Options,
    mut progress: impl FnMut(Transfer),
) -> Result<Cloned, Error> {
    let path = path.as_ref();
    let dialer = Dialer::new(RoomUrl::parse(url)?, options.ca_file.as_deref())?;
    let token = options.token.read()?;
    let absent = || match path.symlink_metadata() {
        Ok(_) => Err(Error::Exists { path: path.to_owned() }),
        Err(_) => Ok(()),
    };
    absent()?;
    let part = beside(path, ".part");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::System)?;
    let fetched = runtime.block_on(fetch(&dialer, token.as_deref(), &part, &mut progress));
    if fetched.is_err() && part.metadata().is_ok_and(|m| m.len() == 0) {
        // Nothing came that the next call could go on from.
        let _ = std::fs::remove_file(&part);
        forget(&part);
    }
    let transfer = fetched?;
    // From here on it is a replica of its own, whatever it is called.
    let replica = Replica::from_snapshot(&part)?;
    drop(replica);
    absent()?;
    std::fs::rename(&part, path).map_err(|e| file(path, e))?;
    forget(&part);
    sync_folder(path);
    Ok(Cloned { transfer })
}

/// Lets a database start over from a snapshot of a room: what only the database has is written onto that, and the file goes on as
/// a replica of the room. For a room that was made anew, or is another one; a replica that is below the room's horizon does it by
/// itself.
pub fn start_over(
    path: impl AsRef<Path>,
    url: &str,
    options: &Options,
    mut progress: impl FnMut(Transfer),
) -> Result<Replayed, Error> {
    let path = std::path::absolute(path.as_ref()).map_err(|e| file(path.as_ref(), e))?;
    let dialer = Dialer::new(RoomUrl::parse(url)?, options.ca_file.as_deref())?;
    let token = options.token.read()?;
    let replica = Replica::open_with(&path, options.replica)?;
    replica.set_clock(options.now_ms)?;
    replica.connection().busy_timeout(options.busy_timeout).map_err(rejoin::Error::from)?;
    let snapshot = beside(&path, ".snapshot");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::System)?;
    runtime.block_on(fetch(&dialer, token.as_deref(), &snapshot, &mut progress))?;
    forget(&snapshot);
    let swap = Swap { patience: options.busy_timeout, now_ms: options.now_ms };
    Ok(swap.replace(&replica, &path, &snapshot)?)
}

pub fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(more);
    PathBuf::from(name)
}

fn tag_file(part: &Path) -> PathBuf {
    beside(part, ".etag")
}

/// The part has become something else.
pub fn forget(part: &Path) {
    let _ = std::fs::remove_file(tag_file(part));
}

/// The name is durable too. Systems on which folders cannot be opened do that by themselves.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|f| f.sync_all());
}

fn file(path: &Path, error: std::io::Error) -> Error {
    Error::File { path: path.to_owned(), error }
}

fn lost(why: impl std::fmt::Display) -> Error {
    Error::Unreachable { why: format!("the download was interrupted: {why}") }
}

/// Downloads a snapshot to `part`, or the rest of one, and checks it.
pub async fn fetch(
    dialer: &Dialer,
    token: Option<&str>,
    part: &Path,
    progress: &mut (impl FnMut(Transfer) + ?Sized),
) -> Result<Transfer, Error> {
    let mut in_vain = 0;
    loop {
        let before = part.metadata().map_or(0, |m| m.len());
        let failure = match attempt(dialer, token, part, progress).await {
            Ok(done) => return Ok(done),
            Err(e) => e,
        };
        let patience = match &failure {
            Error::Unreachable { .. } => Duration::from_millis(200),
            Error::Damaged { .. } => Duration::ZERO,
            Error::Refused { status: 429 | 503, .. } => Duration::from_secs(1),
            _ => return Err(failure),
        };
        in_vain = if part.metadata().map_or(0, |m| m.len()) > before { 0 } else { in_vain + 1 };
        if in_vain >= ATTEMPTS {
            return Err(failure);
        }
        tokio::time::sleep(patience * (1 << in_vain)).await;
    }
}

/// The file on its way, its hash so far, and what it is a part of.
struct Part {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
    tag: Option<String>,
}

impl Part {
    fn open(path: &Path) -> Result<Part, Error> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| self::file(path, e))?;
        let tag = std::fs::read_to_string(tag_file(path)).ok().filter(|t| !t.is_empty());
        let mut part = Part {
            bytes: 0,
            hasher: blake3::Hasher::new(),
            tag,
            file: file.try_clone().map_err(|e| self::file(path, e))?,
        };
        if part.tag.is_none() {
            part.restart(path)?;
            return Ok(part);
        }
        let mut piece = vec![0; 1 << 20];
        loop {
            let len = file.read(&mut piece).map_err(|e| self::file(path, e))?;
            let Some(read) = piece.get(..len).filter(|p| !p.is_empty()) else { return Ok(part) };
            part.hasher.update(read);
            part.bytes += len as u64;
        }
    }

    fn restart(&mut self, path: &Path) -> Result<(), Error> {
        self.hasher.reset();
        self.bytes = 0;
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map(drop)
            .map_err(|e| file(path, e))
    }

    fn begin(&mut self, path: &Path, tag: Option<&str>) -> Result<(), Error> {
        self.restart(path)?;
        self.tag = tag.map(str::to_owned);
        std::fs::write(tag_file(path), tag.unwrap_or_default()).map_err(|e| file(path, e))
    }

    fn add(&mut self, path: &Path, piece: &[u8]) -> Result<(), Error> {
        self.file.write_all(piece).map_err(|e| file(path, e))?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }
}

async fn attempt(
    dialer: &Dialer,
    token: Option<&str>,
    path: &Path,
    progress: &mut (impl FnMut(Transfer) + ?Sized),
) -> Result<Transfer, Error> {
    let mut part = Part::open(path)?;
    let mut response = ask(dialer, token, &part).await?;
    let headers = response.headers();
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (hash, tag, range) = (text("rejoin-blake3"), text("etag"), text("content-range"));
    let total = match response.status() {
        StatusCode::OK => {
            part.begin(path, tag.as_deref())?;
            response.body().size_hint().exact()
        }
        StatusCode::PARTIAL_CONTENT => {
            let begins = range.as_deref().and_then(content_range);
            match begins {
                Some((first, total)) if first == part.bytes && tag == part.tag => Some(total),
                _ => return Err(damaged(path, "the server answers with another range than was asked for")),
            }
        }
        // Everything is here, or it is no part of what the server has now.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let total = range.as_deref().and_then(|r| r.strip_prefix("bytes */")?.parse::<u64>().ok());
            if total != Some(part.bytes) || tag != part.tag {
                return Err(damaged(path, "the server has another snapshot now"));
            }
            total
        }
        _ => return Err(refusal(response).await),
    };
    let Some(bytes_total) = total else {
        return Err(damaged(path, "the server does not say how long its answer is"));
    };
    let bytes_before = part.bytes;
    progress(Transfer { bytes: part.bytes, bytes_total, bytes_before });
    while part.bytes < bytes_total {
        let frame = match tokio::time::timeout(PAUSE, response.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => return Err(lost(e)),
            Ok(None) => return Err(lost("the answer ended early")),
            Err(_) => return Err(lost("nothing came any more")),
        };
        if let Ok(piece) = frame.into_data() {
            part.add(path, &piece)?;
            progress(Transfer { bytes: part.bytes, bytes_total, bytes_before });
        }
    }
    if part.bytes != bytes_total || hash.as_deref() != Some(part.hasher.finalize().to_hex().as_str()) {
        return Err(damaged(path, "what was downloaded is not what the server has (checksum)"));
    }
    part.file.sync_all().map_err(|e| file(path, e))?;
    Ok(Transfer { bytes: part.bytes, bytes_total, bytes_before })
}

/// The part is of no use: it begins anew.
fn damaged(path: &Path, why: &str) -> Error {
    let _ = std::fs::remove_file(path);
    forget(path);
    Error::Damaged { why: why.to_owned() }
}

async fn ask(dialer: &Dialer, token: Option<&str>, part: &Part) -> Result<Response<Incoming>, Error> {
    let unreachable = |why: String| Error::Unreachable { why };
    let stream = dialer.dial().await.map_err(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(connection);
    let url = dialer.url();
    let mut request = Request::get(format!("/{}/snapshot", url.room))
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, concat!("rejoin-client/", env!("CARGO_PKG_VERSION")));
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if let (Some(tag), true) = (&part.tag, part.bytes > 0) {
        request =
            request.header(header::RANGE, format!("bytes={}-", part.bytes)).header(header::IF_RANGE, tag);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| unreachable(e.to_string()))?;
    match tokio::time::timeout(ANSWER, sender.send_request(request)).await {
        Ok(response) => response.map_err(lost),
        Err(_) => Err(unreachable(format!("{url} does not answer"))),
    }
}

/// First byte and whole length of `bytes FIRST-LAST/LENGTH`.
fn content_range(range: &str) -> Option<(u64, u64)> {
    let (part, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last, total) =
        (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?, total.parse::<u64>().ok()?);
    (first <= last && last < total).then_some((first, total))
}

async fn refusal(mut response: Response<Incoming>) -> Error {
    let status = response.status();
    let code = code_of(response.headers());
    if status == StatusCode::NOT_FOUND && code != "NoRoom" {
        return Error::NoSnapshot;
    }
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(PAUSE, response.frame()).await {
        text.extend(frame.into_data().unwrap_or_default());
        if text.len() as u64 >= REFUSAL_BYTES_MAX {
            break;
        }
    }
    let message = String::from_utf8_lossy(&text).trim().chars().take(500).collect();
    Error::Refused { status: status.as_u16(), code, message }
}

fn code_of(headers: &HeaderMap) -> String {
    headers.get("rejoin-code").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 10)));
        for wrong in
            ["", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "bytes=5-9/10", "bytes -/"]
        {
            assert_eq!(content_range(wrong), None, "{wrong:?}");
        }
    }
}
