"""Several connections, threads, journal modes and programs without Rejoin on one file."""

import sqlite3
import threading

import pytest
from helpers import INSERT, books, cells, changes, pull, version


@pytest.mark.parametrize("journal", ["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"])
def test_journal_modes(shop, connect, tmp_path, journal):
    path = tmp_path / "shop.db"
    db = shop(path)
    assert db.execute(f"PRAGMA journal_mode = {journal}").fetchone()[0].upper() == journal
    db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    db.execute("BEGIN")
    db.execute("UPDATE book SET stock = 2")
    db.execute("ROLLBACK")
    db.execute("UPDATE book SET stock = 1")
    db.close()
    again = connect(path)
    assert books(again) == [("1", "Emma", 1)]
    assert [(c[2], c[4], c[5]) for c in changes(again)] == [("title", 1, 1), ("stock", 2, 2)]


def test_connections_see_each_others_commits(shop, connect, tmp_path):
    path = tmp_path / "shop.db"
    one = shop(path)
    one.execute("PRAGMA journal_mode = WAL")
    two = connect(path)
    for n in range(1, 6):
        writer, reader = (one, two) if n % 2 else (two, one)
        writer.execute("INSERT INTO book VALUES (?, 't', 1)", (str(n),))
        assert version(writer) == version(reader) == n
        assert changes(reader) == changes(writer)
        assert len(changes(reader, n - 1)) == 2


