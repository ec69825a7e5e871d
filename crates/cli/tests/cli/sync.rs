//! `rejoin sync`, `clone` and `rejected` against `rejoin serve`.

use crate::{Folder, two};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A server of the folder's rooms, until it is dropped.
pub(crate) struct Serving {
    child: Child,
    pub address: String,
    pub url: String,
}

impl Serving {
    pub fn start(f: &Folder, more: &[&str]) -> Serving {
        Serving::start_at(f, "127.0.0.1:0", more)
    }

    pub fn start_at(f: &Folder, address: &str, more: &[&str]) -> Serving {
        let mut words = vec!["serve", "--data", "rooms", "--listen", address, "--insecure-no-auth"];
        words.extend(more);
        let mut command = f.command(&words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run rejoin");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("read");
        let address = line.trim().strip_prefix("listening on ").expect("an address");
        Serving { url: format!("ws://{address}/shop"), address: address.to_owned(), child }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// SIGTERM, and waits.
    pub fn stop(mut self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(sent.expect("run kill").success());
        assert!(self.child.wait().expect("wait").success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_shops_and_a_third_that_clones() {
    let f = two();
    let server = Serving::start(&f, &[]);
    let url = &server.url.clone();
    let ran = f.run(&format!("sync a.db {url}")).ok();
    assert_eq!(ran.out.lines().next_back(), Some("synced"), "{}", ran.out);
    f.run(&format!("sync b.db {url}")).ok();
    f.run(&format!("sync a.db {url}")).ok();
    f.run("diff a.db b.db").ok();
    let ran = f.run(&format!("clone {url} c.db")).ok();
    assert!(ran.out.starts_with("downloaded: "), "{}", ran.out);
    f.run("diff a.db c.db").ok();
    f.run("verify c.db").ok();
    f.run(&format!("clone {url} c.db")).fails(3, &["c.db is there already"]);
    f.run(&format!("clone {url}-none d.db")).fails(9, &["shop-none"]);
    assert!(!f.path("d.db").exists());
    f.run(&format!("sync d.db {url}")).fails(3, &["d.db does not exist"]);
    // Another room's database.
    f.run(&format!("sync a.db {url}-other")).fails(9, &["lineage"]);
    drop(server);
    f.run(&format!("sync a.db {url}")).fails(12, &["cannot be reached"]);
    f.run(&format!("clone {url} d.db")).fails(12, &["cannot be reached"]);
}

#[test]
fn states_for_programs() {
    let f = two();
    let server = Serving::start(&f, &[]);
    let ran = f.run(&format!("sync a.db {} --json", server.url)).ok();
    let states: Vec<serde_json::Value> =
        ran.out.lines().map(|l| serde_json::from_str(l).expect("an object in a line")).collect();
    let last = states.last().expect("a state");
    assert_eq!((&last["state"], &last["pending"]), (&"synced".into(), &0.into()), "{}", ran.out);
    assert!(states.iter().all(|s| s["state"].is_string() && s["pending"].is_u64()), "{}", ran.out);
    let ran = f.run(&format!("clone {} c.db --json", server.url)).ok();
    let first: serde_json::Value =
        serde_json::from_str(ran.out.lines().next().expect("a line")).expect("an object");
    assert_eq!(first["state"], "downloading", "{}", ran.out);
    assert!(ran.out.contains("\"downloaded\""), "{}", ran.out);
    drop(server);
    let ran = f.run("sync a.db ws://127.0.0.1:1/shop --json");
    let last: serde_json::Value =
        serde_json::from_str(ran.out.lines().next_back().expect("a line")).expect("an object");
    assert_eq!((ran.code, &last["state"]), (12, &"offline".into()), "{}", ran.out);
}

#[test]
fn watching_until_interrupted() {
    let f = two();
    let server = Serving::start(&f, &[]);
    let mut command = f.command(&["sync", "a.db", &server.url, "--watch"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run rejoin");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines().map(|l| l.expect("a line"));
    assert!(lines.any(|l| l == "synced"));
    // Another program writes, and a third one hears of it.
    f.sql("a.db", "INSERT INTO books(id, title) VALUES (9, 'While it watches')");
    assert!(lines.any(|l| l.starts_with("syncing")));
    assert!(lines.any(|l| l == "synced"));
    f.run(&format!("sync b.db {}", server.url)).ok();
    assert_eq!(f.rows("b.db", "SELECT title FROM books WHERE id = 9"), "While it watches");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("run kill");
    assert!(sent.success());
    let output = child.wait_with_output().expect("wait");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("stays pending"), "{err}");
}

#[test]
fn what_was_rejected_is_shown_and_decided_on() {
    let f = two();
    f.write(
        "server.toml",
        "[[policy]]\ntable = 'books'\non = 'any'\nrequire = 'new.stock IS NULL OR new.stock >= 0'\nmessage = 'no stock below zero'\n",
    );
    let server = Serving::start(&f, &["--config", "server.toml"]);
    let sync = format!("sync a.db {}", server.url);
    f.run(&sync).ok();
    assert_eq!(f.run("rejected a.db").ok().out.trim(), "nothing is rejected");
    f.sql("a.db", "UPDATE books SET stock = -3 WHERE id = 1");
    let ran = f.run(&sync).fails(10, &["1 transaction", "rejoin rejected a.db"]);
    assert!(ran.out.contains("no stock below zero"), "{}", ran.out);
    assert_eq!(f.rows("a.db", "SELECT stock FROM books WHERE id = 1"), "1");
    let ran = f.run("rejected a.db").ok();
    assert!(
        ran.out.contains("no stock below zero (policy)") && ran.out.contains("stock = -3"),
        "{}",
        ran.out
    );
    let all = f.run("rejected a.db --json").ok().json();
    let first = &all["transactions"][0];
    assert_eq!((&first["code"], &first["changes"][0]["value"]), (&"policy".into(), &(-3).into()), "{all}");
    let version = first["version"].as_u64().expect("a version");
    f.run("rejected a.db --drop 12345").fails(5, &["12345"]);
    // Written again as it is, it is rejected again.
    f.run(&format!("rejected a.db --retry {version}")).ok();
    assert_eq!(f.rows("a.db", "SELECT stock FROM books WHERE id = 1"), "-3");
    f.run(&sync).fails(10, &["1 transaction"]);
    let again =
        f.run("rejected a.db --json").ok().json()["transactions"][0]["version"].as_u64().expect("a version");
    assert!(again > version);
    f.run(&format!("rejected a.db --drop {again}")).ok();
    f.run(&sync).ok();
}

#[test]
fn what_a_user_is_told_who_begins() {
    let f = two();
    f.write("server.toml", "[limits]\ncut_bytes = 65536\n");
    let server = Serving::start(&f, &["--config", "server.toml"]);
    let url = &server.url.clone();
    // Nothing is replicated on either side: the two are equal, and that is not what was wanted.
    f.plain("plain.db").execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY)").expect("a table");
    let ran = f.run(&format!("sync plain.db {url}-plain")).ok();
    assert!(ran.err.contains("`rejoin replicate plain.db TABLE`"), "{}", ran.err);
    // A mistyped name leaves nothing behind.
    f.run(&format!("clone {url}-none d.db")).fails(9, &["shop-none"]);
    assert!(!f.path("d.db.part").exists());
    // More than the server takes at once: the ways out, and that each is one.
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1100) \
        INSERT INTO books (id, title) SELECT i, hex(randomblob(1000)) FROM n";
    f.sql("a.db", fill);
    f.run(&format!("sync a.db {url}")).fails(9, &["cut_bytes", "copy of this database"]);
    let copy = format!("VACUUM INTO '{}'", f.path("rooms/shop-copied.db").display());
    f.plain("a.db").execute_batch(&copy).expect("a copy");
    f.run(&format!("sync a.db {url}-copied")).ok();
}
