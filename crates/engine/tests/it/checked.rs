//! Changesets of somebody who is not trusted, and void versions.

use crate::util::{Files, assert_equal, int, rows, run, state};
use rejoin::{
    CODE_CONSTRAINT, CODE_INCOMPLETE, Checked, Checker, Error, Missing, Op, Refusal, Rejection, Replica,
    RowFacts, RowKey, SiteId, TransactionFacts, Value, Void,
};

const ITEMS: &str = "CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT, stock INTEGER DEFAULT 0 CHECK (stock >= 0)); \
     SELECT crsql_as_crr('items');";

/// Writes down what it is asked; refuses what the functions say.
#[derive(Default)]
struct Notes {
    log: Vec<String>,
    blind: bool,
    refuse: Option<fn(&RowFacts<'_>) -> bool>,
    refuse_foreign: bool,
    refuse_site: Option<SiteId>,
}

fn no(code: &str) -> Result<(), Refusal> {
    Err(Refusal { code: code.into(), reason: format!("no {code}") })
}

fn show(values: Option<&[Value]>) -> String {
    let one = |v: &Value| match v {
        Value::Null => "NULL".into(),
        Value::Int(i) => i.to_string(),
        Value::Text(t) => String::from_utf8_lossy(t).into_owned(),
        other => format!("{other:?}"),
    };
    values.map_or("-".into(), |v| v.iter().map(one).collect::<Vec<_>>().join(","))
}

impl Checker for Notes {
    fn transaction(&mut self, t: &TransactionFacts) -> Result<(), Refusal> {
        self.log.push(format!("transaction {}{}", t.version, if t.relay { " relay" } else { "" }));
        if self.refuse_site == Some(t.site) { no("site") } else { Ok(()) }
    }

    fn empty(&mut self, site: SiteId, from: u64, to: u64) -> Result<(), Refusal> {
        self.log.push(format!("empty {from} to {to}"));
        if self.refuse_site == Some(site) { no("site") } else { Ok(()) }
    }

    fn looks_at(&mut self, _table: &str) -> bool {
        !self.blind
    }

    fn row(&mut self, row: &RowFacts<'_>) -> Result<(), Refusal> {
        let by: Vec<String> = row.transactions.iter().map(|t| t.version.to_string()).collect();
        let (old, new, columns) = (show(row.old), show(row.new), row.columns.join(","));
        self.log.push(format!("{:?} {}({columns}) {old} to {new} by {}", row.op, row.table, by.join(" ")));
        if self.refuse.is_some_and(|refuse| refuse(row)) { no("policy") } else { Ok(()) }
    }

