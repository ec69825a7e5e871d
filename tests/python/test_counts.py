"""changes(), last_insert_rowid() and the cursor's attributes are those of a plain table.

total_changes() is not: SQLite counts there what the flush at commit writes, as it does for full-text tables.
"""

import pytest

STATEMENTS = [
    ("INSERT INTO t VALUES (7, 'a'), (8, 'b')", ()),
    ("INSERT INTO t (x) VALUES ('c')", ()),
    ("UPDATE t SET x = 'd' WHERE id > 7", ()),
    ("UPDATE t SET x = 'd' WHERE id > 7", ()),
    ("UPDATE t SET id = id + 100 WHERE id = 7", ()),
    ("INSERT OR REPLACE INTO t VALUES (8, 'e'), (20, 'f')", ()),
    ("INSERT OR IGNORE INTO t VALUES (8, 'g'), (21, 'h')", ()),
    ("INSERT INTO t VALUES (8, 'i') ON CONFLICT (id) DO UPDATE SET x = excluded.x", ()),
    ("DELETE FROM t WHERE id = 8", ()),
    ("DELETE FROM t WHERE id = 8", ()),
    ("INSERT INTO t VALUES (?, ?)", (8, "again")),
    ("DELETE FROM t", ()),
]


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize(
    "key", ["id INTEGER PRIMARY KEY NOT NULL, x", "id NOT NULL PRIMARY KEY, x", "id INT NOT NULL, x, PRIMARY KEY (id)"]
)
def test_counters_are_those_of_a_plain_table(connect, plain, key, in_transaction):
    results = []
    for db in (connect(), plain()):
        db.execute(f"CREATE TABLE t ({key})")
        if not results:
            db.execute("SELECT crsql_as_crr('t')").fetchall()
        if in_transaction:
            db.execute("BEGIN")
        seen = []
        for sql, values in STATEMENTS:
            if "(x)" in sql and "INTEGER" not in key:
                continue
            cursor = db.execute(sql, values)
            row = db.execute("SELECT changes(), last_insert_rowid()").fetchone()
            seen.append((sql, cursor.rowcount, cursor.lastrowid, row))
        if in_transaction:
            db.execute("COMMIT")
            seen.append(db.execute("SELECT changes(), last_insert_rowid()").fetchone())
        results.append(seen)
    assert results[0] == results[1]


def test_counters_after_a_commit_of_many_rows(connect, plain):
    """The flush at commit writes metadata; nobody may see that in the counters."""
    results = []
    for db in (connect(), plain()):
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x)")
        if not results:
            db.execute("SELECT crsql_as_crr('t')").fetchall()
        db.execute("BEGIN")
        cursor = db.executemany("INSERT INTO t (x) VALUES (?)", [(n,) for n in range(1000)])
        db.execute("COMMIT")
        row = db.execute("SELECT changes(), last_insert_rowid()").fetchone()
        results.append((cursor.rowcount, row))
    assert results[0] == results[1]


def test_returning(shop):
    db = shop()
    rows = db.execute("INSERT INTO book VALUES ('1', 'a', 2), ('2', 'b', 3) RETURNING isbn, stock").fetchall()
    assert rows == [("1", 2), ("2", 3)]
    assert db.execute("UPDATE book SET stock = stock + 1 RETURNING stock").fetchall() == [(3,), (4,)]
    assert db.execute("DELETE FROM book WHERE isbn = '1' RETURNING title").fetchall() == [("a",)]
    assert db.execute("SELECT count(*) FROM crsql_changes WHERE cl = 2").fetchone() == (1,)
