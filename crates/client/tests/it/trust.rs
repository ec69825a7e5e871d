//! Tokens and certificates.

use crate::util::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rejoin_client::{Error, Options, State, Token, clone_room, sync_once};
use std::time::{SystemTime, UNIX_EPOCH};

pub const SECRET: &str = "a secret for tests alone, longer than thirty-two bytes";
pub const AUTH: &str = "schema = 'adopt'\n[auth]\nkey_file = 'secret'\nalgorithm = 'HS256'\nleeway_s = 0";

fn anns(seconds: u64, more: &str) -> String {
    token("ann", seconds, more)
}

pub fn token(subject: &str, seconds: u64, more: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = format!(r#"{{"sub": "{subject}", "room": "shop", "exp": {}{more}}}"#, now + seconds);
    let input =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg": "HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, input.as_bytes())))
}

pub const MAY_ALL: &str = r#", "schema": true"#;

pub fn with(token: Token) -> Options {
    Options { token, ..Options::default() }
}

#[test]
fn no_token_a_wrong_one_and_one_for_reading() {
    let place = Place::with(AUTH, &[("secret", SECRET)]);
    let a = place.replica("a.db");
    insert(&a, 1, "x");
    let sync = |token| sync_once(place.path("a.db"), &place.url("shop"), with(token)).expect("it ends").state;
    assert!(matches!(sync(Token::None), State::Incompatible { .. }));
    assert!(matches!(sync(Token::Fixed("x.y.z".into())), State::Incompatible { .. }));
    assert_eq!(sync(Token::Fixed(anns(600, MAY_ALL))), State::Synced);
    let reading = r#", "read_only": true"#;
    assert_eq!(sync(Token::Fixed(anns(600, reading))), State::Synced);
    insert(&a, 2, "y");
    let State::Behind { pending: 1, reason } = sync(Token::Fixed(anns(600, reading))) else {
        panic!("it must wait")
    };
    assert!(reason.contains("reading only"), "{reason}");
    let clone = |token| clone_room(&place.url("shop"), place.path("b.db"), &with(token), |_| ());
    assert!(matches!(clone(Token::None), Err(rejoin_client::Error::Refused { status: 401, .. })));
    clone(Token::Fixed(anns(600, ""))).expect("it clones");
}

/// The file with the token is written anew before, or after, the token in it ends: the client goes on by itself.
#[test]
fn a_token_is_renewed() {
    let place = Place::with(AUTH, &[("secret", SECRET)]);
    let a = place.replica("a.db");
    let file = place.path("token");
    std::fs::write(&file, anns(6, MAY_ALL)).expect("write");
    let mut at_a = place.client_with("a.db", "shop", with(Token::File(file.clone())));
    at_a.until_synced();
    // In time: the connection stays.
    std::fs::write(&file, anns(9, MAY_ALL)).expect("write");
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert_eq!(at_a.client.state(), State::Synced);
    // Too late.
    at_a.until_state("incompatible");
    insert(&a, 1, "meanwhile");
    std::fs::write(&file, anns(600, MAY_ALL)).expect("write");
    at_a.until("synced", |r| r.state == State::Synced && r.pending == 0);
}

#[test]
fn certificates_are_checked() {
    let tls = "[tls]\ncertificate_file = 'tls.pem'\nkey_file = 'tls.key'";
    let certificate = include_str!("../../../server/tests/it/tls.pem");
    let files = [("tls.pem", certificate), ("tls.key", include_str!("../../../server/tests/it/tls.key"))];
    let place = Place::with(tls, &files);
    let a = place.replica("a.db");
    insert(&a, 1, "x");
    let port = place.address.port();
    let sync = |host: &str, ca_file| {
        let options = Options { ca_file, ..Options::default() };
        sync_once(place.path("a.db"), &format!("wss://{host}:{port}/shop"), options).expect("it ends").state
    };
    let trusted = || Some(place.path("tls.pem"));
    assert_eq!(sync("127.0.0.1", trusted()), State::Synced);
    // Nobody vouches for it; it is another's; and without encryption nothing is said.
    for (host, ca_file) in [("127.0.0.1", None), ("localhost", trusted())] {
        let State::Offline { why, .. } = sync(host, ca_file) else { panic!("it must not connect") };
        assert!(why.contains("certificate"), "{why}");
    }
    let options = Options { ca_file: Some(place.path("server.toml")), ..Options::default() };
    assert!(matches!(
        sync_once(place.path("a.db"), "wss://localhost/shop", options),
        Err(Error::File { .. })
    ));
    let options = Options { ca_file: trusted(), ..Options::default() };
    clone_room(&format!("wss://127.0.0.1:{port}/shop"), place.path("b.db"), &options, |_| ())
        .expect("it clones");
    let plain = sync_once(place.path("a.db"), &place.url("shop"), Options::default()).expect("it ends").state;
    assert!(matches!(plain, State::Offline { .. }), "{plain}");
}

/// A restored server is filled again by one who relays, but for what it does not take any more: that has a name, and the rest
/// goes on.
#[test]
fn what_a_server_does_not_take_from_others_is_not_relayed() {
    let mut place = Place::with(AUTH, &[("secret", SECRET)]);
    let with_token = |subject: &str, more: &str| with(Token::Fixed(token(subject, 600, more)));
    let (ann, carol, bob) = (place.replica("ann.db"), place.replica("carol.db"), place.replica("bob.db"));
    let sync = |place: &Place, who: &str, more: &str| {
        let db = place.path(&format!("{who}.db"));
        sync_once(db, &place.url("shop"), with_token(who, more)).expect("it ends").state
    };
    assert_eq!(sync(&place, "bob", r#", "schema": true"#), State::Synced);
    place.stop();
    std::fs::copy(place.room_file("shop"), place.path("backup")).expect("a copy");
    place.start();
    insert(&ann, 1, "good");
    assert_eq!(sync(&place, "ann", ""), State::Synced);
    insert(&ann, 2, "banned");
    insert(&ann, 3, "after it");
    insert(&carol, 4, "carol's");
    assert_eq!(sync(&place, "ann", ""), State::Synced);
    assert_eq!(sync(&place, "carol", ""), State::Synced);
    assert_eq!(sync(&place, "bob", ""), State::Synced);
    assert_eq!(titles(&bob).len(), 4);
    place.stop();
    std::fs::copy(place.path("backup"), place.room_file("shop")).expect("a copy");
    place.configure("[[policy]]\ntable = 'books'\non = 'any'\nrequire = \"new.title <> 'banned'\"\nmessage = 'a banned title'\n");
    place.start();
    insert(&bob, 5, "bob's own");
    let State::Behind { pending: 0, reason } = sync(&place, "bob", r#", "relay": true"#) else {
        panic!("it must say so")
    };
    assert!(reason.contains("a banned title") && reason.contains("does not take them from here"), "{reason}");
    let room = rejoin::Replica::open(place.room_file("shop")).expect("open");
    let ids: Vec<i64> = titles(&room).into_iter().map(|t| t.0).collect();
    // Of Ann's, what came before; all of the others.
    assert_eq!(ids, [1, 4, 5]);
    // Ann herself takes hers back.
    let State::Rejected { pending: 0, transactions: 1, .. } = sync(&place, "ann", "") else {
        panic!("it must be rejected")
    };
    assert_eq!(titles(&room).into_iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert!(room.verify().expect("verifies").is_clean());
}