    fn foreign(&mut self, t: &TransactionFacts, _author: SiteId) -> Result<(), Refusal> {
        self.log.push(format!("foreign in {}", t.version));
        if self.refuse_foreign { no("foreign") } else { Ok(()) }
    }
}

fn push(from: &Replica, to: &Replica, notes: &mut Notes) -> Checked {
    notes.log.clear();
    let bytes = from.changeset_for(&to.vector().unwrap()).unwrap().expect("something to send");
    let done = to.apply_checked(&bytes, notes).unwrap();
    assert!(to.verify().unwrap().is_clean(), "{:?}", to.verify().unwrap());
    done
}

#[track_caller]
fn assert_applied(done: &Checked) {
    assert!(matches!(done, Checked::Applied(_)), "{done:?}");
}

#[track_caller]
fn rejections(done: Checked) -> (Vec<Rejection>, Vec<RowKey>) {
    match done {
        Checked::Rejected { rejections, rows } => (rejections, rows),
        other => panic!("{other:?}"),
    }
}

fn codes(all: &[Rejection]) -> Vec<(u64, &str)> {
    all.iter().map(|r| (r.version, r.code.as_str())).collect()
}

fn pk(r: &Replica, value: &str) -> Vec<u8> {
    r.connection().query_row(&format!("SELECT crsql_pack_columns({value})"), [], |r| r.get(0)).unwrap()
}

#[test]
fn a_checker_sees_every_row_before_and_after() {
    let schema = "CREATE TABLE a(x TEXT, id INTEGER PRIMARY KEY, y DEFAULT 5); SELECT crsql_as_crr('a'); \
                  CREATE TABLE b(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v); SELECT crsql_as_crr('b'); \
                  CREATE TABLE c(v, k1 NOT NULL, k2 NOT NULL, PRIMARY KEY(k2, k1)) WITHOUT ROWID; SELECT crsql_as_crr('c');";
    let files = Files::new();
    let (client, server) = (files.open("client.db", schema), files.open("server.db", schema));
    run(
        &client,
        "BEGIN; INSERT INTO a(x, id) VALUES ('p', 1), ('q', 2); INSERT INTO b VALUES ('Key', 'v'); \
                  INSERT INTO c VALUES (1, 'one', 'two'); COMMIT",
    );
    let mut notes = Notes::default();
    assert_applied(&push(&client, &server, &mut notes));
    assert_eq!(
        notes.log,
        [
            "transaction 1",
            "Insert a(x,id,y) - to p,1,5 by 1",
            "Insert a(x,id,y) - to q,2,5 by 1",
            "Insert b(k,v) - to Key,v by 1",
            "Insert c(v,k1,k2) - to 1,one,two by 1",
        ]
    );
    run(
        &client,
        "UPDATE a SET y = 6 WHERE id = 1; DELETE FROM a WHERE id = 2; UPDATE b SET k = 'other'; \
                  UPDATE c SET v = 2; UPDATE c SET v = 3",
    );
    assert_applied(&push(&client, &server, &mut notes));
    assert_eq!(
        notes.log,
        [
            "transaction 2",
            "transaction 3",
            "transaction 4",
            "transaction 6",
            "empty 5 to 5",
            "Update a(x,id,y) p,1,5 to p,1,6 by 2",
            "Delete a(x,id,y) q,2,5 to - by 3",
            "Insert b(k,v) - to other,v by 4",
            "Delete b(k,v) Key,v to - by 4",
            "Update c(v,k1,k2) 1,one,two to 3,one,two by 6",
        ]
    );
    for table in ["a", "b", "c"] {
        assert_equal(&client, &server, table);
    }
}

#[test]
fn what_loses_is_not_asked_about() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    run(&client, "INSERT INTO items VALUES (1, 'a', 1)");
    let mut notes = Notes::default();
    assert_applied(&push(&client, &server, &mut notes));
    run(&client, "UPDATE items SET stock = 2");
    run(&server, "DELETE FROM items");
    assert_applied(&push(&client, &server, &mut notes));
    assert_eq!(notes.log, ["transaction 2"]);
}

fn is_negative_or_x(row: &RowFacts<'_>) -> bool {
    row.new.is_some_and(|new| new[1] == Value::Text(b"x".to_vec()))
}

#[test]
fn one_bad_row_refuses_the_whole_and_names_all_who_touched_it() {
    for bulk in [false, true] {
        let files = Files::new();
        let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
        run(&server, "INSERT INTO items VALUES (1000, 'server', 1)");
        run(&client, "INSERT INTO items VALUES (1, 'a', 1), (2, 'b', 1)");
        run(&client, "UPDATE items SET stock = 7 WHERE id = 1");
        run(&client, "UPDATE items SET name = 'x' WHERE id = 2; INSERT INTO items(id) VALUES (3)");
        if bulk {
            run(
                &client,
                "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
                          INSERT INTO items SELECT i, 'bulk', i FROM n",
            );
        }
        let before = (state(&server, "items"), server.vector().unwrap(), server.db_version().unwrap());
        let mut notes = Notes { refuse: Some(is_negative_or_x), ..Notes::default() };
        let (all, touched) = rejections(push(&client, &server, &mut notes));
        assert_eq!(codes(&all), [(1, "policy"), (3, "policy")]);
        assert!(all.iter().all(|r| r.site == client.site_id().unwrap() && r.reason == "no policy"));
        let row = |id: &str| RowKey { table: "items".into(), pk: pk(&client, id) };
        assert!(all.iter().all(|r| r.row == Some(row("2"))));
        assert_eq!(touched, [row("1"), row("2")]);
        assert_eq!(before, (state(&server, "items"), server.vector().unwrap(), server.db_version().unwrap()));
        // The server goes on as if nothing had been.
        run(&server, "UPDATE items SET stock = 2");
        assert!(server.verify().unwrap().is_clean());
        assert_applied(&push(&client, &server, &mut Notes::default()));
    }
}

