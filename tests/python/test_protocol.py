"""docs/protocol.md is enough to write a client from: `protocol.py` is one, and syncs with the real server."""

import json
import os
import struct
import subprocess
import urllib.request

import pytest
from helpers import books
from protocol import ACK, FAULT, REFUSED, WELCOME, Fault, Session, blob, decode, hello, varint


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Where `rejoin serve` listens."""
    command = os.environ.get("REJOIN_COMMAND")
    assert command, "build the command first, and name it: REJOIN_COMMAND=target/debug/rejoin"
    rooms = tmp_path_factory.mktemp("rooms")
    process = subprocess.Popen(
        [command, "serve", "--data", rooms, "--listen", "127.0.0.1:0", "--insecure-no-auth", "--log", "warn"],
        stdout=subprocess.PIPE,
        text=True,
    )
    said = process.stdout.readline()
    assert said.startswith("listening on "), said
    yield said.split()[-1]
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture
def session(server):
    opened = []

    def session(room, db, **options):
        opened.append(Session(f"ws://{server}/{room}", db, ["book"], **options))
        return opened[-1]

    yield session
    for one in opened:
        one.close()


def vector(db):
    return json.loads(db.execute("SELECT crsql_vector()").fetchone()[0])


def changeset(db, since=0):
    return db.execute("SELECT crsql_changeset(?)", (since,)).fetchone()[0]


def test_two_clients_become_equal(shop, session):
    here, there = shop(clock="hlc"), shop(clock="hlc")
    here.execute("INSERT INTO book VALUES ('978-0', 'Middlemarch', 3)")
    first = session("equal", here)
    assert first.welcome["vector"] == {} and first.welcome["yours"] is None
    assert first.push(changeset(here)) == (ACK, 1)

    second = session("equal", there)
    assert second.welcome["vector"] == vector(here) and second.welcome["lineage"] == first.welcome["lineage"]
    assert "CREATE TABLE" in second.welcome["schema"]
    second.until(lambda: books(there))
    assert vector(there) == vector(here)

    since = there.execute("SELECT crsql_db_version()").fetchone()[0]
    there.execute("UPDATE book SET stock = 2")
    assert second.push(changeset(there, since)) == (ACK, 1)
    first.until(lambda: vector(here) == vector(there))
    assert books(here) == books(there) == [("978-0", "Middlemarch", 2)]


def test_large_cuts_travel_by_instalments(shop, session):
    here, there = shop(clock="hlc"), shop(clock="hlc")
    here.execute("BEGIN")
    here.executemany("INSERT INTO book VALUES (?, ?, 1)", ((f"978-{n}", os.urandom(40).hex()) for n in range(20000)))
    here.execute("COMMIT")
    whole = changeset(here)
    assert len(whole) > 500_000
    assert session("large", here).push(whole) == (ACK, 1)
    session("large", there).until(lambda: vector(there) == vector(here))
    assert books(here) == books(there)


def test_what_builds_on_what_is_not_there_is_a_gap(shop, session):
    db = shop(clock="hlc")
    db.execute("INSERT INTO book VALUES ('978-0', 'Emma', 1)")
    since = db.execute("SELECT crsql_db_version()").fetchone()[0]
    db.execute("UPDATE book SET stock = 0")
    number, (cut, code, message, held) = session("gap", db).push(changeset(db, since))
    assert (number, cut, code, held) == (REFUSED, 1, "Gap", {}), message


def test_damaged_bytes_change_nothing(shop, session):
    db = shop(clock="hlc")
    db.execute("INSERT INTO book VALUES ('978-0', 'Emma', 1)")
    one = session("damage", db)
    number, (_, code, _, held) = one.push(changeset(db) + b"\0")
    assert (number, code, held) == (REFUSED, "Malformed", {})
    one.socket.send(varint(FAULT + 1))
    with pytest.raises(Fault) as refused:
        one.frame()
    assert refused.value.code == "Protocol"
    assert session("damage", db).push(changeset(db)) == (ACK, 1)


def test_the_same_over_http(shop, session, server):
    here, there = shop(clock="hlc"), shop(clock="hlc")
    here.execute("INSERT INTO book VALUES ('978-0', 'Emma', 1)")
    assert session("http", here).push(changeset(here)) == (ACK, 1)
    with urllib.request.urlopen(f"http://{server}/http/pull?hello={hello(there, ['book']).hex()}") as answer:
        body = answer.read()
    frames = []
    while body:
        (length,) = struct.unpack("<I", body[:4])
        frames.append(decode(body[4 : 4 + length]))
        body = body[4 + length :]
    assert frames[0][0] == WELCOME
    there.execute("SELECT crsql_apply_changeset(?)", (b"".join(part for _, (_, part) in frames[2:]),))
    assert books(there) == books(here)
    with urllib.request.urlopen(f"http://{server}/http/snapshot") as answer:
        assert answer.read(16) == b"SQLite format 3\0"


def test_a_frame_is_what_the_page_says():
    assert varint(300) == b"\xac\x02" and blob(b"ab") == b"\x02ab"
    assert decode(bytes.fromhex("0501")) == (ACK, 1)
