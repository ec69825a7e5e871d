// Rejoin and cr-sqlite 0.16 sync row by row in both directions while both write, as a program that upgrades one peer at a
// time would have it. At the end all replicas have equal tables and equal changes. REJOIN_LONG=1 runs more seeds.
//   INTEROP_SEED=7 node --test live.test.mjs        one seed
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import readline from 'node:readline';
import test from 'node:test';
import { Engine } from './engine.mjs';
import { COLUMNS, INSERT, hex } from './scenarios.mjs';

const ROUNDS = 300;
const SEEDS = process.env.INTEROP_SEED ? [Number(process.env.INTEROP_SEED)] : process.env.REJOIN_LONG ? range(1, 20) : [1, 2, 3];
const SCHEMA = [
  'CREATE TABLE book (id INTEGER PRIMARY KEY NOT NULL, title TEXT, price REAL, cover BLOB, stock INTEGER DEFAULT 0)',
  'CREATE TABLE line (orders INTEGER NOT NULL, book TEXT NOT NULL, quantity, PRIMARY KEY (orders, book))',
  'CREATE TABLE tag (name TEXT PRIMARY KEY NOT NULL)',
];
const TABLES = { book: 'id', line: 'orders, book', tag: 'name' };

function range(from, to) {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

/** mulberry32: the same edits for the same seed everywhere. */
function random(seed) {
  let a = seed >>> 0;
  return (n) => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

const encode = (value) => {
  if (value === null) return null;
  if (typeof value === 'bigint') return { i: String(value) };
  if (typeof value === 'number') return { f: value };
  if (typeof value === 'string') return { t: value };
  return { b: hex(value) };
};

const decode = (value) => {
  if (value === null) return null;
  const [[kind, content]] = Object.entries(value);
  if (kind === 'i') return BigInt(content);
  if (kind === 'b') return new Uint8Array(Buffer.from(content, 'hex'));
  return content;
};

class Rejoin {
  static start() {
    const { REJOIN_EXTENSION: extension, REJOIN_PYTHON: python = 'python3', REJOIN_ENTRY: entry } = process.env;
    assert.ok(extension, 'REJOIN_EXTENSION must name the extension: cargo xtask ext');
    const script = new URL('peer.py', import.meta.url).pathname;
    return new Rejoin(spawn(python, [script, extension, entry ?? 'sqlite3_rejoin_init'], { stdio: ['pipe', 'pipe', 'inherit'] }));
  }

  constructor(child) {
    this.child = child;
    this.waiting = [];
    readline.createInterface({ input: child.stdout }).on('line', (line) => this.waiting.shift().resolve(JSON.parse(line)));
    child.on('exit', (code) => this.waiting.forEach(({ reject }) => reject(new Error(`the Rejoin peer ended with ${code}`))));
  }

  async ask(request) {
    const reply = await new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.child.stdin.write(`${JSON.stringify(request)}\n`);
    });
    if ('error' in reply) throw new Error(`${reply.error} in ${request.sql}`);
    return reply.ok;
  }

  async open(db) {
    const site = decode(await this.ask({ do: 'open', db }));
    const run = async (sql, params = []) => {
      const rows = await this.ask({ do: 'run', db, sql, params: params.map(encode) });
      return rows.map((row) => row.map(decode));
    };
    const insert = (rows) => this.ask({ do: 'run', db, sql: INSERT, rows: rows.map((row) => row.map(encode)) });
    return { name: db, site, run, insert, movesKeys: true };
  }

  end() {
    this.child.stdin.end();
  }
}

async function openCrSqlite(engine, name, seed) {
  const db = await engine.open(`${name}-${seed}.db`);
  const run = (sql, params) => db.run(sql, params);
  const insert = async (rows) => {
    await run('BEGIN');
    for (const row of rows) await run(INSERT, row);
    await run('COMMIT');
  };
  const [[site]] = await run('SELECT crsql_site_id()');
  return { name, site, run, insert, movesKeys: false, close: () => db.close() };
}

