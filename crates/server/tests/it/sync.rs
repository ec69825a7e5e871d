//! Replicas that meet in a room.

use crate::util::*;
use rejoin::Replica;
use rejoin_wire::frame::{Code, Frame};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_meet_in_a_room_that_takes_their_schema() {
    let running = open_server().await;
    let (ann, bob) = (replica(), replica());
    write(&ann, 1, "ann", "first");
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    // Catch-up.
    let mut bobs = running.connect("shop").await;
    let welcome = bobs.greet(&bob, None).await.unwrap();
    assert_eq!(welcome.vector.0, ann.vector().unwrap());
    bob.apply_changeset(&bobs.pull().await).unwrap();
    assert_eq!(bodies(&bob), ["first"]);
    // The live tail, in both directions.
    write(&bob, 2, "bob", "second");
    assert!(matches!(bobs.push(&bob, &welcome.vector).await, Outcome::Ack));
    ann.apply_changeset(&anns.pull().await).unwrap();
    for i in 3..6 {
        write(&ann, i, "ann", &format!("number {i}"));
        assert!(matches!(anns.push(&ann, &bob.vector().unwrap().into()).await, Outcome::Ack));
        bob.apply_changeset(&bobs.pull().await).unwrap();
    }
    assert_eq!(bodies(&ann), bodies(&bob));
    assert_eq!(running.rows("shop", "SELECT body FROM notes ORDER BY id"), bodies(&ann));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_writes_reaches_clients() {
    let running = open_server().await;
    let ann = replica();
    let mut anns = running.connect("shop").await;
    anns.greet(&ann, None).await.unwrap();
    // The room has taken the table; a program beside the server writes to it.
    let other = Replica::open(running.room_file("shop")).unwrap();
    other.connection().busy_timeout(Duration::from_secs(30)).unwrap();
    write(&other, 7, "other", "beside the server");
    ann.apply_changeset(&anns.pull().await).unwrap();
    assert_eq!(bodies(&ann), ["beside the server"]);
    // And so do tables that it makes.
    other.connection().execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY)").unwrap();
    other.replicate("orders").unwrap();
    loop {
        match anns.frame().await {
            Some(Frame::Schema(schema)) => {
                break assert!(String::from_utf8(schema.0).unwrap().contains("orders"));
            }
            Some(Frame::Cut(_) | Frame::Data(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_lineage_is_refused() {
    let running = open_server().await;
    let (ann, bob) = (replica(), replica());
    running.connect("shop").await.greet(&ann, None).await.unwrap();
    bob.set_lineage([7; 16]).unwrap();
    let fault = running.connect("shop").await.greet(&bob, None).await.unwrap_err();
    assert_eq!(fault.code, Code::OtherLineage);
    // A room of another name is another database.
    let fault = running.connect("other").await.greet(&ann, None).await.unwrap_err();
    assert_eq!(fault.code, Code::OtherLineage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_an_old_copy_goes_on_under_a_new_site() {
    let mut running = open_server().await;
    let ann = replica();
    let mut anns = running.connect("shop").await;
    anns.greet(&ann, None).await.unwrap();
    drop(anns);
    running.server.take().unwrap().stop().await;
    let copy = std::fs::read(running.room_file("shop")).unwrap();
    // The room itself writes something, which a client learns.
    let room = Replica::open(running.room_file("shop")).unwrap();
    write(&room, 1, "room", "lost");
    ann.apply_changeset(&room.changeset_since(0).unwrap()).unwrap();
    let before = room.site_id().unwrap();
    drop(room);
    std::fs::write(running.room_file("shop"), copy).unwrap();
    let config = load(running.dir.path(), "", true).unwrap();
    let server = rejoin_server::Server::start(config).await.unwrap();
    running.address = server.address();
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    assert_ne!(welcome.site, before.0);
    // The client hands back what was lost.
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    assert_eq!(running.rows("shop", "SELECT body FROM notes"), ["lost"]);
    server.stop().await;
}
