"""Runs interoperability scenarios on an SQLite extension that speaks cr-sqlite's SQL surface.

    python3 interop.py run EXTENSION ENTRY FILE...       print the results as JSON
    python3 interop.py record EXTENSION                  write expected/*.json from cr-sqlite 0.16.3

The format of scenario files is described in README.md.
"""

import json
import os
import pathlib
import re
import sqlite3
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SCENARIOS = HERE / "scenarios"
EXPECTED = HERE / "expected"
COLUMNS = "[table], pk, cid, val, col_version, db_version, site_id, cl, seq"
INSERT = f"INSERT INTO crsql_changes ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
KINDS = {":": "run", "?": "query", "!": "fails"}
SAFE_INTEGER = 2**53 - 1
# What a connection of Rejoin does first; empty to try the tests themselves on cr-sqlite.
SETUP = os.environ.get("INTEROP_SETUP", "SELECT crsql_config_set('clock', 'lamport')")


class ScenarioError(Exception):
    """A scenario file that breaks the grammar."""


def parse(path):
    """The scenarios of one file, as dictionaries with name, title, steps and the @ fields."""
    scenarios, scenario, step = [], None, None
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        where = f"{path.name}:{number}"
        if not line.strip() or line.startswith("--"):
            continue
        if line[0].isspace():
            if step is None or "sql" not in step:
                raise ScenarioError(f"{where}: continuation of nothing")
            step["sql"] += "\n" + line.strip()
        elif line.startswith("== "):
            name, _, title = line[3:].partition(" | ")
            scenario, step = {"name": name.strip(), "title": title.strip(), "steps": []}, None
            scenarios.append(scenario)
        elif scenario is None:
            raise ScenarioError(f"{where}: a step before the first scenario")
        elif line.startswith("@"):
            key, _, value = line[1:].partition(" ")
            scenario[key] = value.strip()
        elif line.startswith("=> "):
            if step is None:
                raise ScenarioError(f"{where}: an expectation of nothing")
            step["rejoin"] = json.loads(line[3:])
        else:
            step = parse_step(line)
            if step is None:
                raise ScenarioError(f"{where}: not a step: {line}")
            step["where"] = where
            scenario["steps"].append(step)
    return scenarios


def parse_step(line):
    if m := re.fullmatch(r"([a-d](?:,[a-d])*)([:?!]) (.*)", line):
        return {"kind": KINDS[m[2]], "dbs": m[1].split(","), "sql": m[3]}
    if m := re.fullmatch(r"(changes|reopen) ([a-d](?:,[a-d])*)", line):
        return {"kind": m[1], "dbs": m[2].split(",")}
    if m := re.fullmatch(r"sync ([a-d]) ([a-d])((?: [a-z]+(?:=\d+)?)*)", line):
        words = [word.partition("=") for word in m[3].split()]
        return {"kind": "sync", "from": m[1], "to": m[2], "options": {k: v or True for k, _, v in words}}
    return None


class Engine:
    """An extension file, its entry point, and what every new connection does first."""

    def __init__(self, extension, entry, setup=""):
        self.extension, self.entry, self.setup = str(extension), entry, setup

    def open(self, path):
        conn = sqlite3.connect(path, isolation_level=None)
        conn.enable_load_extension(True)
        conn.execute("SELECT load_extension(?, ?)", (self.extension, self.entry))
        conn.enable_load_extension(False)
        for sql in filter(None, [self.setup]):
            conn.execute(sql).fetchall()
        return conn


def statements(sql):
    """Splits at the semicolons that end statements."""
    begin = 0
    for i, char in enumerate(sql):
        if char == ";" and sqlite3.complete_statement(sql[begin : i + 1]):
            yield sql[begin : i + 1]
            begin = i + 1
    if sql[begin:].strip():
        yield sql[begin:]


