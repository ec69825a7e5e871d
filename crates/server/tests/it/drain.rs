//! The end of a server.

use crate::util::*;
use rejoin_wire::frame::Code;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_and_rooms_are_closed() {
    let mut running = open_server().await;
    let ann = replica();
    write(&ann, 1, "ann", "kept");
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    let mut greeting = running.connect("shop").await;
    let server = running.server.take().unwrap();
    let began = Instant::now();
    let stopping = tokio::spawn(server.stop());
    assert_eq!(anns.fault().await.code, Code::GoingAway);
    assert_eq!(greeting.fault().await.code, Code::GoingAway);
    drop((anns, greeting));
    stopping.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // The file stands alone: everything is in it, and another server may have it.
    let file = running.room_file("shop");
    assert!(!file.with_extension("db-wal").exists());
    assert_eq!(running.rows("shop", "SELECT body FROM notes"), ["kept"]);
    let config = load(running.dir.path(), "", true).unwrap();
    let again = rejoin_server::Server::start(config).await.unwrap();
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_leave_is_cut_off() {
    let mut running = open_server_with("[limits]\ndrain_s = 1").await;
    let stream = tokio::net::TcpStream::connect(running.address).await.unwrap();
    let half = b"POST /shop/push HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf";
    let mut stream = stream;
    tokio::io::AsyncWriteExt::write_all(&mut stream, half).await.unwrap();
    let began = Instant::now();
    running.server.take().unwrap().stop().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