def test_a_reader_keeps_its_snapshot(shop, connect, tmp_path):
    path = tmp_path / "shop.db"
    writer = shop(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    reader = connect(path)
    reader.execute("BEGIN")
    before = changes(reader)
    writer.execute("UPDATE book SET stock = 9")
    assert changes(reader) == before and version(reader) == 1
    reader.execute("COMMIT")
    assert version(reader) == 2 and changes(reader) == changes(writer)


def test_a_schema_change_of_another_connection_is_seen(shop, connect, tmp_path):
    path = tmp_path / "shop.db"
    one = shop(path)
    two = connect(path)
    two.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    one.execute("ALTER TABLE book ADD COLUMN price INTEGER DEFAULT 5")
    two.execute("UPDATE book SET price = 6")
    one.execute("CREATE TABLE author (id INTEGER PRIMARY KEY NOT NULL, name)")
    one.execute("SELECT crsql_as_crr('author')").fetchall()
    two.execute("INSERT INTO author VALUES (1, 'Austen')")
    assert [(c[0], c[2], c[3]) for c in changes(one, 1)] == [("book", "price", 6), ("author", "name", "Austen")]
    one.execute("SELECT crsql_as_table('author')").fetchall()
    two.execute("INSERT INTO author VALUES (2, 'Eliot')")
    assert [c[0] for c in changes(two, 2)] == []


def test_threads_that_write_one_file(shop, connect, tmp_path):
    path = tmp_path / "shop.db"
    shop(path).execute("PRAGMA journal_mode = WAL")
    failures = []

    def work(worker):
        try:
            db = connect(path, check_same_thread=False, timeout=60)
            for n in range(40):
                db.execute("BEGIN IMMEDIATE")
                db.execute("INSERT INTO book VALUES (?, ?, ?)", (f"{worker}-{n}", "t", n))
                db.execute("UPDATE book SET stock = stock + 1 WHERE isbn = ?", (f"{worker}-{n // 2}",))
                db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - reported by the test below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    db = connect(path)
    assert version(db) == 160
    assert db.execute("SELECT count(*) FROM book").fetchone() == (160,)
    listed = db.execute("SELECT count(*), count(DISTINCT db_version || ':' || seq) FROM crsql_changes").fetchone()
    assert listed == (320, 320)
    copy = shop()
    pull(db, copy)
    assert books(copy) == books(db) and cells(copy) == cells(db)


def test_busy_commit_can_be_repeated(shop, connect, tmp_path):
    path = tmp_path / "shop.db"
    writer = shop(path)
    writer.execute("PRAGMA busy_timeout = 0")
    reader = connect(path)
    writer.execute("INSERT INTO book VALUES ('0', 'zero', 0)")
    reader.execute("BEGIN")
    books(reader)
    writer.execute("BEGIN")
    writer.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        writer.execute("COMMIT")
    writer.execute("INSERT INTO book VALUES ('2', 'Persuasion', 4)")
    reader.execute("COMMIT")
    writer.execute("COMMIT")
    assert version(writer) == 2
    assert [(c[3], c[5], c[8]) for c in changes(writer, 1)] == [
        ("Emma", 2, 0),
        (3, 2, 1),
        ("Persuasion", 2, 2),
        (4, 2, 3),
    ]
    assert changes(reader) == changes(writer)


def test_read_only_connections_read(shop, connect, tmp_path):
    path = tmp_path / "shop.db"
    db = shop(path)
    db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    db.close()
    reader = connect(f"file:{path}?mode=ro", uri=True)
    assert books(reader) == [("1", "Emma", 3)]
    assert len(changes(reader)) == 2 and version(reader) == 1
    assert len(reader.execute("SELECT crsql_site_id()").fetchone()[0]) == 16
    for sql in ("INSERT INTO book VALUES ('2', 'x', 1)", "DELETE FROM book"):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute(sql)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute(INSERT, ("book", b"\x01\x0b\x01\x32", "title", "x", 1, 1, b"x" * 16, 1, 0))
    assert books(reader) == [("1", "Emma", 3)]


def test_query_only_connections_read(shop):
    db = shop()
    db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    db.execute("PRAGMA query_only = 1")
    assert len(changes(db)) == 2
    with pytest.raises(sqlite3.OperationalError):
        db.execute("UPDATE book SET stock = 1")
    db.execute("PRAGMA query_only = 0")
    db.execute("UPDATE book SET stock = 1")
    assert version(db) == 2


WRITES = [
    "INSERT INTO book VALUES ('2', 'x', 1)",
    "INSERT OR REPLACE INTO book VALUES ('1', 'x', 1)",
    "INSERT OR IGNORE INTO book VALUES ('3', 'x', 1)",
    "UPDATE book SET stock = 0",
    "UPDATE book SET isbn = '4'",
    "DELETE FROM book WHERE isbn = '1'",
    "DELETE FROM book",
]


@pytest.mark.parametrize("sql", WRITES)
def test_without_the_extension_nothing_is_written_unnoticed(shop, plain, tmp_path, sql):
    path = tmp_path / "shop.db"
    db = shop(path)
    db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    db.execute("CREATE TABLE till (id INTEGER PRIMARY KEY, total)")
    before = changes(db)
    outsider = plain(path)
    with pytest.raises(sqlite3.OperationalError):
        outsider.execute(sql)
    assert books(outsider) == [("1", "Emma", 3)]
    outsider.execute("INSERT INTO till VALUES (1, 2)")
    outsider.execute("UPDATE till SET total = 3")
    assert outsider.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert books(db) == [("1", "Emma", 3)] and changes(db) == before


def test_an_in_memory_copy_by_backup_is_a_replica(shop, connect):
    db = shop()
    db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    copy = connect()
    db.backup(copy)
    assert books(copy) == books(db)
    assert changes(copy) == changes(db)


def test_python_transactions(shop, tmp_path):
    """The module's own way: it begins a transaction before the first write and commits at the end of `with`."""
    db = shop(tmp_path / "shop.db", isolation_level="DEFERRED")
    db.commit()
    base = version(db)
    with db:
        db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
        db.execute("INSERT INTO book VALUES ('2', 'Persuasion', 4)")
    assert version(db) == base + 1
    with pytest.raises(sqlite3.IntegrityError), db:
        db.execute("INSERT INTO book VALUES ('3', 'x', 1)")
        db.execute("INSERT INTO book VALUES ('1', 'x', 1)")
    assert version(db) == base + 1 and len(books(db)) == 2


def test_hooks_of_the_program_stay_its_own(shop):
    """A host has one progress handler, one authorizer and one trace callback of its own."""
    db = shop()
    seen = []
    db.set_trace_callback(seen.append)
    db.set_authorizer(lambda *_: sqlite3.SQLITE_OK)
    db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    assert any("Emma" in sql for sql in seen)
    assert len(changes(db)) == 2


def test_many_loads_on_one_connection(connect, extension):
    db = connect()
    db.enable_load_extension(True)
    for _ in range(3):
        db.load_extension(extension)
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x)")
    db.execute("SELECT crsql_as_crr('t')").fetchall()
    db.execute("INSERT INTO t VALUES (1, 2)")
    assert len(changes(db)) == 1


def test_both_entry_points(plain, extension):
    for entry in ("sqlite3_rejoin_init", "sqlite3_crsqlite_init"):
        db = plain()
        db.enable_load_extension(True)
        db.execute("SELECT load_extension(?, ?)", (extension, entry)).fetchall()
        assert len(db.execute("SELECT crsql_site_id()").fetchone()[0]) == 16
