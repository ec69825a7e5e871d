//! Tokens: who is let in, where, and for how long.

use crate::util::*;
use rejoin_wire::frame::{Code, Frame};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

async fn greeted(running: &Running, room: &str, token: Option<&str>) -> Result<(), Code> {
    let replica = replica();
    let mut client = running.connect(room).await;
    client.greet(&replica, token).await.map(|_| ()).map_err(|fault| fault.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_their_rooms_and_no_others() {
    let running = server_with("schema = 'adopt'").await;
    let good = json!({"sub": "ann", "room": "shop", "exp": now_s() + 600});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        hs256(SECRET.as_bytes(), &claims)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        hs256(SECRET.as_bytes(), &claims)
    };
    let other_secret = hs256(b"another secret of more than thirty-two bytes", &good);
    let none = format!("{}.", signing_input(&json!({"alg": "none"}), &good));
    let none_signed = signed(&signing_input(&json!({"alg": "none"}), &good), b"x");
    let confused = {
        let input = signing_input(&json!({"alg": "RS256"}), &good);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
        signed(&input, ring::hmac::sign(&key, input.as_bytes()).as_ref())
    };
    let tampered = {
        let token = hs256(SECRET.as_bytes(), &good);
        let (head, rest) = token.split_once('.').unwrap();
        let forged = signing_input(&json!({}), &json!({"sub": "root", "room": "*", "exp": now_s() + 600}));
        let (_, signature) = rest.split_once('.').unwrap();
        format!("{head}.{}.{signature}", forged.split_once('.').unwrap().1)
    };
    use Code::{Forbidden, Unauthenticated};
    for (what, token, room, expected) in [
        ("good", hs256(SECRET.as_bytes(), &good), "shop", Ok(())),
        ("list", with("room", json!(["x", "shop"])), "shop", Ok(())),
        ("all", with("room", json!("*")), "shop", Ok(())),
        ("expired", with("exp", json!(now_s() - 600)), "shop", Err(Unauthenticated)),
        ("not yet", with("nbf", json!(now_s() + 600)), "shop", Err(Unauthenticated)),
        ("no exp", without("exp"), "shop", Err(Unauthenticated)),
        ("odd exp", with("exp", json!("soon")), "shop", Err(Unauthenticated)),
        ("no sub", without("sub"), "shop", Err(Unauthenticated)),
        ("empty sub", with("sub", json!("")), "shop", Err(Unauthenticated)),
        ("no room", without("room"), "shop", Err(Unauthenticated)),
        ("odd relay", with("relay", json!("yes")), "shop", Err(Unauthenticated)),
        ("other room", hs256(SECRET.as_bytes(), &good), "other", Err(Forbidden)),
        ("empty list", with("room", json!([])), "shop", Err(Forbidden)),
        ("other secret", other_secret, "shop", Err(Unauthenticated)),
        ("none", none, "shop", Err(Unauthenticated)),
        ("none, signed", none_signed, "shop", Err(Unauthenticated)),
        ("another algorithm", confused, "shop", Err(Unauthenticated)),
        ("tampered", tampered, "shop", Err(Unauthenticated)),
        ("gibberish", "a.b.c".into(), "shop", Err(Unauthenticated)),
        ("empty", String::new(), "shop", Err(Unauthenticated)),
        ("long", "x".repeat(100_000), "shop", Err(Unauthenticated)),
    ] {
        assert_eq!(greeted(&running, room, Some(&token)).await, expected, "{what}");
    }
    assert_eq!(greeted(&running, "shop", None).await, Err(Unauthenticated));
    // Nobody who was refused has made a room.
    assert!(!running.room_file("other").exists());
}

/// A key pair for tests alone.
const RSA_PKCS8: &[u8] = include_bytes!("rsa.pk8");
const RSA_PUBLIC: &str = include_str!("rsa.pem");

#[tokio::test(flavor = "multi_thread")]
async fn public_keys_check_tokens_too() {
    let dir = tempfile::tempdir().unwrap();
    let random = ring::rand::SystemRandom::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let rsa = ring::rsa::KeyPair::from_pkcs8(RSA_PKCS8).unwrap();
    use base64::Engine as _;
    let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(ed.public_key().as_ref());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "x": x}]});
    std::fs::write(dir.path().join("keys.json"), jwks.to_string()).unwrap();
    std::fs::write(dir.path().join("rsa.pem"), RSA_PUBLIC).unwrap();
    let text = "schema = 'adopt'\n[auth]\nkey_file = 'rsa.pem'\nalgorithm = 'RS256'\njwks_file = 'keys.json'\n\
                issuer = 'us'\naudience = 'rooms'";
    let server = rejoin_server::Server::start(load(dir.path(), text, false).unwrap()).await.unwrap();
    let running = Running { address: server.address(), server: Some(server), dir };
    let claims = json!({"sub": "ann", "room": "shop", "exp": now_s() + 600, "iss": "us", "aud": "rooms"});
    let with_ed = |kid: &str, claims: &Value| {
        let input = signing_input(&json!({"alg": "EdDSA", "kid": kid}), claims);
        signed(&input, ed.sign(input.as_bytes()).as_ref())
    };
    let with_rsa = |claims: &Value| {
        let input = signing_input(&json!({"alg": "RS256"}), claims);
        let mut signature = vec![0; rsa.public().modulus_len()];
        rsa.sign(&ring::signature::RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature).unwrap();
        signed(&input, &signature)
    };
    // A public key is no secret: signing with its text must not pass.
    let confused = hs256(RSA_PUBLIC.trim_end().as_bytes(), &claims);
    let mut elsewhere = claims.clone();
    elsewhere["aud"] = json!("another");
    // Clocks differ a little.
    let mut expired = claims.clone();
    expired["exp"] = json!(now_s() - 3);
    let mut nobody = claims.clone();
    nobody.as_object_mut().unwrap().remove("iss");
    use Code::Unauthenticated;
    for (what, token, expected) in [
        ("Ed25519", with_ed("one", &claims), Ok(())),
        ("another key id", with_ed("two", &claims), Err(Unauthenticated)),
        ("RSA", with_rsa(&claims), Ok(())),
        ("RSA key as a secret", confused, Err(Unauthenticated)),
        ("just expired", with_rsa(&expired), Ok(())),
        ("another audience", with_rsa(&elsewhere), Err(Unauthenticated)),
        ("no issuer", with_ed("one", &nobody), Err(Unauthenticated)),
    ] {
        assert_eq!(greeted(&running, "shop", Some(&token)).await, expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_in_an_open_session() {
    let running = server_with("schema = 'adopt'").await;
    let replica = replica();
    let mut client = running.connect("shop").await;
    let short = token("ann", "shop", json!({"exp": now_s() + 3}));
    let welcome = client.greet(&replica, Some(&short)).await.unwrap();
    assert!(welcome.expires_ms.is_some());
    let later = now_s() + 1000;
    client.send(&Frame::Token(token("ann", "shop", json!({"exp": later})))).await;
    let taken = client.frame().await;
    assert_eq!(taken, Some(Frame::TokenTaken(Some(later as u64 * 1000))));
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    write(&replica, 1, "ann", "still here");
    // The first schema had to be brought by somebody who may; this token may not.
    let outcome = client.push(&replica, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Ahead), "{outcome:?}");
    // One of another subject ends the session.
    client.send(&Frame::Token(token("bob", "shop", json!({})))).await;
    assert_eq!(client.fault().await.code, Code::Forbidden);
    // And so does the end of a token that was not renewed.
    let mut client = running.connect("shop").await;
    client.greet(&replica, Some(&token("ann", "shop", json!({"exp": now_s() + 2})))).await.unwrap();
    assert_eq!(client.fault().await.code, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_belong_to_the_subject_that_first_used_them() {
    let running = server_with("schema = 'adopt'").await;
    let (ann, bob) = (replica(), replica());
    let anns_token = token("ann", "shop", json!({"schema": true}));
    write(&ann, 1, "ann", "ann's");
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, Some(&anns_token)).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));
    // Bob says that he is Ann's replica.
    let bobs_token = token("bob", "shop", json!({}));
    let fault = running.connect("shop").await.greet(&ann, Some(&bobs_token)).await.unwrap_err();
    assert_eq!(fault.code, Code::ForeignSite);
    // Bob hands in transactions of Ann's site under his own name.
    write(&ann, 2, "ann", "forged");
    let mut bobs = running.connect("shop").await;
    let welcome = bobs.greet(&bob, Some(&bobs_token)).await.unwrap();
    let outcome = bobs.push(&ann, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::ForeignSite), "{outcome:?}");
    assert_eq!(running.rows("shop", "SELECT body FROM notes ORDER BY id"), ["ann's"]);
    // Who may relay, may.
    let relay = token("bob", "shop", json!({"relay": true}));
    let mut bobs = running.connect("shop").await;
    let welcome = bobs.greet(&bob, Some(&relay)).await.unwrap();
    assert!(welcome.grants.relay);
    assert!(matches!(bobs.push(&ann, &welcome.vector).await, Outcome::Ack));
    assert_eq!(running.rows("shop", "SELECT body FROM notes ORDER BY id"), ["ann's", "forged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_writes_nothing() {
    let running = server_with("schema = 'adopt'").await;
    let ann = replica();
    let reading = token("ann", "shop", json!({"read_only": true, "schema": true}));
    // Not even the room.
    assert_eq!(greeted(&running, "shop", Some(&reading)).await, Err(Code::NoRoom));
    greeted(&running, "shop", Some(&token("bob", "shop", json!({"schema": true})))).await.unwrap();
    write(&ann, 1, "ann", "unwanted");
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, Some(&reading)).await.unwrap();
    assert!(welcome.grants.read_only);
    let outcome = anns.push(&ann, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Forbidden), "{outcome:?}");
    assert_eq!(running.rows("shop", "SELECT body FROM notes"), Vec::<String>::new());
}
