//! The same frames over plain HTTP.

use crate::util::*;
use rejoin::{CutRequest, Replica};
use rejoin_wire::frame::{Code, Frame, Hello, cut_hash};
use serde_json::json;

fn body(frames: &[Frame]) -> Vec<u8> {
    let mut all = Vec::new();
    for frame in frames {
        let bytes = frame.encode().unwrap();
        all.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        all.extend_from_slice(&bytes);
    }
    all
}

fn frames(mut body: &[u8]) -> Vec<Frame> {
    let mut all = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_le_bytes(*head) as usize);
        all.push(Frame::decode(frame, usize::MAX).unwrap());
        body = rest;
    }
    assert!(body.is_empty());
    all
}

async fn post(running: &Running, token: Option<&str>, body: &[u8]) -> Answer {
    let bearer = token.map(|t| format!("Bearer {t}")).unwrap_or_default();
    let headers = [("authorization", bearer.as_str())];
    http(running.address, "POST", "/shop/push", if token.is_some() { &headers } else { &[] }, body).await
}

async fn pull(running: &Running, replica: &Replica) -> Vec<u8> {
    let hello = Frame::Hello(Hello { credit: 1 << 20, ..hello(replica, None) }).encode().unwrap();
    let hex: String = hello.iter().map(|b| format!("{b:02x}")).collect();
    let answer = get(running.address, &format!("/shop/pull?hello={hex}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut bytes = Vec::new();
    let mut hash = None;
    for frame in frames(&answer.body) {
        match frame {
            Frame::Cut(cut) => hash = Some(cut.hash),
            Frame::Data(data) => bytes.extend_from_slice(&data.bytes.0),
            _ => {}
        }
    }
    assert_eq!(hash, (!bytes.is_empty()).then(|| cut_hash(&bytes)));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn push_and_pull() {
    let running = open_server().await;
    let (ann, bob) = (replica(), replica());
    write(&ann, 1, "ann", "by HTTP");
    // More than is sent ahead.
    let conn = ann.connection();
    conn.execute("INSERT INTO notes VALUES (3, 'ann', hex(randomblob(3000000)))", []).unwrap();
    let cut = ann.cut_for(&CutRequest::new(&Default::default())).unwrap().unwrap().bytes;
    let mut all = vec![Frame::Hello(hello(&ann, None))];
    all.extend(cut_frames(1, &cut));
    let answer = post(&running, None, &body(&all)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answers = frames(&answer.body);
    assert!(matches!(answers.first(), Some(Frame::Welcome(_))));
    assert!(answers.contains(&Frame::Ack(1)), "no acknowledgement");
    bob.apply_changeset(&pull(&running, &bob).await).unwrap();
    assert_eq!(bodies(&bob), bodies(&ann));
    assert!(pull(&running, &bob).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_has_its_status() {
    let running = server_with("schema = 'adopt'").await;
    let ann = replica();
    let good = token("ann", "shop", json!({}));
    let greeting = body(&[Frame::Hello(hello(&ann, None))]);
    let statuses = [
        ("no token", None, greeting.clone(), 401),
        ("a bad token", Some("x"), greeting.clone(), 401),
        ("a good one", Some(good.as_str()), greeting.clone(), 200),
        ("nothing", Some(good.as_str()), Vec::new(), 400),
        ("half a frame", Some(good.as_str()), greeting[..greeting.len() - 1].to_vec(), 400),
        ("no frame", Some(good.as_str()), vec![1, 0, 0, 0, 99], 400),
        ("a gigabyte", Some(good.as_str()), vec![0, 0, 0, 64], 413),
        ("no greeting", Some(good.as_str()), body(&[Frame::Credit(1)]), 400),
    ];
    for (what, token, body, status) in statuses {
        let answer = post(&running, token, &body).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
    }
    for path in ["/shop/pull", "/shop/pull?hello=xyz", "/shop/pull?hello=0", "/shop/pull?hello=00"] {
        assert_eq!(get(running.address, path).await.status, 400, "{path}");
    }
    // A cut that is not all there: it is not applied, and the answer says that it ends.
    let cut = {
        write(&ann, 1, "ann", "half");
        ann.cut_for(&CutRequest::new(&Default::default())).unwrap().unwrap().bytes
    };
    let head = cut_frames(1, &cut).remove(0);
    let half = body(&[Frame::Hello(hello(&ann, Some(&token("ann", "shop", json!({"schema": true}))))), head]);
    let answer = post(&running, None, &half).await;
    let last = frames(&answer.body).pop();
    assert!(matches!(&last, Some(Frame::Fault(f)) if f.code == Code::Protocol), "{last:?}");
}