#[test]
fn constraints_of_the_table_refuse() {
    let loose = "CREATE TABLE t(k INTEGER PRIMARY KEY, a, b DEFAULT 0); SELECT crsql_as_crr('t');";
    let tight = "CREATE TABLE t(k INTEGER PRIMARY KEY, a TEXT NOT NULL, b INTEGER DEFAULT 0 CHECK (b < 10)) STRICT; \
                 SELECT crsql_as_crr('t');";
    for (bulk, blind) in [(false, false), (false, true), (true, false), (true, true)] {
        let files = Files::new();
        let (client, server) = (files.open("client.db", loose), files.open("server.db", tight));
        let more = if bulk {
            "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 300) \
             SELECT i, 'bulk', 1 FROM n;"
        } else {
            ""
        };
        let mut notes = Notes { blind, ..Notes::default() };
        for (sql, code, say) in [
            ("INSERT INTO t VALUES (1, 'a', 10)", CODE_CONSTRAINT, "CHECK"),
            ("INSERT INTO t VALUES (1, 'a', 'text')", CODE_CONSTRAINT, "TEXT value in INTEGER column"),
            ("INSERT INTO t VALUES (1, NULL, 1)", CODE_CONSTRAINT, "NOT NULL"),
        ] {
            run(&client, &format!("BEGIN; {sql}; {more} COMMIT"));
            let (all, _) = rejections(push(&client, &server, &mut notes));
            assert_eq!(all.len(), 1, "{all:?}");
            assert_eq!(all[0].code, code);
            assert!(all[0].reason.contains(say), "{}", all[0].reason);
            assert_eq!(
                (int(&server, "SELECT count(*) FROM t"), server.status().unwrap().parked.len()),
                (0, 0)
            );
            let client = files.open("client.db", loose);
            run(&client, "DELETE FROM t");
            drop(client);
        }
    }
    let files = Files::new();
    let client =
        files.open("client.db", "CREATE TABLE t(k INTEGER PRIMARY KEY, b); SELECT crsql_as_crr('t');");
    let server = files.open("server.db", tight);
    run(&client, "INSERT INTO t VALUES (1, 1)");
    let (all, _) = rejections(push(&client, &server, &mut Notes::default()));
    assert_eq!(codes(&all), [(1, CODE_INCOMPLETE)]);
    // An update of a row that stands: the old values stay.
    let server = files.open("server2.db", ITEMS);
    let client = files.open("client2.db", &ITEMS.replace("CHECK (stock >= 0)", ""));
    run(&client, "INSERT INTO items VALUES (1, 'a', 1)");
    assert_applied(&push(&client, &server, &mut Notes::default()));
    run(&client, "UPDATE items SET stock = -1, name = 'b'");
    let (all, _) = rejections(push(&client, &server, &mut Notes::default()));
    assert_eq!(codes(&all), [(2, CODE_CONSTRAINT)]);
    assert_eq!(rows(&server, "SELECT name, stock FROM items").len(), 1);
    assert_eq!(int(&server, "SELECT stock FROM items"), 1);
}

#[test]
fn a_trigger_that_refuses_a_delete_refuses_the_transaction() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    run(
        &server,
        "CREATE TRIGGER keep BEFORE DELETE ON items BEGIN SELECT RAISE(ABORT, 'kept for ever'); END",
    );
    run(&client, "INSERT INTO items(id) VALUES (1), (2)");
    assert_applied(&push(&client, &server, &mut Notes::default()));
    run(&client, "DELETE FROM items WHERE id = 1; UPDATE items SET stock = 3");
    let (all, _) = rejections(push(&client, &server, &mut Notes::default()));
    assert_eq!(codes(&all), [(2, CODE_CONSTRAINT)]);
    assert!(all[0].reason.contains("kept for ever"));
    assert_eq!(int(&server, "SELECT count(*) FROM items WHERE stock = 0"), 2);
}

#[test]
fn a_later_schema_is_deferred() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    run(&client, "INSERT INTO items VALUES (1, 'a', 1)");
    assert_applied(&push(&client, &server, &mut Notes::default()));
    run(
        &client,
        "ALTER TABLE items ADD COLUMN size; CREATE TABLE more(k INTEGER PRIMARY KEY, v); SELECT crsql_as_crr('more')",
    );
    // Nothing of the new column was written yet.
    run(&client, "UPDATE items SET stock = 2");
    assert_applied(&push(&client, &server, &mut Notes::default()));
    run(&client, "UPDATE items SET size = 3; INSERT INTO more VALUES (1, 2)");
    let column = Missing { table: "items".into(), column: Some("size".into()) };
    let table = Missing { table: "more".into(), column: None };
    assert_eq!(push(&client, &server, &mut Notes::default()), Checked::Ahead(vec![column, table]));
    assert!(server.status().unwrap().parked.is_empty());
    run(
        &server,
        "ALTER TABLE items ADD COLUMN size; CREATE TABLE more(k INTEGER PRIMARY KEY, v); SELECT crsql_as_crr('more')",
    );
    assert_applied(&push(&client, &server, &mut Notes::default()));
    assert_equal(&client, &server, "items");
    // What the server has dropped is behind it, not ahead.
    run(&server, "ALTER TABLE items DROP COLUMN size");
    run(&client, "UPDATE items SET size = 4, stock = 5");
    assert_applied(&push(&client, &server, &mut Notes::default()));
    assert_eq!(int(&server, "SELECT stock FROM items"), 5);
}

