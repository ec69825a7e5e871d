use crate::{BOOKS, Folder};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ctrl-C, to this child alone.
fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("run kill");
    assert!(sent.success());
}

fn end(mut child: Child) -> (Option<i32>, String) {
    let mut err = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut err).expect("read");
    (child.wait().expect("wait").code(), err)
}

#[test]
fn an_import_that_is_interrupted_never_happened() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    f.sql("a.db", "INSERT INTO books(id, title) VALUES (0, 'before')");
    let mut csv = String::from("id,title,price,stock\n");
    for i in 1..=800_000 {
        csv.push_str(&format!("{i},Some title that takes room {i},9.5,{}\n", i % 7));
    }
    f.write("big.csv", csv);
    let mut child = f
        .command(&["import", "a.db", "books", "big.csv"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run rejoin");
    // Pages spill into the write-ahead log: it is in the middle of it.
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::metadata(f.path("a.db-wal")).map_or(0, |m| m.len()) < 1 << 20 {
        assert!(child.try_wait().expect("wait").is_none(), "it ended before it could be interrupted");
        assert!(Instant::now() < deadline, "it never got going");
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let (code, err) = end(child);
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("interrupted; the database is as it was before"), "{err}");
    assert_eq!(f.rows("a.db", "SELECT id, title FROM books"), "0|before");
    f.run("verify a.db").ok();
    let status = f.run("status a.db --json").ok().json();
    assert_eq!(status["db_version"], 1);
}

#[test]
fn one_that_waits_for_input_can_be_interrupted() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    let mut child = f
        .command(&["import", "a.db", "books", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run rejoin");
    let held = child.stdin.take();
    // The handler stands before anything is read; until then the signal ends it, which is as good.
    std::thread::sleep(Duration::from_millis(300));
    interrupt(&child);
    let (code, err) = end(child);
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    drop(held);
    f.run("verify a.db").ok();
}
