"""Bad input gets an error with a sentence, never an abort, and leaves everything as it was."""

import sqlite3

import pytest
from helpers import INSERT, books, changes, version

SITE = bytes(range(16))
GOOD = ("book", bytes([1, 0x0B, 1, 0x31]), "title", "Emma", 1, 1, SITE, 1, 0)
TABLE, PK, CID, VAL, COL_VERSION, DB_VERSION, SITE_ID, CL, SEQ = range(9)

BAD = [
    (TABLE, None),
    (TABLE, ""),
    (TABLE, "nope"),
    (TABLE, b"\xff\xfe"),
    (TABLE, "sqlite_schema"),
    (PK, None),
    (PK, b""),
    (PK, "text"),
    (PK, b"\x01"),
    (PK, b"\x02\x09\x01"),
    (PK, b"\x02\x09\x01\x09\x02"),
    (PK, b"\x01\x0b\x05abc"),
    (PK, b"\x01\x43\xff\xff\xff\xff\xff\xff\xff\xff"),
    (PK, b"\xff" * 300),
    (PK, b"\x01\x05"),
    (PK, GOOD[1] + b"\x00"),
    (CID, None),
    (CID, b"\x00"),
    (COL_VERSION, None),
    (COL_VERSION, -1),
    (COL_VERSION, 2**53),
    (COL_VERSION, 2**63 - 1),
    (COL_VERSION, "many"),
    (DB_VERSION, -1),
    (DB_VERSION, 2**53),
    (DB_VERSION, 2**41 + 5),
    (SITE_ID, b""),
    (SITE_ID, b"short"),
    (SITE_ID, b"x" * 17),
    (SITE_ID, b"x" * 4096),
    (CL, None),
    (CL, -1),
    (CL, 0),
    (CL, 2**31 + 1),
    (CL, 2**63 - 1),
    (SEQ, -1),
    (SEQ, 2**63 - 1),
]


def change(place, value):
    row = list(GOOD)
    row[place] = value
    return row


def test_the_good_change_is_good(shop):
    db = shop()
    db.execute(INSERT, GOOD)
    assert books(db) == [("1", "Emma", 0)]


@pytest.mark.parametrize(("place", "value"), BAD)
def test_a_bad_column_is_refused_or_parked(shop, place, value):
    """An unknown table or column may be parked; whatever happens, no row appears and the connection lives."""
    db = shop()
    row = change(place, value)
    try:
        db.execute(INSERT, row)
    except sqlite3.Error as error:
        assert len(str(error)) > 10, "an error is a sentence"
    assert books(db) in ([], [("1", "Emma", 0)])
    if place in (TABLE, PK, CL, COL_VERSION):
        assert books(db) == []
    db.execute("INSERT INTO book VALUES ('9', 'after', 1)")
    assert ("9", "after", 1) in books(db)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


FUNCTIONS = [
    "crsql_as_crr",
    "crsql_as_table",
    "crsql_begin_alter",
    "crsql_commit_alter",
    "crsql_config_get",
    "crsql_config_set",
    "crsql_fract_as_ordered",
    "crsql_fract_key_between",
    "crsql_pack_columns",
    "crsql_next_db_version",
    "crsql_automigrate",
    "crsql_changeset",
    "crsql_apply_changeset",
    "crsql_db_version",
    "crsql_site_id",
    "crsql_get_seq",
    "crsql_rows_impacted",
    "crsql_hlc_text",
]
ARGUMENTS = [None, "", "book", "nope", b"", b"\x00\xff", -1, 2**63 - 1, -(2**63), 1.5, float("inf"), "x" * 100_000]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_take_anything(shop, function):
    db = shop()
    db.execute("INSERT INTO book VALUES ('1', 'Emma', 3)")
    for count in range(4):
        for value in ARGUMENTS:
            db.execute("SAVEPOINT probe")
            try:
                db.execute(f"SELECT {function}({', '.join('?' * count)})", (value,) * count).fetchall()
            except (sqlite3.Error, OverflowError) as error:
                assert str(error)
            if db.in_transaction:
                db.execute("ROLLBACK TO probe")
                db.execute("RELEASE probe")
            if count == 0:
                break
    assert books(db) == [("1", "Emma", 3)]
    assert len(changes(db)) == 2
    db.execute("UPDATE book SET stock = 4")
    assert len(changes(db, version(db) - 1)) == 1


def test_unpack_takes_anything(connect):
    db = connect()
    for value in ARGUMENTS:
        try:
            db.execute("SELECT * FROM crsql_unpack_columns(?)", (value,)).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            assert str(error)
    assert db.execute("SELECT cell FROM crsql_unpack_columns(crsql_pack_columns(1, 'a'))").fetchall() == [(1,), ("a",)]
