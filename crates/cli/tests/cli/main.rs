//! The `rejoin` command as a person or a script runs it: the real binary on real files.

mod changesets;
mod compact;
mod endtoend;
mod files;
mod healing;
mod help;
mod hostile;
mod import;
mod init;
mod interrupt;
mod kill;
mod merge;
mod replicate;
mod serve;
mod status;
mod sync;
mod upgrade;
mod verify;

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A folder with databases, and the command in it.
pub(crate) struct Folder {
    dir: TempDir,
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn new(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Failed with this code and a sentence that has all of these words.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Ran {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

impl Folder {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Folder {
        Folder { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect("write a file");
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin"));
        command.current_dir(self.dir.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs `rejoin` with words separated by spaces.
    pub fn run(&self, words: &str) -> Ran {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.run_words(&words)
    }

    pub fn run_words(&self, words: &[&str]) -> Ran {
        Ran::new(self.command(words).output().expect("run rejoin"))
    }

    pub fn run_with_input(&self, words: &str, input: &[u8]) -> Ran {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = self.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run rejoin");
        let mut stdin = child.stdin.take().expect("stdin");
        // One who refuses early does not read to the end.
        let _ = stdin.write_all(input);
        drop(stdin);
        Ran::new(child.wait_with_output().expect("wait for rejoin"))
    }

    /// A database made by `init`.
    #[track_caller]
    pub fn init(&self, db: &str, schema: &str) {
        self.run_with_input(&format!("init {db} --schema -"), schema.as_bytes()).ok();
    }

    /// SQL with the engine on the connection.
    pub fn sql(&self, db: &str, sql: &str) {
        let replica = rejoin::Replica::open(self.path(db)).expect("open");
        replica.connection().execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// A connection that knows nothing of Rejoin.
    pub fn plain(&self, db: &str) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path(db)).expect("open")
    }

    /// Rows as text, values separated by `|`, rows by `;`.
    pub fn rows(&self, db: &str, sql: &str) -> String {
        let conn = self.plain(db);
        let mut q = conn.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let width = q.column_count();
        let rows = q.query_map([], |row| {
            let text = |i| {
                use rusqlite::types::ValueRef as V;
                Ok(match row.get_ref(i)? {
                    V::Null => "NULL".to_owned(),
                    V::Integer(i) => i.to_string(),
                    V::Real(r) => format!("{r:?}"),
                    V::Text(t) => String::from_utf8_lossy(t).into_owned(),
                    V::Blob(b) => format!("{b:02x?}"),
                })
            };
            Ok((0..width).map(text).collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
        });
        let rows: Vec<String> = rows.expect("query").map(|r| r.expect("row")).collect();
        rows.join(";")
    }
}

pub const BOOKS: &str = "CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT, price REAL, stock INTEGER DEFAULT 0); \
     SELECT crsql_as_crr('books');";

/// Two replicas of `BOOKS` with rows of their own.
pub(crate) fn two() -> Folder {
    let f = Folder::new();
    f.init("a.db", BOOKS);
    f.init("b.db", BOOKS);
    f.sql("a.db", "INSERT INTO books VALUES (1, 'Emma', 4.5, 1), (2, 'Dune', 7.0, 2)");
    f.sql("b.db", "INSERT INTO books VALUES (3, 'Ulysses', 9.25, 3)");
    f
}
