//! The first sync.

use crate::util::*;
use rejoin::Replica;
use serde_json::json;

async fn filled() -> (Running, Replica) {
    let running = open_server_with("[limits]\nsnapshot_transactions = 2").await;
    let ann = replica();
    for i in 0..50 {
        write(&ann, i, "ann", &format!("note {i}"));
    }
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    (running, ann)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_becomes_a_replica() {
    let (running, ann) = filled().await;
    let answer = get(running.address, "/shop/snapshot").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("rejoin-blake3"), Some(blake3::hash(&answer.body).to_hex().as_str()));
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    let file = running.dir.path().join("clone.db");
    std::fs::write(&file, &answer.body).unwrap();
    let clone = Replica::from_snapshot(&file).unwrap();
    assert_eq!(bodies(&clone), bodies(&ann));
    assert_eq!(clone.vector().unwrap(), ann.vector().unwrap());
    // What the server keeps for itself is not in it, not even in free pages.
    let mut q =
        clone.connection().prepare("SELECT name FROM sqlite_schema WHERE name LIKE 'rejoin_%'").unwrap();
    assert!(!q.exists([]).unwrap());
    assert!(!answer.body.windows(9).any(|w| w == b"anonymous"));
    drop(q);
    // It goes on with the tail, under an id of its own.
    let mut client = running.connect("shop").await;
    let welcome = client.greet(&clone, None).await.unwrap();
    write(&clone, 100, "clone", "new");
    assert!(matches!(client.push(&clone, &welcome.vector).await, Outcome::Ack));
    // Nothing is left lying about.
    assert_eq!(std::fs::read_dir(running.dir.path().join("rooms/.snapshots")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_ended() {
    let (running, ann) = filled().await;
    let whole = get(running.address, "/shop/snapshot").await;
    let tag = whole.header("etag").unwrap().to_owned();
    let range = |range: &'static str, tag: String| async move {
        http(running.address, "GET", "/shop/snapshot", &[("range", range), ("if-range", &tag)], b"").await
    };
    let part = range("bytes=1000-1999", tag.clone()).await;
    assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[1000..2000]));
    let said = format!("bytes 1000-1999/{}", whole.body.len());
    assert_eq!(part.header("content-range"), Some(said.as_str()));
    let rest = range("bytes=5000-", tag.clone()).await;
    assert_eq!((rest.status, rest.body.as_slice()), (206, &whole.body[5000..]));
    let last = range("bytes=-10", tag.clone()).await;
    assert_eq!(last.body, whole.body[whole.body.len() - 10..]);
    assert_eq!(range("bytes=99999999-", tag.clone()).await.status, 416);
    let same = http(running.address, "GET", "/shop/snapshot", &[("if-none-match", &tag)], b"").await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    let head = http(running.address, "HEAD", "/shop/snapshot", &[], b"").await;
    assert_eq!((head.status, head.header("etag"), head.body.len()), (200, Some(tag.as_str()), 0));
    // Once the room has moved on, the rest of the old one is of no use.
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, None).await.unwrap();
    for i in 200..204 {
        write(&ann, i, "ann", "more");
    }
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    let fresh = range("bytes=1000-1999", tag.clone()).await;
    assert_eq!(fresh.status, 200);
    assert_ne!(fresh.header("etag"), Some(tag.as_str()));
    assert_eq!(fresh.header("rejoin-blake3"), Some(blake3::hash(&fresh.body).to_hex().as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_for_those_who_may_read() {
    let running = server_with("schema = 'adopt'\n[limits]\nrequests_per_s = 3").await;
    let ann = replica();
    let anns = token("ann", "shop", json!({"schema": true}));
    running.connect("shop").await.greet(&ann, Some(&anns)).await.unwrap();
    let ask = |path: &'static str, token: String| async move {
        let bearer = format!("Bearer {token}");
        http(running.address, "GET", path, &[("authorization", &bearer)], b"").await
    };
    assert_eq!(get(running.address, "/shop/snapshot").await.status, 401);
    assert_eq!(ask("/shop/snapshot", "x".into()).await.status, 401);
    assert_eq!(ask("/shop/snapshot", token("ann", "other", json!({}))).await.status, 403);
    assert_eq!(ask("/other/snapshot", token("ann", "other", json!({}))).await.status, 404);
    assert_eq!(ask("/shop/snapshot", token("bob", "shop", json!({"read_only": true}))).await.status, 200);
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(ask("/shop/snapshot", token("eve", "shop", json!({}))).await);
    }
    let limited = answers.iter().find(|a| a.status == 429).expect("a bound on requests");
    assert_eq!(limited.header("retry-after"), Some("1"));
}
