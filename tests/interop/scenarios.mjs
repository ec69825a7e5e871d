// Runs scenarios on cr-sqlite 0.16.0, step for step as interop.py does on an extension.
import { Engine } from './engine.mjs';

export const COLUMNS = '[table], pk, cid, val, col_version, db_version, site_id, cl, seq';
export const INSERT = `INSERT INTO crsql_changes (${COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`;

class World {
  constructor(engine, prefix) {
    Object.assign(this, { engine, prefix, dbs: new Map(), sites: new Map(), cursors: new Map() });
  }

  async db(name) {
    if (!this.dbs.has(name)) await this.open(name);
    return this.dbs.get(name);
  }

  async open(name) {
    const db = await this.engine.open(`${this.prefix}-${name}.db`);
    this.dbs.set(name, db);
    const [[site]] = await db.run('SELECT crsql_site_id()');
    this.sites.set(hex(site), name);
  }

  async close() {
    for (const db of this.dbs.values()) await db.close();
  }

  async step(step) {
    try {
      return await this[step.kind](step);
    } catch (error) {
      return { error: String(error.message ?? error) };
    }
  }

  async run({ dbs, sql }) {
    for (const name of dbs) await (await this.db(name)).run(sql);
    return 'ok';
  }

  async fails(step) {
    return this.run(step);
  }

  async query({ dbs, sql }) {
    const rows = [];
    for (const name of dbs) rows.push(...(await (await this.db(name)).run(sql)));
    return rows.map((row) => row.map((value) => this.plain(value)));
  }

  async changes({ dbs }) {
    const rows = [];
    for (const name of dbs) rows.push(...ordered(await (await this.db(name)).run(`SELECT ${COLUMNS} FROM crsql_changes`)));
    return rows.map(([table, pk, ...rest]) => [table, hex(pk), ...rest.map((value) => this.plain(value))]);
  }

  async sync({ from, to, options }) {
    const [source, target] = [await this.db(from), await this.db(to)];
    const key = `${from} ${to}`;
    const since = options.from === undefined ? (this.cursors.get(key) ?? 0n) : BigInt(options.from);
    let filter = 'db_version > ?';
    const params = [since];
    if (!options.echo) {
      filter += ' AND site_id IS NOT ?';
      params.push((await target.run('SELECT crsql_site_id()'))[0][0]);
    }
    const rows = await source.run(`SELECT ${COLUMNS} FROM crsql_changes WHERE ${filter}`, params);
    if (options.reverse) rows.reverse();
    const [[version]] = await source.run('SELECT crsql_db_version()');
    let impacted = null;
    if (!options.each) await target.run('BEGIN');
    try {
      for (const row of rows) await target.run(INSERT, row);
      [[impacted]] = await target.run('SELECT crsql_rows_impacted()');
    } catch (error) {
      if (!options.each) await target.run('ROLLBACK');
      throw error;
    }
    if (!options.each) await target.run('COMMIT');
    this.cursors.set(key, version);
    return { sent: rows.length, impacted: Number(impacted) };
  }

  async reopen({ dbs }) {
    for (const name of dbs) {
      await (await this.db(name)).close();
      await this.open(name);
    }
    return 'ok';
  }

  plain(value) {
    if (typeof value === 'bigint') {
      return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)
        ? Number(value) : { int: String(value) };
    }
    if (typeof value === 'number') return { real: value };
    if (!(value instanceof Uint8Array)) return value;
    const text = hex(value);
    return this.sites.has(text) ? { site: this.sites.get(text) } : { blob: text };
  }
}

/** The natural order must already be (db_version, seq); what ties there is put in one order for comparing. */
function ordered(rows) {
  const place = (row) => [row[5], row[8], row[0], hex(row[1]), row[2]];
  const compare = (a, b, n) => {
    const [x, y] = [place(a), place(b)];
    for (let i = 0; i < n; i++) if (x[i] !== y[i]) return x[i] < y[i] ? -1 : 1;
    return 0;
  };
  rows.forEach((row, i) => {
    if (i > 0 && compare(rows[i - 1], row, 2) > 0) throw new Error('crsql_changes is not in (db_version, seq) order');
  });
  return rows.toSorted((a, b) => compare(a, b, 5));
}

export const hex = (bytes) => Buffer.from(bytes ?? []).toString('hex').toUpperCase();

let engine = null;
let count = 0;

/** The result of every step of one scenario, in databases of its own. */
export async function runScenario(scenario) {
  engine ??= await Engine.start();
  const world = new World(engine, `s${count++}`);
  const results = [];
  for (const step of scenario.steps) results.push(await world.step(step));
  // A scenario may end inside a transaction or with a broken schema; its databases are in memory and of no further use.
  await world.close().catch(() => {});
  return results;
}