#[test]
fn cells_of_others_are_named_if_they_are_new() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    let third = files.open("third.db", ITEMS);
    run(&third, "INSERT INTO items VALUES (1, 'third', 1)");
    let relay = |from: &Replica, to: &Replica| {
        let all =
            "SELECT \"table\", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes";
        let mut q = from.connection().prepare(all).unwrap();
        let mut found = q.query([]).unwrap();
        let mut put = to
            .connection()
            .prepare("INSERT INTO crsql_changes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")
            .unwrap();
        run(to, "BEGIN");
        while let Some(row) = found.next().unwrap() {
            let values: Vec<rusqlite::types::Value> = (0..9).map(|i| row.get(i).unwrap()).collect();
            put.execute(rusqlite::params_from_iter(values)).unwrap();
        }
        run(to, "COMMIT");
    };
    relay(&third, &client);
    let mut notes = Notes { blind: true, refuse_foreign: true, ..Notes::default() };
    let (all, _) = rejections(push(&client, &server, &mut notes));
    assert_eq!(codes(&all), [(1, "foreign")]);
    // What the server knows already is no news of anybody.
    assert_applied(&push(&third, &server, &mut notes));
    assert_applied(&push(&client, &server, &mut notes));
    assert_eq!(notes.log, ["transaction 1 relay"]);
    assert_equal(&client, &server, "items");
}

#[test]
fn transactions_and_empty_versions_of_a_site_can_be_refused() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    run(&client, "INSERT INTO items(id) VALUES (1); UPDATE items SET stock = 1; UPDATE items SET stock = 2");
    let mut notes = Notes { refuse_site: client.site_id().ok(), ..Notes::default() };
    let (all, touched) = rejections(push(&client, &server, &mut notes));
    assert_eq!(codes(&all), [(1, "site"), (2, "site"), (3, "site")]);
    assert_eq!(touched.len(), 1);
    assert!(!notes.log.iter().any(|l| l.starts_with("Insert")), "rows are not looked at: {:?}", notes.log);
}

#[test]
fn nothing_is_taken_over_a_gap_and_no_id_is_taken() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    run(&client, "INSERT INTO items(id) VALUES (1)");
    let since = client.db_version().unwrap();
    run(&client, "INSERT INTO items(id) VALUES (2)");
    let late = client.changeset_since(since).unwrap();
    let site = server.site_id().unwrap();
    let gap = server.apply_checked(&late, &mut Notes::default());
    assert!(matches!(gap, Err(Error::Gap { from: 1, to: 1, .. })), "{gap:?}");
    // The same without a base that says so.
    use rejoin_wire::{Header, Transaction, Writer};
    let lying = |versions: &[u64], of: SiteId| {
        let mut w = Writer::new(Header { site: client.site_id().unwrap(), lineage: None });
        let origin = w.site(&of);
        for &version in versions {
            let (nonce, chain) = (version, rejoin_crdt::chain::next(0, version, version));
            w.transaction(Transaction {
                origin,
                version,
                clock: 0,
                nonce,
                chain,
                relay: false,
                db_version: 1,
            });
        }
        w.finish(false).unwrap()
    };
    let gap = server.apply_checked(&lying(&[7], client.site_id().unwrap()), &mut Notes::default());
    assert!(matches!(gap, Err(Error::Gap { from: 1, to: 6, .. })), "{gap:?}");
    // A transaction under the server's own id: refused by who may say so, and the id stays.
    let mut notes = Notes { refuse_site: Some(site), ..Notes::default() };
    let done = server.apply_checked(&lying(&[1], site), &mut notes).unwrap();
    assert_eq!(codes(&rejections(done).0), [(1, "site")]);
    run(&server, "INSERT INTO items(id) VALUES (3)");
    let fork = server.apply_checked(&lying(&[1], site), &mut Notes::default());
    assert!(matches!(fork, Err(Error::Fork { .. })), "{fork:?}");
    assert_eq!(server.site_id().unwrap(), site);
    assert_eq!(server.vector().unwrap().max(&client.site_id().unwrap()), 0);
    assert!(server.verify().unwrap().is_clean());
}

