"""What several test files share."""

COLUMNS = '"table", pk, cid, val, col_version, db_version, site_id, cl, seq'
INSERT = f"INSERT INTO crsql_changes ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def changes(db, since=0):
    return db.execute(
        f"SELECT {COLUMNS} FROM crsql_changes WHERE db_version > ? ORDER BY db_version, seq", (since,)
    ).fetchall()


def pull(source, target, since=0):
    """Moves changes row by row in one transaction, the way programs written for cr-sqlite do."""
    rows = changes(source, since)
    target.execute("BEGIN IMMEDIATE")
    target.executemany(INSERT, rows)
    target.execute("COMMIT")
    return len(rows)


def version(db):
    return db.execute("SELECT crsql_db_version()").fetchone()[0]


def books(db):
    return db.execute("SELECT * FROM book ORDER BY isbn").fetchall()


def cells(db):
    """The changes that must be equal on replicas that saw the same: all but the local db_version."""
    return sorted(
        (t, pk, cid, repr(val), col_version, site, cl)
        for t, pk, cid, val, col_version, _, site, cl, _ in changes(db)
    )
