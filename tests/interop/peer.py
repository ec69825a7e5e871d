"""A Rejoin database driven over stdin and stdout: one JSON request and one JSON answer per line.

    python3 peer.py EXTENSION ENTRY
    {"do": "open", "db": "r"}                         -> {"ok": SITE}
    {"do": "run", "db": "r", "sql": ..., "params": [...]}   -> {"ok": [[VALUE, ...], ...]}

Values: null, {"i": "INTEGER"}, {"f": REAL}, {"t": "text"}, {"b": "HEX"}; so no number loses digits.
"""

import json
import pathlib
import sqlite3
import sys
import tempfile

import interop


def decode(value):
    if value is None:
        return None
    [(kind, content)] = value.items()
    return {"i": int, "f": float, "t": str, "b": bytes.fromhex}[kind](content)


def encode(value):
    match value:
        case None:
            return None
        case int():
            return {"i": str(value)}
        case float():
            return {"f": value}
        case str():
            return {"t": value}
        case bytes():
            return {"b": value.hex().upper()}


def answer(engine, directory, dbs, request):
    name = request["db"]
    if request["do"] == "open":
        dbs[name] = engine.open(pathlib.Path(directory) / f"{name}.db")
        return encode(dbs[name].execute("SELECT crsql_site_id()").fetchone()[0])
    if "rows" in request:
        dbs[name].execute("BEGIN")
        for row in request["rows"]:
            dbs[name].execute(request["sql"], [decode(value) for value in row])
        dbs[name].execute("COMMIT")
        return []
    rows = dbs[name].execute(request["sql"], [decode(value) for value in request.get("params", [])]).fetchall()
    return [[encode(value) for value in row] for row in rows]


def main():
    engine = interop.Engine(sys.argv[1], sys.argv[2], interop.SETUP)
    with tempfile.TemporaryDirectory() as directory:
        dbs = {}
        for line in sys.stdin:
            try:
                reply = {"ok": answer(engine, directory, dbs, json.loads(line))}
            except sqlite3.Error as error:
                reply = {"error": str(error)}
            print(json.dumps(reply), flush=True)
        for db in dbs.values():
            db.close()


if __name__ == "__main__":
    main()
