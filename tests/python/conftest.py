"""Rejoin as a program in Python sees it: the sqlite3 module and the loadable extension."""

import os
import pathlib
import sqlite3

import pytest


@pytest.fixture(scope="session")
def extension():
    """The path of the extension; `cargo xtask test` builds it and says where it is."""
    path = os.environ.get("REJOIN_EXTENSION")
    if not path:
        target = pathlib.Path(__file__).resolve().parents[2] / "target" / "ext"
        found = sorted(target.glob("rejoin.*"))
        path = found[0] if found else None
    assert path, "build the extension first: cargo xtask ext"
    return str(path)


@pytest.fixture
def connect(extension):
    """Opens connections that have Rejoin, in autocommit unless told otherwise, and closes them."""
    opened = []

    def connect(path=":memory:", *, load=True, **options):
        options.setdefault("isolation_level", None)
        options.setdefault("timeout", 20)
        connection = sqlite3.connect(str(path), **options)
        opened.append(connection)
        if load:
            connection.enable_load_extension(True)
            connection.load_extension(extension)
            connection.enable_load_extension(False)
        return connection

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def plain(connect):
    """As `connect`, without the extension."""

    def plain(path=":memory:", **options):
        return connect(path, load=False, **options)

    return plain


SCHEMA = "CREATE TABLE book (isbn TEXT PRIMARY KEY NOT NULL, title TEXT, stock INTEGER DEFAULT 0)"


@pytest.fixture
def shop(connect):
    """A replica with the table `book`; with lamport clocks, so that versions are small exact numbers."""

    def shop(path=":memory:", *, clock="lamport", **options):
        db = connect(path, **options)
        db.execute("SELECT crsql_config_set('clock', ?)", (clock,)).fetchall()
        db.execute(SCHEMA)
        assert db.execute("SELECT crsql_as_crr('book')").fetchall() == [("OK",)]
        return db

    return shop