#[test]
fn damaged_and_oversized_bytes_are_typed_errors() {
    struct Small;
    impl Checker for Small {
        fn bytes_max(&self) -> usize {
            100
        }
    }
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    run(&client, "INSERT INTO items VALUES (1, 'a', 1), (2, 'b', 2)");
    let bytes = client.changeset_since(0).unwrap();
    assert!(bytes.len() > 100);
    assert!(matches!(server.apply_checked(&bytes, &mut Small), Err(Error::Changeset { .. })));
    for len in 0..bytes.len() {
        let cut = server.apply_checked(&bytes[..len], &mut Notes::default());
        assert!(matches!(cut, Err(Error::Changeset { .. })), "{len}: {cut:?}");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert!(server.apply_checked(&flipped, &mut Notes::default()).is_err());
    }
    assert_eq!((int(&server, "SELECT count(*) FROM items"), server.vector().unwrap().is_empty()), (0, true));
}

#[test]
fn void_versions_are_held_and_the_chain_goes_on() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    let site = client.site_id().unwrap();
    let chain = rejoin_crdt::chain::next;
    let (c1, c2) = (chain(0, 1, 11), chain(chain(0, 1, 11), 2, 22));
    let one = Void { site, version: 1, nonce: 11, chain: c1 };
    let two = Void { site, version: 2, nonce: 22, chain: c2 };
    let wrong = Void { chain: c1 + 1, ..one };
    assert!(matches!(server.void(&[wrong]), Err(Error::Fork { version: 1, .. })));
    assert!(matches!(server.void(&[one, Void { chain: 5, ..two }]), Err(Error::Fork { version: 2, .. })));
    assert!(server.vector().unwrap().is_empty());
    assert!(matches!(server.void(&[Void { version: 0, ..one }]), Err(Error::BadArgument { .. })));
    assert!(matches!(server.void(&[Void { version: 1 << 53, ..one }]), Err(Error::BadArgument { .. })));
    assert!(matches!(server.void(&[one, wrong]), Err(Error::BadArgument { .. })));
    let own = Void { site: server.site_id().unwrap(), ..one };
    assert!(matches!(server.void(&[own]), Err(Error::BadArgument { .. })));
    assert_eq!(server.void(&[two, one]).unwrap(), 2);
    assert_eq!(server.void(&[one, two]).unwrap(), 0);
    assert!(matches!(server.void(&[wrong]), Err(Error::Fork { .. })));
    assert_eq!(server.vector().unwrap().max(&site), 2);
    assert!(server.verify().unwrap().is_clean());
    // Others hear of it, also after the file was opened anew.
    drop(server);
    let (server, other) = (files.open("server.db", ITEMS), files.open("other.db", ITEMS));
    run(&server, "INSERT INTO items(id) VALUES (9)");
    crate::util::pull(&server, &other).unwrap();
    assert_eq!(other.vector().unwrap(), server.vector().unwrap());
    // The third transaction builds on the second: another chain is a fork.
    use rejoin_wire::{Header, Transaction, Writer};
    let third = |chain: u64| {
        let mut w = Writer::new(Header { site, lineage: None });
        let origin = w.site(&site);
        w.transaction(Transaction {
            origin,
            version: 3,
            clock: 0,
            nonce: 33,
            chain,
            relay: false,
            db_version: 3,
        });
        w.finish(false).unwrap()
    };
    for r in [&server, &other] {
        let fork = r.apply_checked(&third(7), &mut Notes::default());
        assert!(matches!(fork, Err(Error::Fork { version: 3, .. })), "{fork:?}");
        assert_applied(&r.apply_checked(&third(chain(c2, 3, 33)), &mut Notes::default()).unwrap());
        assert!(r.verify().unwrap().is_clean());
    }
}

#[test]
fn ops_are_told_by_what_stands_before_and_after() {
    let files = Files::new();
    let (client, server) = (files.open("client.db", ITEMS), files.open("server.db", ITEMS));
    run(&client, "INSERT INTO items(id) VALUES (1)");
    struct Ops(Vec<Op>);
    impl Checker for Ops {
        fn row(&mut self, row: &RowFacts<'_>) -> Result<(), Refusal> {
            self.0.push(row.op);
            Ok(())
        }
    }
    let mut ops = Ops(Vec::new());
    let mut send = || {
        let bytes = client.changeset_for(&server.vector().unwrap()).unwrap().unwrap();
        assert_applied(&server.apply_checked(&bytes, &mut ops).unwrap());
    };
    send();
    run(&client, "DELETE FROM items; INSERT INTO items(id, stock) VALUES (1, 4)");
    send();
    run(&client, "DELETE FROM items");
    send();
    // A row that came and went is a delete of what never stood here.
    run(&client, "BEGIN; INSERT INTO items(id) VALUES (2); DELETE FROM items; COMMIT");
    send();
    assert_eq!(ops.0, [Op::Insert, Op::Update, Op::Delete, Op::Delete]);
}
