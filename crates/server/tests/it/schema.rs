//! Rooms whose tables come from a file.

use crate::util::*;
use rejoin_wire::frame::{Code, Frame};

#[tokio::test(flavor = "multi_thread")]
async fn a_room_follows_its_schema_file_while_clients_are_connected() {
    let dir = tempfile::tempdir().unwrap();
    let schema = dir.path().join("schema.sql");
    let first = SCHEMA;
    std::fs::write(&schema, first).unwrap();
    let config = load(dir.path(), "schema = 'schema.sql'", true).unwrap();
    let server = rejoin_server::Server::start(config).await.unwrap();
    let running = Running { address: server.address(), server: Some(server), dir };
    let ann = replica_with(&SCHEMA.replace("body TEXT", "body TEXT, colour TEXT"));
    ann.connection().execute("INSERT INTO notes VALUES (1, 'ann', 'x', 'red')", []).unwrap();
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    // The room's schema is the file's, whatever the client has.
    assert!(!String::from_utf8(welcome.schema.0.clone()).unwrap().contains("colour"));
    let outcome = anns.push(&ann, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Ahead), "{outcome:?}");
    std::fs::write(&schema, first.replace("body TEXT", "body TEXT, colour TEXT")).unwrap();
    let Some(Frame::Schema(now)) = anns.frame().await else { panic!("no word of the new schema") };
    assert!(String::from_utf8(now.0).unwrap().contains("colour"));
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    assert_eq!(running.rows("shop", "SELECT colour FROM notes"), ["red"]);
    // What the server keeps for itself is still there.
    assert_eq!(running.rows("shop", "SELECT count(*) || '' FROM rejoin_server_sites"), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn contradicting_schemas_are_refused() {
    let running = open_server().await;
    running.connect("shop").await.greet(&replica(), None).await.unwrap();
    let other = replica_with("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT)");
    let fault = running.connect("shop").await.greet(&other, None).await.unwrap_err();
    assert_eq!(fault.code, Code::IncompatibleSchema);
    assert!(fault.message.contains("notes"), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_rooms_are_made_by_the_operator() {
    let running = open_server_with("schema = 'fixed'\n[room.free]\nschema = 'adopt'").await;
    let fault = running.connect("shop").await.greet(&replica(), None).await.unwrap_err();
    assert_eq!(fault.code, Code::NoRoom);
    running.connect("free").await.greet(&replica(), None).await.unwrap();
    let made = rejoin::Replica::open(running.room_file("shop")).unwrap();
    made.connection().execute_batch(SCHEMA).unwrap();
    made.replicate("notes").unwrap();
    drop(made);
    let more = replica_with(&format!("{SCHEMA}; CREATE TABLE orders (id INTEGER PRIMARY KEY)"));
    running.connect("shop").await.greet(&more, None).await.unwrap();
    assert_eq!(
        running.rows("shop", "SELECT name FROM sqlite_schema WHERE name = 'orders'"),
        Vec::<String>::new()
    );
}