class World:
    """The databases of one scenario."""

    def __init__(self, engine, directory):
        self.engine, self.directory = engine, pathlib.Path(directory)
        self.dbs, self.sites, self.cursors = {}, {}, {}

    def db(self, name):
        if name not in self.dbs:
            self.open(name)
        return self.dbs[name]

    def open(self, name):
        conn = self.engine.open(self.directory / f"{name}.db")
        self.dbs[name] = conn
        self.sites[conn.execute("SELECT crsql_site_id()").fetchone()[0]] = name

    def close(self):
        for conn in self.dbs.values():
            conn.execute("SELECT crsql_finalize()").fetchall()
            conn.close()

    def step(self, step):
        try:
            return getattr(self, step["kind"])(step)
        except (sqlite3.Error, MemoryError, OverflowError) as error:
            return {"error": str(error)}

    def run(self, step):
        for name in step["dbs"]:
            for sql in statements(step["sql"]):
                self.db(name).execute(sql).fetchall()
        return "ok"

    fails = run

    def query(self, step):
        rows = [row for name in step["dbs"] for row in self.db(name).execute(step["sql"]).fetchall()]
        return [[self.plain(value) for value in row] for row in rows]

    def changes(self, step):
        rows = []
        for name in step["dbs"]:
            rows += ordered(self.db(name).execute(f"SELECT {COLUMNS} FROM crsql_changes").fetchall())
        return [[row[0], hex_of(row[1])] + [self.plain(value) for value in row[2:]] for row in rows]

    def sync(self, step):
        source, target = self.db(step["from"]), self.db(step["to"])
        key, options = (step["from"], step["to"]), step["options"]
        since = int(options["from"]) if "from" in options else self.cursors.get(key, 0)
        clause, params = "db_version > ?", [since]
        if "echo" not in options:
            clause += " AND site_id IS NOT ?"
            params.append(target.execute("SELECT crsql_site_id()").fetchone()[0])
        rows = source.execute(f"SELECT {COLUMNS} FROM crsql_changes WHERE {clause}", params).fetchall()
        if "reverse" in options:
            rows.reverse()
        version = source.execute("SELECT crsql_db_version()").fetchone()[0]
        if "each" not in options:
            target.execute("BEGIN")
        try:
            for row in rows:
                target.execute(INSERT, row)
            impacted = target.execute("SELECT crsql_rows_impacted()").fetchone()[0]
        except sqlite3.Error:
            if target.in_transaction:
                target.execute("ROLLBACK")
            raise
        if "each" not in options:
            target.execute("COMMIT")
        self.cursors[key] = version
        return {"sent": len(rows), "impacted": impacted}

    def reopen(self, step):
        for name in step["dbs"]:
            self.db(name).close()
            self.open(name)
        return "ok"

    def plain(self, value):
        if isinstance(value, int) and abs(value) > SAFE_INTEGER:
            return {"int": str(value)}
        if isinstance(value, float):
            return {"real": int(value) if value.is_integer() and abs(value) < 1e15 else value}
        if isinstance(value, bytes):
            return {"site": self.sites[value]} if value in self.sites else {"blob": hex_of(value)}
        return value


def ordered(rows):
    """The natural order must already be (db_version, seq); what ties there is put in one order for comparing."""
    places = [(row[5], row[8]) for row in rows]
    if places != sorted(places):
        raise sqlite3.DataError("crsql_changes is not in (db_version, seq) order")
    return sorted(rows, key=lambda row: (row[5], row[8], row[0], hex_of(row[1]), row[2]))


def hex_of(value):
    return bytes(value or b"").hex().upper()


def run_scenario(engine, scenario):
    with tempfile.TemporaryDirectory() as directory:
        world = World(engine, directory)
        try:
            return [world.step(step) for step in scenario["steps"]]
        finally:
            world.close()


def agree(expected, actual):
    """Two errors agree whatever their texts; the texts are recorded for the reader."""
    if is_error(expected) or is_error(actual):
        return is_error(expected) and is_error(actual)
    return expected == actual


def is_error(result):
    return isinstance(result, dict) and "error" in result


def files():
    return sorted(SCENARIOS.glob("*.txt"))


def expected_of(path):
    return json.loads((EXPECTED / f"{path.stem}.json").read_text("utf-8"))


def write_expected(path, results):
    """One step result per line, so that a changed expectation is a small diff."""
    dump = lambda value: json.dumps(value, ensure_ascii=True)
    blocks = [
        f" {dump(name)}: [\n" + ",\n".join(f"  {dump(result)}" for result in steps) + "\n ]"
        for name, steps in results.items()
    ]
    (EXPECTED / f"{path.stem}.json").write_text("{\n" + ",\n".join(blocks) + "\n}\n", "utf-8")


def check_bang(scenario, results):
    """A step written with `!` must fail on cr-sqlite, every other must not."""
    for step, result in zip(scenario["steps"], results, strict=True):
        if is_error(result) != (step["kind"] == "fails") and "rejoin" not in step:
            print(f"{step['where']}: {step.get('sql', step['kind'])!r} gave {result}")


def record(extension):
    engine = Engine(extension, "sqlite3_crsqlite_init")
    EXPECTED.mkdir(exist_ok=True)
    for path in files():
        results = {}
        for scenario in parse(path):
            results[scenario["name"]] = run_scenario(engine, scenario)
            check_bang(scenario, results[scenario["name"]])
        write_expected(path, results)


def main(words):
    match words:
        case ["run", extension, entry, *paths]:
            engine = Engine(extension, entry)
            for path in map(pathlib.Path, paths):
                for scenario in parse(path):
                    print(f"== {scenario['name']}")
                    for step, result in zip(scenario["steps"], run_scenario(engine, scenario), strict=True):
                        print(f"{step.get('sql', step['kind'])}\n   {json.dumps(result)}")
        case ["record", extension]:
            record(extension)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
