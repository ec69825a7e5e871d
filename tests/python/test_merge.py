"""Two and three replicas that exchange changes through executemany."""

import random
import sqlite3

import pytest
from helpers import INSERT, books, cells, changes, pull, version


def test_one_way(shop):
    a, b = shop(), shop()
    a.execute("INSERT INTO book VALUES ('1', 'Emma', 3), ('2', 'Persuasion', 4)")
    a.execute("UPDATE book SET stock = 2 WHERE isbn = '1'")
    assert pull(a, b) == 4
    assert books(b) == books(a) == [("1", "Emma", 2), ("2", "Persuasion", 4)]
    assert cells(a) == cells(b)
    assert version(b) == 2


def test_again_and_in_any_order(shop):
    a = shop()
    a.execute("INSERT INTO book VALUES ('1', 'Emma', 3), ('2', 'Persuasion', 4)")
    a.execute("DELETE FROM book WHERE isbn = '2'")
    a.execute("INSERT INTO book VALUES ('2', 'Persuasion, 2nd', 5)")
    rows = changes(a)
    for seed in range(10):
        b = shop()
        random.Random(seed).shuffle(rows)
        b.execute("BEGIN")
        b.executemany(INSERT, rows + rows[:3])
        b.execute("COMMIT")
        assert books(b) == books(a)
        assert cells(b) == cells(a)


def test_only_what_is_new_and_not_what_came_from_there(shop):
    a, b = shop(), shop()
    a.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    pull(a, b)
    seen = version(a)
    a.execute("UPDATE book SET stock = 1")
    b.execute("INSERT INTO book VALUES ('2', 'Persuasion', 4)")
    assert [row[2] for row in changes(a, seen)] == ["stock"]
    site = a.execute("SELECT crsql_site_id()").fetchone()[0]
    own = b.execute("SELECT count(*) FROM crsql_changes WHERE site_id IS NOT ?", (site,)).fetchone()
    assert own == (2,)
    mine = b.execute("SELECT count(*) FROM crsql_changes WHERE site_id = crsql_site_id()").fetchone()
    assert mine == (2,)


def test_rows_impacted(shop):
    a, b = shop(), shop()
    a.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    rows = changes(a)
    b.execute("BEGIN")
    b.executemany(INSERT, rows)
    assert b.execute("SELECT crsql_rows_impacted()").fetchone() == (2,)
    b.execute("COMMIT")
    assert b.execute("SELECT crsql_rows_impacted()").fetchone() == (0,)
    b.execute("BEGIN")
    b.executemany(INSERT, rows)
    assert b.execute("SELECT crsql_rows_impacted()").fetchone() == (0,)
    b.execute("ROLLBACK")


def test_rolled_back_merge(shop):
    a, b = shop(), shop()
    a.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    b.execute("BEGIN")
    b.executemany(INSERT, changes(a))
    assert books(b) == [("1", "Emma", 3)]
    b.execute("ROLLBACK")
    assert books(b) == [] and changes(b) == [] and version(b) == 0


@pytest.mark.parametrize("clock", ["hlc", "lamport"])
@pytest.mark.parametrize("seed", range(4))
def test_three_shops_become_equal(shop, seed, clock):
    chance = random.Random(seed)
    shops = [shop(clock=clock) for _ in range(3)]
    for db in shops:
        db.execute("SELECT crsql_config_set('merge-equal-values', 1)").fetchall()
    seen = {}

    def exchange(a, b):
        seen[a, b] = version(shops[a]) if pull(shops[a], shops[b], seen.get((a, b), 0)) >= 0 else 0

    for _ in range(120):
        db = chance.choice(shops)
        isbn = str(chance.randrange(8))
        match chance.randrange(6):
            case 0 | 1:
                db.execute("INSERT OR IGNORE INTO book VALUES (?, ?, ?)", (isbn, "t" + isbn, chance.randrange(3)))
            case 2:
                db.execute("UPDATE book SET stock = ? WHERE isbn = ?", (chance.randrange(3), isbn))
            case 3:
                db.execute("DELETE FROM book WHERE isbn = ?", (isbn,))
            case 4:
                db.execute("INSERT OR REPLACE INTO book VALUES (?, 'r', ?)", (isbn, chance.randrange(3)))
            case _:
                exchange(*chance.sample(range(3), 2))
    for _ in range(2):
        for a in range(3):
            for b in range(3):
                if a != b:
                    exchange(a, b)
    assert books(shops[0]) == books(shops[1]) == books(shops[2])
    assert cells(shops[0]) == cells(shops[1]) == cells(shops[2])
    quiet = [version(db) for db in shops]
    for a, b in [(0, 1), (1, 0), (2, 0), (0, 2)]:
        pull(shops[a], shops[b])
    assert [version(db) for db in shops] == quiet, "equal replicas have nothing to tell each other"


def test_values_of_every_type_arrive_as_they_are(connect):
    values = [None, 0, -1, 2**63 - 1, -(2**63), 1.5, float("inf"), "", "text \u2603", b"", b"\x00\xff" * 50]
    a, b = connect(), connect()
    for db in (a, b):
        db.execute("CREATE TABLE t (k NOT NULL PRIMARY KEY, v)")
        db.execute("SELECT crsql_as_crr('t')").fetchall()
    for number, value in enumerate(values):
        a.execute("INSERT INTO t VALUES (?, ?)", (number, value))
        if value is not None:
            a.execute("INSERT INTO t VALUES (?, 'key')", (value if number > 4 else f"k{number}",))
    pull(a, b)
    rows = "SELECT typeof(k), k, typeof(v), v FROM t ORDER BY k"
    assert a.execute(rows).fetchall() == b.execute(rows).fetchall()


def test_a_failing_check_leaves_no_half_row(connect):
    a, b = connect(), connect()
    for db, check in ((a, ""), (b, "CHECK (stock >= 0)")):
        db.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, name, stock {check})")
        db.execute("SELECT crsql_as_crr('t')").fetchall()
    a.execute("INSERT INTO t VALUES (1, 'good', 1)")
    a.execute("INSERT INTO t VALUES (2, 'bad', -1)")
    b.execute("BEGIN")
    with pytest.raises(sqlite3.Error, match="CHECK|stock"):
        b.executemany(INSERT, changes(a))
    b.execute("ROLLBACK")
    assert b.execute("SELECT * FROM t").fetchall() == []
    assert changes(b) == []
    for row in changes(a):
        try:
            b.execute(INSERT, row)
        except sqlite3.Error:
            assert row[3] == -1
    listed = {(row[1], row[2]) for row in changes(b)}
    for key, name, stock in b.execute("SELECT crsql_pack_columns(id), name, stock FROM t").fetchall():
        assert (key, "name") in listed or name is None
        assert (key, "stock") in listed or stock is None


def test_not_null_columns_wait_for_their_value(connect):
    a, b = connect(), connect()
    for db in (a, b):
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, x NOT NULL, y NOT NULL)")
        db.execute("SELECT crsql_as_crr('t')").fetchall()
    a.execute("INSERT INTO t VALUES (1, 'x', 'y')")
    first, second = changes(a)
    b.execute(INSERT, first)
    assert b.execute("SELECT count(*) FROM t").fetchone() == (0,)
    b.execute(INSERT, second)
    assert b.execute("SELECT * FROM t").fetchall() == [(1, "x", "y")]
    assert len(changes(b)) == 2