/** One random transaction. Every value is written once only, so that ties are between sentinels alone. */
async function edit(peer, pick, unique) {
  const id = 1 + pick(8);
  const tag = `'tag ${pick(5)}'`;
  const title = `'${peer.name} ${unique()}'`;
  const book = `'isbn ${pick(4)}'`;
  const row = () => `${id}, ${title}, ${unique()}.5, x'${String(unique()).padStart(8, '0')}', ${unique()}`;
  const choices = [
    `INSERT INTO book VALUES (${row()}) ON CONFLICT DO NOTHING`,
    `INSERT INTO book VALUES (${row()}) ON CONFLICT (id) DO UPDATE SET title = excluded.title`,
    `INSERT OR REPLACE INTO book VALUES (${row()})`,
    `UPDATE book SET title = ${title} WHERE id = ${id}`,
    `UPDATE book SET stock = ${unique()}, price = ${unique()}.75 WHERE id = ${id}`,
    `UPDATE book SET title = title, stock = ${unique()} WHERE id = ${id}`,
    `DELETE FROM book WHERE id = ${id}`,
    `INSERT INTO line VALUES (${id}, ${book}, ${unique()}) ON CONFLICT DO UPDATE SET quantity = ${unique()}`,
    `UPDATE line SET quantity = ${unique()} WHERE orders = ${id}`,
    `DELETE FROM line WHERE orders = ${id}`,
    `INSERT INTO tag VALUES (${tag}) ON CONFLICT DO NOTHING`,
    `DELETE FROM tag WHERE name = ${tag}`,
  ];
  if (peer.movesKeys) choices.push(`UPDATE OR REPLACE book SET id = ${1 + pick(8)} WHERE id = ${id}`);
  const statements = range(1, 1 + pick(4)).map(() => choices[pick(choices.length)]);
  await peer.run('BEGIN');
  for (const sql of statements) await peer.run(sql);
  await peer.run(pick(6) === 0 ? 'ROLLBACK' : 'COMMIT');
}

async function sync(from, to, cursors) {
  const key = `${from.name} ${to.name}`;
  const [[version]] = await from.run('SELECT crsql_db_version()');
  const rows = await from.run(`SELECT ${COLUMNS} FROM crsql_changes WHERE db_version > ? AND site_id IS NOT ?`, [
    cursors.get(key) ?? 0n,
    to.site,
  ]);
  await to.insert(rows);
  cursors.set(key, version);
  return rows.length;
}

/** Rows of all tables, and the changes: of sentinels and of db_version only what replicas share. */
async function state(peer) {
  const text = (row) => row.map((value) => JSON.stringify(encode(value))).join(' ');
  const tables = {};
  for (const [table, key] of Object.entries(TABLES)) {
    tables[table] = (await peer.run(`SELECT * FROM ${table} ORDER BY ${key}`)).map(text);
  }
  const changes = [];
  for (const [table, pk, cid, val, colVersion, , site, cl, seq] of await peer.run(`SELECT ${COLUMNS} FROM crsql_changes`)) {
    // A moved key has a sentinel of cl 1 on Rejoin; cr-sqlite ignores it when the cells came first.
    if (cid === '-1' && cl === 1n && table !== 'tag') continue;
    changes.push(text([table, pk, cid, val, colVersion, cl, ...(cid === '-1' ? [] : [site, seq])]));
  }
  return { tables, changes: changes.sort() };
}

for (const seed of SEEDS) {
  test(`two Rejoin and two cr-sqlite replicas, seed ${seed}`, async () => {
    const rejoin = Rejoin.start();
    try {
      const engine = await Engine.start();
      const peers = [
        await rejoin.open('r1'),
        await openCrSqlite(engine, 'c1', seed),
        await rejoin.open('r2'),
        await openCrSqlite(engine, 'c2', seed),
      ];
      for (const peer of peers) {
        for (const sql of SCHEMA) await peer.run(sql);
        for (const table of Object.keys(TABLES)) await peer.run(`SELECT crsql_as_crr('${table}')`);
      }
      const pick = random(seed);
      let last = 0;
      const unique = () => ++last;
      const cursors = new Map();
      for (let round = 0; round < ROUNDS; round++) {
        await edit(peers[pick(4)], pick, unique);
        if (pick(3) === 0) {
          const from = pick(4);
          await sync(peers[from], peers[(from + 1 + pick(3)) % 4], cursors);
        }
      }
      let moved;
      do {
        moved = 0;
        for (const from of peers) for (const to of peers) if (from !== to) moved += await sync(from, to, cursors);
      } while (moved > 0);
      // One after the other: the WebAssembly build cannot run two statements at once.
      const states = [];
      for (const peer of peers) states.push(await state(peer));
      const wanted = states[1];
      peers.forEach((peer, i) => assert.deepEqual(states[i], wanted, `${peer.name} against ${peers[1].name}, seed ${seed}`));
      assert.ok(wanted.changes.length > 0);
    } finally {
      rejoin.end();
    }
  });
}
