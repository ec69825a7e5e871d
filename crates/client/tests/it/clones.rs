//! First syncs.

use crate::util::*;
use rejoin::Replica;
use rejoin_client::{Error, Options, State, clone_room, sync_once};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn filled(place: &Place, rows: i64) -> Replica {
    let a = place.replica("a.db");
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO books (id, title) SELECT i, hex(randomblob(50)) FROM n";
    a.connection().execute(sql, [rows]).expect("rows");
    let report = sync_once(place.path("a.db"), &place.url("shop"), Options::default()).expect("it syncs");
    assert_eq!(report.state, State::Synced);
    a
}

#[test]
fn a_clone_is_a_replica_of_its_own() {
    let place = Place::new();
    let a = filled(&place, 1_000);
    let mut last = (0, 0);
    let cloned = clone_room(&place.url("shop"), place.path("b.db"), &Options::default(), |t| {
        assert!(t.bytes >= last.0 && t.bytes <= t.bytes_total);
        last = (t.bytes, t.bytes_total);
    });
    let transfer = cloned.expect("it clones").transfer;
    assert_eq!(last, (transfer.bytes, transfer.bytes));
    let b = Replica::open(place.path("b.db")).expect("opens");
    assert_equal(&a, &b);
    let room = Replica::open(place.room_file("shop")).expect("opens");
    let ids = [&a, &b, &room].map(|r| r.site_id().expect("an id"));
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
    for left in ["b.db.part", "b.db.part.etag", "b.db-journal"] {
        assert!(!place.path(left).exists(), "{left}");
    }
    // And goes on as one.
    insert(&b, 5_000, "new");
    assert_eq!(
        sync_once(place.path("b.db"), &place.url("shop"), Options::default()).expect("syncs").state,
        State::Synced
    );
    assert_eq!(
        sync_once(place.path("a.db"), &place.url("shop"), Options::default()).expect("syncs").state,
        State::Synced
    );
    assert_equal(&a, &b);
}

#[test]
fn nothing_is_overwritten_and_no_room_is_made() {
    let place = Place::new();
    filled(&place, 1);
    std::fs::write(place.path("b.db"), "mine").expect("write");
    let clone =
        |room: &str, name: &str| clone_room(&place.url(room), place.path(name), &Options::default(), |_| ());
    assert!(matches!(clone("shop", "b.db"), Err(Error::Exists { .. })));
    assert_eq!(std::fs::read(place.path("b.db")).expect("read"), b"mine");
    assert!(matches!(clone("absent", "c.db"), Err(Error::Refused { status: 404, .. })));
    assert!(!place.path("c.db").exists());
}

/// Hands on what it is asked, but not more of the answers than so many bytes in one connection.
fn interrupting(
    to: std::net::SocketAddr,
    bytes_max: usize,
    damage: bool,
) -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicU64::new(0));
    let count = connections.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let n = count.fetch_add(1, Ordering::SeqCst);
            let Ok(server) = TcpStream::connect(to) else { return };
            let (mut from_client, mut to_server) =
                (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
            std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            let (mut answer, mut client) = (server, client);
            let mut piece = vec![0; 16 << 10];
            let mut left = bytes_max;
            while left > 0 {
                let Ok(len @ 1..) = answer.read(&mut piece) else { break };
                let len = len.min(left);
                left -= len;
                if damage && n == 0 && left < bytes_max - 100_000 {
                    piece[0] ^= 1;
                }
                if client.write_all(&piece[..len]).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(std::net::Shutdown::Both);
            let _ = answer.shutdown(std::net::Shutdown::Both);
        }
    });
    (address, connections)
}

#[test]
fn a_download_goes_on_where_it_was_interrupted() {
    let place = Place::new();
    let a = filled(&place, 10_000);
    let (address, connections) = interrupting(place.address, 200_000, false);
    let url = format!("ws://{address}/shop");
    let transfer =
        clone_room(&url, place.path("b.db"), &Options::default(), |_| ()).expect("it clones").transfer;
    let at_least = transfer.bytes / 200_000;
    assert!(at_least > 3 && connections.load(Ordering::SeqCst) >= at_least, "{transfer:?}");
    assert!(transfer.bytes_before > 0, "the last attempt went on: {transfer:?}");
    assert_equal(&a, &Replica::open(place.path("b.db")).expect("opens"));
}

#[test]
fn a_download_is_taken_up_by_the_next_call_unless_the_snapshot_is_another() {
    let place = Place::new();
    let a = filled(&place, 10_000);
    let whole = clone_room(&place.url("shop"), place.path("whole.db"), &Options::default(), |_| ())
        .expect("it clones");
    let tag = {
        // What an interrupted call leaves behind.
        let (address, _) = interrupting(place.address, 300_000, false);
        let mut seen = 0;
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            clone_room(&format!("ws://{address}/shop"), place.path("b.db"), &Options::default(), |t| {
                seen = t.bytes;
                assert!(t.bytes < 500_000, "interrupted here");
            })
        }));
        assert!(stopped.is_err() && seen > 0);
        std::fs::read(place.path("b.db.part.etag")).expect("a tag")
    };
    assert!(!place.path("b.db").exists());
    let left = place.path("b.db.part").metadata().expect("a part").len();
    let mut first = None;
    let transfer = clone_room(&place.url("shop"), place.path("b.db"), &Options::default(), |t| {
        first.get_or_insert(t.bytes);
    });
    assert_eq!(transfer.expect("it clones").transfer.bytes_before, left);
    assert_eq!(first, Some(left));
    assert_equal(&a, &Replica::open(place.path("b.db")).expect("opens"));
    // A part of another file under the same name.
    std::fs::write(place.path("c.db.part"), vec![7; 100_000]).expect("write");
    std::fs::write(place.path("c.db.part.etag"), "\"another\"").expect("write");
    let transfer =
        clone_room(&place.url("shop"), place.path("c.db"), &Options::default(), |_| ()).expect("it clones");
    assert_eq!((transfer.transfer.bytes, transfer.transfer.bytes_before), (whole.transfer.bytes, 0));
    // One that claims to be of this, and is not, is found out.
    std::fs::write(place.path("d.db.part"), vec![7; 100_000]).expect("write");
    std::fs::write(place.path("d.db.part.etag"), tag).expect("write");
    clone_room(&place.url("shop"), place.path("d.db"), &Options::default(), |_| ()).expect("it clones");
    assert_equal(&a, &Replica::open(place.path("d.db")).expect("opens"));
}

#[test]
fn a_damaged_download_is_not_taken() {
    let place = Place::new();
    let a = filled(&place, 10_000);
    let (address, connections) = interrupting(place.address, usize::MAX, true);
    let url = format!("ws://{address}/shop");
    clone_room(&url, place.path("b.db"), &Options::default(), |_| ()).expect("the second attempt");
    assert!(connections.load(Ordering::SeqCst) > 1);
    assert_equal(&a, &Replica::open(place.path("b.db")).expect("opens"));
}
