//! `rejoin serve`, as an operator starts and ends it.

use crate::Folder;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

#[test]
fn it_serves_until_it_is_told_to_stop() {
    let folder = Folder::new();
    let mut command =
        folder.command(&["serve", "--data", "rooms", "--listen", "127.0.0.1:0", "--insecure-no-auth"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").expect("an address");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Nobody else serves the same rooms.
    let second = folder.run("serve --data rooms --listen 127.0.0.1:0 --insecure-no-auth");
    second.fails(2, &["another server is running"]);
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{log}");
    for words in ["serving", "stopping", "stopped"] {
        assert!(log.contains(words), "{words} in {log}");
    }
}

/// SIGHUP reads the configuration again; what is not good changes nothing.
#[test]
fn it_reads_its_configuration_again() {
    let folder = Folder::new();
    folder.init("a.db", crate::BOOKS);
    folder.write("server.toml", "");
    let words = [
        "serve",
        "--data",
        "rooms",
        "--listen",
        "127.0.0.1:0",
        "--config",
        "server.toml",
        "--insecure-no-auth",
    ];
    let log = std::fs::File::create(folder.path("log")).unwrap();
    let mut child = folder.command(&words).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
    let hang_up = |words: &str| {
        let sent = Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let began = std::time::Instant::now();
        while !std::fs::read_to_string(folder.path("log")).unwrap().contains(words) {
            assert!(began.elapsed().as_secs() < 60, "no {words:?} in the log");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    let sync = format!("sync a.db ws://{address}/shop");
    folder.sql("a.db", "INSERT INTO books(id, stock) VALUES (1, -1)");
    folder.run(&sync).ok();
    let policy = "[[policy]]\ntable = 'books'\non = 'any'\nrequire = 'new.stock >= 0'\n";
    folder.write("server.toml", policy.replace(">=", ">= >="));
    hang_up("the configuration stays as it was: server.toml:4: policy for \"books\"");
    folder.sql("a.db", "INSERT INTO books(id, stock) VALUES (2, -1)");
    folder.run(&sync).ok();
    folder.write("server.toml", policy);
    hang_up("goes on with the configuration as it is now");
    folder.sql("a.db", "INSERT INTO books(id, stock) VALUES (3, -1)");
    folder.run(&sync).fails(10, &["1 transaction"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_not_safe_does_not_start() {
    let folder = Folder::new();
    folder.run("serve --data rooms").fails(2, &["no key", "--insecure-no-auth"]);
    folder.run("serve --insecure-no-auth").fails(2, &["--data"]);
    let open = "serve --data rooms --listen 0.0.0.0:0 --insecure-no-auth";
    folder.run(open).fails(2, &["not a loopback address"]);
    folder.run("serve --data rooms --config none.toml").fails(3, &["none.toml"]);
    folder.write("server.toml", "[limits]\nconections = 3\n");
    folder.run("serve --data rooms --config server.toml").fails(2, &["server.toml:2", "conections"]);
}
