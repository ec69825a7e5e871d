use crate::{BOOKS, Folder};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cr-sqlite")
}

const FILES: [&str; 3] = ["vlcn-0.15.0.db", "vlcn-0.16.3.db", "fly-0.17.0.db"];

#[test]
fn databases_of_cr_sqlite_are_refused_until_they_are_converted() {
    for file in FILES {
        let f = Folder::new();
        let bytes = std::fs::read(fixtures().join(file)).expect("the fixture");
        f.write("old.db", &bytes);
        f.init("new.db", BOOKS);
        for words in [
            "status old.db",
            "changes old.db",
            "merge old.db new.db",
            "merge new.db old.db",
            "diff new.db old.db",
            "verify old.db",
            "verify old.db --repair",
            "replicate old.db t",
        ] {
            f.run(words).fails(4, &["cr-sqlite", "rejoin upgrade"]);
        }
        f.run_with_input("init old.db --schema -", b"CREATE TABLE more(x)").fails(4, &["rejoin upgrade"]);
        f.run_with_input("import old.db t -", b"a,b\n1,2\n").fails(4, &["rejoin upgrade"]);
        f.run_with_input("apply old.db -", b"x").fails(4, &["rejoin upgrade"]);
        assert_eq!(std::fs::read(f.path("old.db")).expect("read"), bytes, "{file} was changed");
        f.run("upgrade old.db").ok();
        let report = f.run("verify old.db --json");
        assert_eq!(report.code, 0, "{file}: {}", report.out);
        let status = f.run("status old.db --json").ok().json();
        assert!(status["tables"].as_array().is_some_and(|t| !t.is_empty()), "{file}");
        assert_eq!(status["clock"], "lamport");
        f.run("upgrade old.db").fails(4, &["already"]);
        f.run("merge old.db new.db").ok();
        f.run("verify new.db").ok();
    }
}

#[test]
fn there_must_be_something_to_convert() {
    let f = Folder::new();
    f.plain("plain.db").execute_batch("CREATE TABLE t(x)").expect("sql");
    f.run("upgrade plain.db").fails(5, &["not written by cr-sqlite"]);
    f.run("upgrade missing.db").fails(3, &["missing.db"]);
    f.init("new.db", BOOKS);
    f.run("upgrade new.db").fails(4, &["already"]);
}
