//! Keys, policies and schemas that change while clients are connected.

use crate::util::*;
use rejoin_server::Server;
use rejoin_wire::frame::{Code, Frame};
use serde_json::json;

const CONFIG: &str =
    "schema = 'schema.sql'\n[auth]\nkey_file = 'secret'\nalgorithm = 'HS256'\nleeway_s = 0\n";
const STRICTER: &str = "[[policy]]\ntable = 'notes'\non = 'any'\nrequire = \"new.body <> 'banned'\"\n";

async fn started() -> (Running, Server) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("schema.sql"), SCHEMA).unwrap();
    let server = Server::start(load(dir.path(), CONFIG, false).unwrap()).await.unwrap();
    (Running { address: server.address(), server: None, dir }, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_hold_from_the_moment_on_in_open_sessions() {
    let (running, server) = started().await;
    let ann = replica();
    let anns_token = token("ann", "shop", json!({}));
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, Some(&anns_token)).await.unwrap();
    write(&ann, 1, "ann", "banned");
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    // What does not compile changes nothing.
    let broken = format!("{CONFIG}{}", STRICTER.replace("<>", "<> ="));
    let refused = server.reload(load(running.dir.path(), &broken, false).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("server.toml:9: policy for \"notes\""), "{refused}");
    let held = ann.vector().unwrap();
    write(&ann, 2, "ann", "banned");
    assert!(matches!(anns.push(&ann, &held.into()).await, Outcome::Ack));
    server.reload(load(running.dir.path(), &format!("{CONFIG}{STRICTER}"), false).unwrap()).unwrap();
    let held = ann.vector().unwrap();
    write(&ann, 3, "ann", "banned");
    let outcome = anns.push(&ann, &held.into()).await;
    assert_eq!(code_of(&outcome), Some(Code::Policy), "{outcome:?}");
    assert_eq!(running.rows("shop", "SELECT id || '' FROM notes ORDER BY id"), ["1", "2"]);
    // Whether tokens are needed is no matter of a moment.
    let open = server.reload(load(running.dir.path(), "", true).unwrap()).unwrap_err().to_string();
    assert!(open.contains("[auth] can only be switched"), "{open}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_token_of_a_key_that_is_gone_goes_too() {
    let (running, server) = started().await;
    let (ann, bob) = (replica(), replica());
    let mut anns = running.connect("shop").await;
    anns.greet(&ann, Some(&token("ann", "shop", json!({})))).await.unwrap();
    let claims = json!({"sub": "bob", "room": "shop", "exp": now_s() + 600});
    let new_secret = "another secret of at least thirty-two bytes";
    std::fs::write(running.dir.path().join("new"), new_secret).unwrap();
    let config = CONFIG.replace("key_file = 'secret'", "key_file = 'new'");
    server.reload(load(running.dir.path(), &config, false).unwrap()).unwrap();
    assert_eq!(anns.fault().await.code, Code::Unauthenticated);
    let renewed = hs256(new_secret.as_bytes(), &claims);
    running.connect("shop").await.greet(&bob, Some(&renewed)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_takes_another_schema_file_and_its_clients_go_on() {
    let (running, server) = started().await;
    let ann = replica_with(&SCHEMA.replace("body TEXT", "body TEXT, colour TEXT"));
    let anns_token = token("ann", "shop", json!({}));
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, Some(&anns_token)).await.unwrap();
    ann.connection().execute("INSERT INTO notes VALUES (1, 'ann', 'x', 'red')", []).unwrap();
    let outcome = anns.push(&ann, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Ahead), "{outcome:?}");
    anns.since = 1;
    let next = SCHEMA.replace("body TEXT", "body TEXT, colour TEXT");
    std::fs::write(running.dir.path().join("next.sql"), next).unwrap();
    let config = CONFIG.replace("schema.sql", "next.sql");
    server.reload(load(running.dir.path(), &config, false).unwrap()).unwrap();
    loop {
        match anns.frame().await {
            Some(Frame::Schema(now)) if String::from_utf8_lossy(&now.0).contains("colour") => break,
            Some(Frame::Schema(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    // The same session goes on.
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    assert_eq!(running.rows("shop", "SELECT colour FROM notes"), ["red"]);
    server.stop().await;
}
