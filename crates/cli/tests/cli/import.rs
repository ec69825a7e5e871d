use crate::{BOOKS, Folder};

fn csv(f: &Folder, text: impl AsRef<[u8]>) {
    f.write("in.csv", text);
}

#[test]
fn a_table_is_made_from_the_header_and_the_values() {
    let f = Folder::new();
    csv(
        &f,
        "isbn,title,year,price,code,none\n0099,Emma,1815,4.50,007,\n978,\"War, and \"\"Peace\"\"\",,7,9,\n",
    );
    let ran = f.run("import a.db books in.csv --key isbn").ok();
    assert!(ran.out.contains("made and replicated") && ran.out.contains("2 rows read, 2 new"), "{}", ran.out);
    let types =
        f.rows("a.db", "SELECT group_concat(name || ' ' || type || pk, ',') FROM pragma_table_info('books')");
    assert_eq!(types, "isbn TEXT1,title TEXT0,year INTEGER0,price REAL0,code TEXT0,none TEXT0");
    let rows = f.rows("a.db", "SELECT isbn, title, year, price, code, none FROM books ORDER BY isbn");
    assert_eq!(rows, "0099|Emma|1815|4.5|007|NULL;978|War, and \"Peace\"|NULL|7.0|9|NULL");
    f.run("verify a.db").ok();
    let again = f.run("import a.db books in.csv --json").ok().json();
    assert_eq!((&again["rows"], &again["new"], &again["made"]), (&2.into(), &0.into(), &false.into()));
    // What does not change anything is no change.
    assert_eq!(f.run("status a.db --json").ok().json()["db_version"], 1);
    csv(&f, "a,b,v\n1,x,1\n1,y,2\n");
    f.run("import a.db pairs in.csv --key a,b").ok();
    assert_eq!(f.rows("a.db", "SELECT group_concat(name || pk) FROM pragma_table_info('pairs')"), "a1,b2,v0");
    csv(&f, "n\n12345678901234567890\n");
    f.run("import a.db long in.csv --key n").ok();
    assert_eq!(f.rows("a.db", "SELECT n FROM long"), "12345678901234567890");
}

#[test]
fn columns_go_by_name_and_what_is_left_is_named() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    csv(&f, "colour,PRICE,id,,title\nred,1.5,1,x,Emma\nblue,2.5,2,y,\n");
    let ran = f.run("import a.db books in.csv").ok();
    assert!(ran.out.contains("no such column: column 4 (no name), colour"), "{}", ran.out);
    assert_eq!(f.rows("a.db", "SELECT * FROM books ORDER BY id"), "1|Emma|1.5|0;2|NULL|2.5|0");
    let json = f.run("import a.db BOOKS in.csv --json").ok().json();
    assert_eq!(json["skipped_columns"], serde_json::json!(["column 4 (no name)", "colour"]));
    assert_eq!(json["defaulted_columns"], serde_json::json!(["stock"]));
    f.run("verify a.db").ok();
}

#[test]
fn rows_that_are_there() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    f.sql("a.db", "INSERT INTO books VALUES (1, 'old', 1, 10)");
    csv(&f, "id,title\n1,new\n2,two\n");
    f.run("import a.db books in.csv --existing fail")
        .fails(5, &["in.csv, line 2", "UNIQUE", "nothing was imported"]);
    assert_eq!(f.rows("a.db", "SELECT * FROM books"), "1|old|1.0|10");
    f.run("import a.db books in.csv --existing keep").ok();
    assert_eq!(f.rows("a.db", "SELECT id, title, stock FROM books ORDER BY id"), "1|old|10;2|two|0");
    f.run("import a.db books in.csv").ok();
    assert_eq!(f.rows("a.db", "SELECT id, title, stock FROM books ORDER BY id"), "1|new|10;2|two|0");
}

#[test]
fn text_as_it_is_found() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    let title = |id: u32| f.rows("a.db", &format!("SELECT title FROM books WHERE id = {id}"));
    csv(
        &f,
        "\u{feff}\"id\",title\r\n1,\"two\r\nlines\"\r\n2,\"\"\"quoted\"\"\"\r\n3, 5\" disk \r\n4,\u{6f22}\u{5b57}\r\n",
    );
    f.run("import a.db books in.csv").ok();
    assert_eq!(title(1), "two\r\nlines");
    assert_eq!(title(2), "\"quoted\"");
    assert_eq!(title(3), " 5\" disk ");
    assert_eq!(title(4), "\u{6f22}\u{5b57}");
    csv(&f, "id\ttitle\n5\ta,b\n");
    f.run("import a.db books in.csv --delimiter tab").ok();
    assert_eq!(title(5), "a,b");
    csv(&f, "id;title\n6;a,b\n");
    f.run("import a.db books in.csv --delimiter ;").ok();
    assert_eq!(title(6), "a,b");
    f.run_with_input("import a.db books -", b"id,title\n7,piped").ok();
    assert_eq!(title(7), "piped");
    csv(&f, format!("id,title\n8,{}\n", "x".repeat(3_000_000)));
    f.run("import a.db books in.csv").ok();
    assert_eq!(f.rows("a.db", "SELECT length(title) FROM books WHERE id = 8"), "3000000");
    csv(&f, "id,title\n");
    assert!(f.run("import a.db books in.csv").ok().out.contains("0 rows read"));
}

