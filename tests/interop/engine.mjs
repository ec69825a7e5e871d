// cr-sqlite 0.16.0 in Node: the npm package is made for browsers, so its WebAssembly bytes are handed in and
// its files live in memory. Values cross as {type, value} free of JavaScript's number traps: INTEGER is a BigInt.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import factory from '@vlcn.io/wa-sqlite/dist/crsqlite.mjs';
import * as SQLite from '@vlcn.io/wa-sqlite';
import { MemoryVFS } from '@vlcn.io/wa-sqlite/src/examples/MemoryVFS.js';

export class Engine {
  static async start() {
    const require = createRequire(import.meta.url);
    const wasmBinary = fs.readFileSync(require.resolve('@vlcn.io/crsqlite-wasm/crsqlite.wasm'));
    const module = await factory({ wasmBinary, locateFile: (file) => file });
    const api = SQLite.Factory(module);
    api.vfs_register(new MemoryVFS(), true);
    return new Engine(api, module);
  }

  constructor(api, module) {
    this.api = api;
    this.module = module;
  }

  async open(name) {
    return new Database(this.api, this.module, await this.api.open_v2(name));
  }
}

export class Database {
  constructor(api, module, handle) {
    this.api = api;
    this.module = module;
    this.handle = handle;
  }

  /** Runs every statement of `sql`; gives the rows of all of them. `params` go to the first. */
  async run(sql, params = []) {
    const { api } = this;
    const rows = [];
    let bound = false;
    for await (const stmt of api.statements(this.handle, sql)) {
      if (!bound) params.forEach((value, i) => this.bind(stmt, i + 1, value));
      bound = true;
      while ((await api.step(stmt)) === SQLite.SQLITE_ROW) rows.push(readRow(api, stmt));
    }
    return rows;
  }

  bind(stmt, index, value) {
    const { api, module } = this;
    if (value === null) return api.bind_null(stmt, index);
    if (typeof value === 'bigint') return api.bind_int64(stmt, index, value);
    if (typeof value === 'string') return api.bind_text(stmt, index, value);
    if (!(value instanceof Uint8Array)) return api.bind_double(stmt, index, value);
    if (value.length > 0) return api.bind_blob(stmt, index, value);
    // The wrapper passes an empty blob as a null pointer, which binds NULL.
    return module._sqlite3_bind_blob(stmt, index, stmt, 0, -1);
  }

  async close() {
    await this.run('SELECT crsql_finalize()');
    await this.api.close(this.handle);
  }
}

function readRow(api, stmt) {
  const row = [];
  for (let i = 0; i < api.column_count(stmt); i++) {
    switch (api.column_type(stmt, i)) {
      case SQLite.SQLITE_INTEGER: row.push(api.column_int64(stmt, i)); break;
      case SQLite.SQLITE_FLOAT: row.push(api.column_double(stmt, i)); break;
      case SQLite.SQLITE_TEXT: row.push(api.column_text(stmt, i)); break;
      case SQLite.SQLITE_BLOB: row.push(new Uint8Array(api.column_blob(stmt, i))); break;
      default: row.push(null);
    }
  }
  return row;
}
