"""A client of the sync protocol, written from docs/protocol.md alone: no storage of its own but the extension's SQL."""

import json

import blake3
from websockets.sync.client import connect

OLDEST = NEWEST = 1

HELLO, WELCOME, CUT, DATA, CREDIT, ACK, REFUSED, REJECT, ADOPTED, ROWS_WANTED = range(10)
TOKEN, TOKEN_TAKEN, PING, PONG, VECTOR, SCHEMA, HORIZON, FAULT = range(10, 18)

CODES = (
    "Protocol Version Unauthenticated Forbidden NoRoom OtherLineage IncompatibleSchema BelowHorizon Fork Gap Ahead "
    "Malformed Clock TooLarge Limited Constraint Policy ForeignSite DependsOn GoingAway Silent Internal"
).split()


class Fault(Exception):
    """The connection ended, for this reason."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


# Writing


def varint(number):
    out = bytearray()
    while True:
        byte, number = number & 0x7F, number >> 7
        out.append(byte | (0x80 if number else 0))
        if not number:
            return bytes(out)


def blob(data):
    return varint(len(data)) + data


def text(string):
    return blob(string.encode())


def option(value, encode):
    return b"\0" if value is None else b"\1" + encode(value)


def vector(ranges):
    """From the JSON of `crsql_vector()`, parsed: site in hex to a list of [from, to]."""
    if not ranges:
        return b""
    out = varint(len(ranges))
    for site, held in sorted(ranges.items()):
        out += bytes.fromhex(site) + varint(len(held))
        end = 0
        for start, last in held:
            out += varint(start - end) + varint(last - start)
            end = last
    return out


# Reading


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        part = self.data[self.at : self.at + count]
        assert len(part) == count, "a frame ends early"
        self.at += count
        return part

    def varint(self):
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def flag(self):
        return {0: False, 1: True}[self.take(1)[0]]

    def blob(self):
        return self.take(self.varint())

    def text(self):
        return self.blob().decode()

    def option(self, read):
        return read() if self.flag() else None

    def list(self, read):
        return [read() for _ in range(self.varint())]

    def pair(self):
        return self.varint(), self.varint()


def read_vector(data):
    if not data:
        return {}
    reader, ranges = Reader(data), {}
    for _ in range(reader.varint()):
        site, held, end = reader.take(16).hex(), [], 0
        for _ in range(reader.varint()):
            start = end + reader.varint()
            end = start + reader.varint()
            held.append([start, end])
        ranges[site] = held
    assert reader.at == len(data)
    return ranges


def read_welcome(r):
    def resume():
        return r.take(16), r.varint()

    return {
        "protocol": r.varint(),
        "session": r.varint(),
        "time_ms": r.varint(),
        "site": r.take(16),
        "lineage": r.take(16),
        "schema": r.blob().decode(),
        "vector": read_vector(r.blob()),
        "yours": r.option(r.pair),
        "head": r.option(r.pair),
        "horizon": read_vector(r.blob()),
        "relay": r.flag(),
        "read_only": r.flag(),
        "frame_bytes": r.varint(),
        "cut_bytes": r.varint(),
        "heartbeat_ms": r.varint(),
        "expires_ms": r.option(r.varint),
        "credit": r.varint(),
        "resume": r.option(resume),
    }


def decode(data):
    """The number of a frame, and its fields."""
    r = Reader(data)
    number = r.varint()
    fields = {
        WELCOME: lambda: read_welcome(r),
        CUT: lambda: {
            "cut": r.varint(),
            "bytes": r.varint(),
            "hash": r.take(16),
            "offset": r.varint(),
            "transactions": r.varint(),
            "more": r.flag(),
            "since": r.varint(),
            "rows": r.flag(),
        },
        DATA: lambda: (r.varint(), r.blob()),
        CREDIT: r.varint,
        ACK: r.varint,
        REFUSED: lambda: (r.varint(), CODES[r.varint()], r.text(), read_vector(r.blob())),
        TOKEN_TAKEN: lambda: r.option(r.varint),
        PING: lambda: (r.varint(), r.option(r.varint)),
        PONG: r.pair,
        VECTOR: lambda: read_vector(r.blob()),
        SCHEMA: r.blob,
        HORIZON: lambda: read_vector(r.blob()),
        FAULT: lambda: (CODES[r.varint()], r.text(), r.option(r.varint)),
    }[number]()
    assert r.at == len(data), "bytes after a frame"
    return number, fields


# Talking


def hello(db, tables, token=None):
    site = db.execute("SELECT crsql_site_id()").fetchone()[0]
    held = json.loads(db.execute("SELECT crsql_vector()").fetchone()[0])
    schema = "".join(
        sql + ";\n"
        for table in sorted(tables)
        for (sql,) in db.execute(
            "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND type IN ('table', 'index') AND sql IS NOT NULL "
            "ORDER BY type DESC, name",
            (table,),
        )
    )
    return b"".join(
        [
            varint(HELLO),
            varint(OLDEST),
            varint(NEWEST),
            option(token, text),
            site,
            option(None, bytes),  # The lineage is learned from Welcome.
            blob(schema.encode()),
            blob(vector(held)),
            option(None, bytes),  # No place in the chain: it is for telling forks.
            blob(b""),
            varint(1 << 22),
            option(None, bytes),
            text("docs/protocol.md"),
        ]
    )


class Session:
    """One connection, past the greeting."""

    def __init__(self, url, db, tables, token=None):
        self.db = db
        self.socket = connect(url, subprotocols=["rejoin.v1"], max_size=1 << 24, legacy=True)
        self.socket.send(hello(db, tables, token))
        number, self.welcome = self.frame()
        assert number == WELCOME
        self.credit, self.cuts = self.welcome["credit"], 0
        self.arriving = None

    def close(self):
        self.socket.close()

    def frame(self):
        """The next frame; heartbeats are answered on the way, and changes applied and acknowledged."""
        while True:
            number, fields = decode(self.socket.recv(timeout=60))
            if number == FAULT:
                raise Fault(*fields[:2])
            if number == PING:
                self.socket.send(varint(PONG) + varint(fields[0]) + varint(fields[0]))
            elif number == CUT:
                assert fields["offset"] == 0 and not fields["rows"]
                self.arriving = (fields, bytearray())
            elif number == DATA:
                self.data(*fields)
            elif number == CREDIT:
                self.credit += fields
            else:
                return number, fields

    def data(self, cut, part):
        head, whole = self.arriving
        assert cut == head["cut"]
        whole += part
        self.socket.send(varint(CREDIT) + varint(len(part)))
        if len(whole) == head["bytes"]:
            assert blake3.blake3(bytes(whole)).digest()[:16] == head["hash"]
            self.db.execute("SELECT crsql_apply_changeset(?)", (bytes(whole),))
            self.socket.send(varint(ACK) + varint(cut))
            self.arriving = None

    def push(self, changeset):
        """Sends a cut; the answer to it."""
        self.cuts += 1
        head = [self.cuts, len(changeset), None, 0, 1]
        self.socket.send(
            varint(CUT)
            + b"".join(blake3.blake3(changeset).digest()[:16] if n is None else varint(n) for n in head)
            + b"\0"
            + varint(0)
            + b"\0"
        )
        for at in range(0, len(changeset), 65536):
            part = changeset[at : at + 65536]
            assert len(part) <= self.credit
            self.credit -= len(part)
            self.socket.send(varint(DATA) + varint(self.cuts) + blob(part))
        return self.frame()

    def until(self, so):
        """Takes what the server sends until something is so."""
        while not so():
            number, fields = decode(self.socket.recv(timeout=60))
            if number == CUT:
                self.arriving = (fields, bytearray())
            elif number == DATA:
                self.data(*fields)
            elif number == FAULT:
                raise Fault(*fields[:2])
