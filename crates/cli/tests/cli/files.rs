use crate::{Folder, two};

/// Every command with this file in the place of its database.
fn all(db: &str) -> Vec<String> {
    [
        "status DB",
        "changes DB",
        "merge DB b.db",
        "merge b.db DB",
        "diff DB b.db",
        "verify DB",
        "verify DB --repair",
        "replicate DB books",
        "apply DB good",
        "upgrade DB",
    ]
    .map(|words| words.replace("DB", db))
    .to_vec()
}

fn folder() -> Folder {
    let f = two();
    f.run("changes a.db --out good").ok();
    f
}

#[test]
fn files_that_are_not_there() {
    let f = folder();
    for words in all("missing.db") {
        f.run(&words).fails(3, &["missing.db"]);
    }
    for words in all("no/such/folder/x.db") {
        f.run(&words).fails(3, &["no/such/folder/x.db"]);
    }
    assert!(!f.path("missing.db").exists());
}

#[test]
fn files_that_are_no_databases() {
    let f = folder();
    f.write("text.db", "This is a letter, and it is longer than sixteen bytes.");
    f.write("short.db", "x");
    std::fs::create_dir(f.path("dir.db")).expect("folder");
    for words in all("text.db").into_iter().chain(all("short.db")) {
        f.run(&words).fails(3, &["is no SQLite database"]);
    }
    for words in all("dir.db") {
        f.run(&words).fails(3, &["is a folder"]);
    }
    f.run_with_input("import text.db t - --key a", b"a\n1\n").fails(3, &["is no SQLite database"]);
    f.run_with_input("init text.db --schema -", b"SELECT 1").fails(3, &["is no SQLite database"]);
    assert_eq!(std::fs::read(f.path("short.db")).expect("read"), b"x");
    // A header alone is not enough.
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.resize(4096, 0x5a);
    f.write("fake.db", bytes);
    for words in all("fake.db") {
        f.run(&words).fails(3, &["fake.db", "database"]);
    }
}

#[test]
fn files_that_may_not_be_written() {
    let f = folder();
    let mut mode = std::fs::metadata(f.path("a.db")).expect("metadata").permissions();
    mode.set_readonly(true);
    std::fs::set_permissions(f.path("a.db"), mode).expect("permissions");
    for words in [
        "merge a.db b.db",
        "merge b.db a.db",
        "apply a.db good",
        "replicate a.db books",
        "verify a.db --repair",
    ] {
        f.run(words).fails(3, &["a.db is read-only"]);
    }
    f.run_with_input("import a.db books -", b"id\n9\n").fails(3, &["read-only"]);
    // Looking is allowed.
    for words in ["status a.db", "changes a.db", "verify a.db"] {
        f.run(words).ok();
    }
    f.run("diff a.db b.db").fails(1, &[]);
}

#[test]
fn another_program_writes() {
    let f = folder();
    let writer = f.plain("a.db");
    writer.execute_batch("BEGIN IMMEDIATE").expect("begin");
    for words in ["merge a.db b.db", "merge b.db a.db", "apply a.db good", "replicate a.db books"] {
        if words == "apply a.db good" {
            // What a.db wrote itself is nothing new, but it must look.
            continue;
        }
        f.run(&format!("{words} --wait 0")).fails(6, &["another program is writing", "--wait"]);
    }
    f.run_with_input("import a.db books - --wait 0", b"id\n9\n").fails(6, &["another program"]);
    f.run_with_input("init a.db --schema - --wait 0", b"CREATE TABLE x(y)").fails(6, &["another program"]);
    // Looking goes on.
    for words in ["status a.db", "changes a.db", "verify a.db"] {
        f.run(words).ok();
    }
    // One who waits gets his turn.
    let done = std::thread::scope(|s| {
        let waiting = s.spawn(|| f.run("merge a.db b.db --wait 20"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        writer.execute_batch("COMMIT").expect("commit");
        waiting.join().expect("join")
    });
    done.ok();
    f.run("diff a.db b.db").ok();
}

#[test]
fn a_newer_format() {
    let f = folder();
    f.plain("a.db").execute_batch("UPDATE crsql_meta SET value = 99 WHERE name = 'format'").expect("sql");
    for words in all("a.db").into_iter().filter(|w| !w.starts_with("upgrade")) {
        f.run(&words).fails(4, &["format 99", "update Rejoin"]);
    }
}

#[test]
fn names_that_are_hard_to_write() {
    let f = Folder::new();
    for name in ["with space.db", "file:odd?mode=ro.db", "100%.db", "\u{e9}t\u{e9}.db"] {
        let schema = f.path("s.sql");
        std::fs::write(&schema, crate::BOOKS).expect("write");
        f.run_words(&["init", name, "--schema", "s.sql"]).ok();
        assert!(f.path(name).exists(), "{name}");
        f.run_words(&["verify", name]).ok();
    }
}