#[test]
fn files_that_are_refused() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    f.sql("a.db", "INSERT INTO books(id) VALUES (1)");
    let refused = |text: &[u8], words: &[&str]| {
        csv(&f, text);
        f.run("import a.db books in.csv").fails(5, words);
        assert_eq!(f.rows("a.db", "SELECT group_concat(id) FROM books"), "1");
    };
    refused(b"", &["in.csv", "empty"]);
    refused(b",,\n1,2,3\n", &["no column of the first line has a name"]);
    refused(b"id,title,Title\n2,a,b\n", &["columns 2 and 3", "\"Title\""]);
    refused(b"title,price\nx,1\n", &["no column for id", "title, price"]);
    refused(b"id,title\n2,a\n3\n", &["line 3", "1 fields", "2"]);
    refused(b"id,title\n2,a,b\n", &["line 2", "3 fields"]);
    refused(b"id,title\n2,\"never closed\n3,x\n4,y\n", &["quote", "never closed"]);
    refused(b"title,id\n\"never closed,2\nx,3\n", &["line 2", "quote not closed"]);
    refused(b"id,title\n2,caf\xe9\n", &["line 2: column 2", "not UTF-8", "0xe9", "iconv"]);
    refused(b"id,t\xeftle\n2,x\n", &["line 1", "not UTF-8"]);
    refused(b"\xff\xfei\0d\0\n\0", &["UTF-16"]);
    refused(b"id,title\n2,x\n,y\n", &["line 3", "key column \"id\" is empty"]);
    refused(b"id,title\n2,x\nthree,y\n", &["line 3", "mismatch"]);
}

#[test]
fn endless_records_are_cut_short() {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    let mut text = b"id,title\n2,\"".to_vec();
    text.resize(70 << 20, b'x');
    csv(&f, text);
    f.run("import a.db books in.csv").fails(5, &["more than 64 MiB", "never closed"]);
}

#[test]
fn tables_of_all_kinds() {
    let f = Folder::new();
    f.init(
        "a.db",
        "CREATE TABLE \"order lines\"(\"shop no\" TEXT, n INTEGER, note TEXT NOT NULL, twice INT AS (n * 2), \
           PRIMARY KEY(\"shop no\", n)) WITHOUT ROWID, STRICT;
         CREATE TABLE tags(name TEXT COLLATE NOCASE PRIMARY KEY, n INT CHECK (n < 10));
         CREATE TABLE needs(id INTEGER PRIMARY KEY, must TEXT NOT NULL, may INT NOT NULL DEFAULT 4);
         CREATE TABLE log(line TEXT);
         CREATE VIEW seen AS SELECT * FROM log;
         SELECT crsql_as_crr('order lines'), crsql_as_crr('tags'), crsql_as_crr('needs');",
    );
    csv(&f, "shop no,n,note,twice\nA,1,,9\nA,2,x,9\n");
    let ran = f.run_words(&["import", "a.db", "order lines", "in.csv"]).ok();
    assert!(ran.out.contains("no such column: twice"), "{}", ran.out);
    assert_eq!(f.rows("a.db", "SELECT * FROM \"order lines\""), "A|1||2;A|2|x|4");
    csv(&f, "shop no,n,note\nA,1.5,x\n");
    f.run_words(&["import", "a.db", "order lines", "in.csv"]).fails(5, &["line 2"]);
    csv(&f, "name,n\nRed,1\nred,2\n");
    f.run("import a.db tags in.csv").ok();
    assert_eq!(f.rows("a.db", "SELECT * FROM tags"), "Red|2");
    csv(&f, "name,n\nblue,3\ngreen,11\n");
    f.run("import a.db tags in.csv").fails(5, &["line 3", "CHECK", "nothing was imported"]);
    csv(&f, "id\n1\n");
    f.run("import a.db needs in.csv").fails(5, &["no column for must"]);
    csv(&f, "id,must,may\n1,x,\n");
    f.run("import a.db needs in.csv").fails(5, &["line 2", "NOT NULL"]);
    csv(&f, "line\none\n");
    let ran = f.run("import a.db log in.csv").ok();
    assert!(ran.out.contains("not replicated; `rejoin replicate a.db log`"), "{}", ran.out);
    f.run("import a.db seen in.csv").fails(5, &["view"]);
    f.run("import a.db crsql_log in.csv").fails(5, &["crsql_log"]);
    f.run("import a.db sqlite_schema in.csv").fails(5, &[]);
    f.run("verify a.db").ok();
}

#[test]
fn a_table_needs_a_key() {
    let f = Folder::new();
    csv(&f, "id,title\n1,x\n");
    f.run("import a.db books in.csv").fails(2, &["--key COLUMN", "id, title"]);
    f.run("import a.db books in.csv --key isbn").fails(2, &["isbn", "id, title"]);
    assert!(!f.path("a.db").exists());
    f.run("import a.db books nothing.csv --key id").fails(3, &["nothing.csv"]);
    f.run("import a.db books . --key id").fails(3, &["folder"]);
    assert!(!f.path("a.db").exists());
    csv(&f, "id,title\n1,x\n1,y\n");
    f.run("import a.db books in.csv --key id --existing fail").fails(5, &["line 3"]);
    assert!(!f.path("a.db").exists());
}
