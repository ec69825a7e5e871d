use crate::{BOOKS, Folder, two};

#[test]
fn a_file_of_changes_goes_from_one_to_the_other() {
    let f = two();
    f.run("changes a.db --out a.changes").ok();
    let first = f.run("apply b.db a.changes --json").ok().json();
    assert_eq!(
        (&first["transactions"], &first["rows"], &first["cells_won"]),
        (&1.into(), &2.into(), &6.into())
    );
    assert_eq!(f.rows("b.db", "SELECT group_concat(id) FROM books"), "1,2,3");
    assert!(f.run("apply b.db a.changes").ok().out.contains("nothing new"));
    // By a pipe, and only what is new.
    f.sql("a.db", "UPDATE books SET stock = 50 WHERE id = 1");
    let out = f.command(&["changes", "a.db", "--since", "1", "--out", "-"]).output().expect("run rejoin");
    assert!(out.status.success());
    f.run_with_input("apply b.db -", &out.stdout).ok();
    assert_eq!(f.rows("b.db", "SELECT stock FROM books WHERE id = 1"), "50");
    f.run("verify b.db").ok();
}

#[test]
fn what_builds_on_more_is_refused() {
    let f = two();
    f.sql("a.db", "UPDATE books SET stock = 50 WHERE id = 1");
    f.run("changes a.db --since 1 --out tail").ok();
    f.run("apply b.db tail").fails(5, &["tail", "lacks"]);
    assert_eq!(f.rows("b.db", "SELECT count(*) FROM books"), "1");
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    let f = two();
    f.run("changes a.db --out good").ok();
    let good = std::fs::read(f.path("good")).expect("read");
    let refused = |bytes: &[u8]| {
        f.write("bad", bytes);
        f.run("apply b.db bad").fails(5, &["bad"]);
    };
    refused(b"");
    refused(b"hello");
    refused(&[0xff; 4096]);
    refused(b"SQLite format 3\0 and so on");
    for cut in (0..good.len()).step_by(7) {
        refused(&good[..cut]);
    }
    for at in (0..good.len()).step_by(11) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        refused(&flipped);
    }
    assert_eq!(f.rows("b.db", "SELECT count(*) FROM books"), "1");
    f.run("verify b.db").ok();
    f.run("apply b.db missing").fails(3, &["missing"]);
    f.run("apply b.db .").fails(3, &["."]);
    f.run("apply b.db a.db").fails(5, &["rejoin merge"]);
    f.run("apply b.db good").ok();
}

#[test]
fn a_file_can_be_applied_before_the_table_is_there() {
    let f = two();
    f.run("changes a.db --out a.changes").ok();
    f.init("c.db", "CREATE TABLE other(id INTEGER PRIMARY KEY); SELECT crsql_as_crr('other');");
    let ran = f.run("apply c.db a.changes").ok();
    assert!(ran.out.contains("6 parked"), "{}", ran.out);
    f.init("c.db", BOOKS);
    f.sql("c.db", "INSERT INTO books(id) VALUES (70)");
    assert_eq!(f.rows("c.db", "SELECT group_concat(title) FROM books WHERE id < 3"), "Emma,Dune");
    f.run("verify c.db").ok();
}

#[test]
fn out_goes_where_it_can() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    f.run("changes a.db --out no/such/folder/x").fails(3, &["no/such/folder/x"]);
    f.run("changes a.db --out .").fails(3, &["."]);
}
