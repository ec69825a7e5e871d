//! What is refused before the server starts.

use crate::util::*;
use rejoin_server::{Options, Server, config};

fn refusal(text: &str, insecure: bool) -> String {
    let dir = tempfile::tempdir().unwrap();
    let message = load(dir.path(), text, insecure).expect_err(text);
    message.replace(&dir.path().display().to_string(), "DIR")
}

async fn start_refusal(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("schema.sql"), "CREATE TABLE notes (id INTEGER PRIMARY KEY, owner TEXT)")
        .unwrap();
    std::fs::write(dir.path().join("short"), "too short").unwrap();
    std::fs::write(
        dir.path().join("public.pem"),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    )
    .unwrap();
    std::fs::write(dir.path().join("empty.json"), "{\"keys\": []}").unwrap();
    std::fs::write(dir.path().join("broken.sql"), "CREATE TABLE").unwrap();
    let config = load(dir.path(), text, !text.contains("[auth]")).unwrap();
    match Server::start(config).await {
        Ok(_) => panic!("started: {text}"),
        Err(e) => e.to_string().replace(&dir.path().display().to_string(), "DIR"),
    }
}

#[test]
fn lines_of_the_file_are_named() {
    for (text, message) in [
        ("\nlissten = 'x'", "DIR/server.toml:2: unknown field `lissten`"),
        ("[limits]\nframes_per_s = 5\nframe_byte = 3", "DIR/server.toml:3: unknown field `frame_byte`"),
        ("[limits]\nheaders = -1", "DIR/server.toml:2: invalid value: integer `-1`"),
        ("[limits]\nheaders = 0", "[limits] headers = 0 is too little; at least 1"),
        ("[limits]\nframe_bytes = 100000000", "[limits] frame_bytes = 100000000 is too much"),
        (
            "[[policy]]\ntable = 'x'\non = 'sometimes'\nrequire = '1'",
            "DIR/server.toml:3: `on` is \"insert\", ",
        ),
        ("[[policy]]\ntable = 'x'\nrequire = '1'", "DIR/server.toml:1: missing field `on`"),
        ("[auth", "DIR/server.toml:1: "),
        ("\n[room.\"../x\"]\nschema = 'adopt'", "DIR/server.toml:2: \"../x\" cannot be the name of a room"),
    ] {
        let refused = refusal(text, true);
        assert!(refused.starts_with(message), "{refused}");
    }
}

#[test]
fn without_a_key_only_this_machine_is_served() {
    assert!(refusal("", false).starts_with("no key to check tokens with"));
    assert!(refusal("[auth]\njwks_file = 'x'", true).contains("exclude each other"));
    let load = |listen: &str, insecure_no_auth| {
        let options =
            Options { data: Some("x".into()), listen: Some(listen.into()), config: None, insecure_no_auth };
        config::load(&options).map_err(|e| e.to_string())
    };
    assert!(load("0.0.0.0:1", true).unwrap_err().contains("not a loopback address"));
    assert!(load("[::]:1", true).unwrap_err().contains("not a loopback address"));
    assert!(load("192.0.2.1:1", true).unwrap_err().contains("not a loopback address"));
    assert!(load("localhost", true).unwrap_err().contains("is no ADDRESS:PORT"));
    assert!(load("127.0.0.1:1", true).is_ok() && load("[::1]:1", true).is_ok());
    let nothing = Options { insecure_no_auth: true, ..Options::default() };
    assert!(config::load(&nothing).unwrap_err().to_string().contains("--data"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_schemas_and_policies_are_checked_at_the_start() {
    for (text, message) in [
        ("[auth]\nissuer = 'x'", "[auth] names no key"),
        ("[auth]\nkey_file = 'secret'", "[auth] key_file needs algorithm"),
        ("[auth]\nkey_file = 'none'\nalgorithm = 'HS256'", "DIR/none: "),
        ("[auth]\nkey_file = 'secret'\nalgorithm = 'none'", "[auth] algorithm = \"none\": only HS256"),
        ("[auth]\nkey_file = 'secret'\nalgorithm = 'RS256'", "DIR/secret: no RSA public key"),
        ("[auth]\nkey_file = 'secret'\nalgorithm = 'EdDSA'", "DIR/secret: no Ed25519 public key"),
        (
            "[auth]\nkey_file = 'short'\nalgorithm = 'HS256'",
            "DIR/short: a secret for HS256 has at least 32 bytes",
        ),
        ("[auth]\nkey_file = 'public.pem'\nalgorithm = 'HS256'", "DIR/public.pem: a PEM file is no secret"),
        ("[auth]\njwks_file = 'empty.json'", "[auth] names no key"),
        ("schema = 'none.sql'", "DIR/none.sql: "),
        ("schema = 'broken.sql'", "DIR/broken.sql: "),
        ("[tls]\ncertificate_file = 'none'\nkey_file = 'none'", "DIR/none: "),
        (
            "schema = 'schema.sql'\n[[policy]]\ntable = 'notes'\non = 'any'\nrequire = 'new.owner ='",
            "DIR/server.toml:5: policy for \"notes\": ",
        ),
        (
            "schema = 'schema.sql'\n[[policy]]\ntable = 'notes'\non = 'any'\nrequire = 'new.body = 1'",
            "DIR/server.toml:5: table \"notes\" has no column \"body\"",
        ),
        (
            "schema = 'schema.sql'\n[[policy]]\ntable = 'note'\non = 'any'\nrequire = '1'",
            "DIR/server.toml:5: no schema has a table \"note\"",
        ),
    ] {
        let refused = start_refusal(text).await;
        assert!(refused.starts_with(message), "{text}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_server() {
    let running = open_server().await;
    let config = load(running.dir.path(), "", true).unwrap();
    let Err(refused) = Server::start(config).await else { panic!("two servers") };
    assert!(refused.to_string().contains("another server is running"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics() {
    let running = open_server().await;
    let health = get(running.address, "/healthz").await;
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    assert!(health.header("x-request-id").is_some());
    let ann = replica();
    let mut anns = running.connect("shop").await;
    anns.greet(&ann, None).await.unwrap();
    let metrics = get(running.address, "/metrics").await;
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    for name in
        ["rejoin_connections", "rejoin_frames_received_total", "rejoin_http_requests_total{status=\"200\"}"]
    {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert_eq!(get(running.address, "/").await.status, 404);
    assert_eq!(http(running.address, "DELETE", "/shop", &[], b"").await.status, 405);
}

#[test]
fn the_documentation_has_every_limit() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
    let text = std::fs::read_to_string(path).unwrap();
    let limits = text.split("### Limits").nth(1).and_then(|t| t.split("\n## ").next()).expect("a section");
    let row = |line: &str| -> Option<(String, u64)> {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?.to_owned();
        Some((name, cells.next()?.parse().ok()?))
    };
    let said: Vec<_> = limits.lines().filter_map(row).collect();
    let is: Vec<_> = config::Limits::defaults().into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    assert_eq!(said, is);
}
