//! What must hold: whenever somebody looks, and in the end.

use crate::app;
use crate::frames;
use crate::weather::Weather;
use crate::world::World;
use rejoin::Replica;
use rejoin_crdt::vector::VersionVector;
use rejoin_sync::State;
use rusqlite::types::Value;

/// After a storm all must be well within this time: a refusal or a long back-off, some heartbeats, and what follows.
const WELL_MS: u64 = 600_000;

impl World {
    /// The client's program has begun anew, or its file is another one.
    pub fn new_incarnation(&mut self, node: usize) {
        self.nodes[node].held = VersionVector::new();
    }

    /// After the storage has done something. `incarnation`: it may have taken another site id, or another file.
    pub fn after_storage(&mut self, node: usize, incarnation: bool) {
        let replica = self.nodes[node].app();
        let torn = app::has_tables(replica.connection()).then(|| app::torn(replica.connection()));
        assert_eq!(torn.unwrap_or_default(), Vec::<String>::new(), "client {node} shows half a transaction");
        let vector = replica.vector().expect("a vector");
        let site = replica.site_id().expect("an id").0;
        // What two copies of a file wrote under one id goes on under another.
        let incarnation = incarnation || self.nodes[node].site != site;
        let held = &self.nodes[node].held;
        let fell = held.missing_from(&vector);
        assert!(
            incarnation || fell.is_empty(),
            "client {node} has forgotten that it holds {}",
            frames::vector(&fell)
        );
        if self.verifies {
            verify(&format!("client {node}"), self.nodes[node].app());
        }
        (self.nodes[node].held, self.nodes[node].site) = (vector, site);
    }

    pub fn look_at_room(&mut self) {
        let Some(owner) = &self.room.owner else { return };
        let conn = owner.replica().connection();
        if app::has_tables(conn) {
            assert_eq!(app::torn(conn), Vec::<String>::new(), "the room shows half a transaction");
        }
    }

    /// What must hold whenever somebody looks at a client's state.
    pub fn look(&mut self, node: usize) {
        let n = &self.nodes[node];
        if !n.is_up() {
            return;
        }
        assert_eq!(n.state, n.machine.state(), "a state that was not told");
        let facts = n.machine.facts();
        let (site, head) = (facts.site, facts.head.map_or(0, |h| h.0));
        if n.state != State::Synced {
            return;
        }
        let open = n.conn.and_then(|c| self.lines.get(&c)).is_some_and(|l| l.session.is_open());
        if let (true, Some(owner)) = (open, &self.room.owner) {
            let there = owner.replica().vector().expect("a vector");
            let lacks = facts.vector.missing_from(&there);
            assert!(
                lacks.is_empty(),
                "client {node} is green, and the server lacks {}",
                frames::vector(&lacks)
            );
            let lacks = n.promised.missing_from(&facts.vector);
            assert!(
                lacks.is_empty() || self.weather.mangles,
                "client {node} is green, and lacks {}",
                frames::vector(&lacks)
            );
        }
        self.ledger.acknowledged(node, &site, head);
    }

    pub fn verify_node(&mut self, node: usize) {
        if self.nodes[node].is_up() && !self.nodes[node].locked {
            self.node_clock(node);
            verify(&format!("client {node}"), self.nodes[node].app());
        }
    }

    /// From here on nothing goes wrong, and everybody takes all steps of the schema.
    pub fn settle(&mut self) {
        self.say(format_args!("it is calm"));
        (self.calm, self.weather.cuts) = (true, false);
        self.silent.clear();
        let (begin, end) = (self.now, self.now + WELL_MS);
        let mut next = self.now;
        loop {
            self.run(|w| w.now >= next || w.is_well());
            if self.is_well() || self.now >= end {
                break;
            }
            // Those that began empty, or late, have their tables by now.
            for node in 0..self.nodes.len() {
                self.nodes[node].promised = VersionVector::new();
                while self.weather.schemas && self.migrate(node) {}
            }
            next = self.now + 5_000;
        }
        let took = self.now - begin;
        self.say(format_args!("settled after {took} ms"));
        if !self.is_well() {
            let states: Vec<_> = self.nodes.iter().map(|n| format!("{}: {}", n.name, n.state)).collect();
            panic!("not well after {WELL_MS} ms: {}", states.join("; "));
        }
    }

    fn is_well(&self) -> bool {
        let Some(owner) = &self.room.owner else { return false };
        let steps = if self.weather.schemas { app::STEPS.len() } else { 0 };
        let green = |n: &crate::node::Node| {
            n.is_up() && !n.locked && n.state == State::Synced && n.machine.is_settled() && n.step >= steps
        };
        if !self.nodes.iter().all(green) {
            return false;
        }
        let there = owner.replica().vector().expect("a vector");
        self.nodes.iter().all(|n| n.app().vector().expect("a vector") == there)
    }

    /// All is quiet: everything is equal everywhere, and nothing is lost.
    pub fn check_end(&mut self) {
        for node in 0..self.nodes.len() {
            self.node_clock(node);
            self.look_outside(node);
            verify(&format!("client {node}"), self.nodes[node].app());
        }
        self.room_clock();
        let owner = self.room.owner.as_ref().expect("the server is up");
        verify("the room", owner.replica());
        assert!(app::has_tables(owner.replica().connection()), "the room has no tables");
        let tables = dump(owner.replica());
        let changes = listed(owner.replica(), &self.weather);
        for n in &self.nodes {
            same(&format!("the tables of client {}", n.name), &tables, &dump(n.app()));
            same(&format!("the metadata of client {}", n.name), &changes, &listed(n.app(), &self.weather));
            let left = n.app().rejected().expect("the rejected are read").len();
            assert_eq!(left, 0, "client {} has rejected cells, and was green", n.name);
            let parked =
                n.app().connection().query_row("SELECT count(*) FROM crsql_parked", [], |r| r.get(0));
            assert_eq!(parked, Ok(0), "client {} has parked changes", n.name);
        }
        let (w, over) = (&self.weather, self.stats.contains_key("snapshots"));
        self.ledger.check(&app::end(owner.replica().connection()), w.row_wise, over);
    }

    /// How the world ended, for the trace.
    pub fn sum_up(&mut self) {
        let owner = self.room.owner.as_ref().expect("the server is up");
        let vector = owner.replica().vector().expect("a vector");
        let hash = rejoin_wire::frame::cut_hash(format!("{:?}", dump(owner.replica())).as_bytes());
        self.say(format_args!("ends with {} and tables {}", frames::vector(&vector), frames::id(&hash)));
    }
}

fn verify(who: &str, replica: &Replica) {
    let report = replica.verify().unwrap_or_else(|e| panic!("{who} cannot be verified: {e}"));
    let problems: Vec<_> = report.problems.iter().take(5).map(ToString::to_string).collect();
    assert!(report.is_clean(), "verify of {who}: {problems:#?}");
}

type Row = Vec<Value>;

fn rows(replica: &Replica, sql: &str) -> Vec<Row> {
    let mut q = replica.connection().prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = q.column_count();
    let rows = q.query_map([], |r| (0..columns).map(|i| r.get(i)).collect::<Result<Row, _>>());
    rows.and_then(|rows| rows.collect()).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// Every row of every table, with the table's name; columns by name, for their order is each replica's own.
fn dump(replica: &Replica) -> Vec<Row> {
    let mut all = Vec::new();
    for table in app::TABLES {
        let columns = rows(replica, &format!("SELECT name FROM pragma_table_info('{table}') ORDER BY name"));
        let names: Vec<String> = columns
            .iter()
            .filter_map(|c| match &c[0] {
                Value::Text(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let sql = format!("SELECT '{table}', {} FROM {table}", names.join(", "));
        let mut found = rows(replica, &sql);
        found.sort_by(|a, b| format!("{a:?}").cmp(&format!("{b:?}")));
        all.extend(found);
    }
    all
}

/// Every cell with its version. Where equal values keep what was there first, site and seq of them may differ; and a
/// tombstone is forgotten by one replica after the other.
fn listed(replica: &Replica, w: &Weather) -> Vec<Row> {
    let more = match w.equal_values {
        false => "",
        // Two copies of one site may have done the same at another place of a transaction.
        true if w.forks || w.restores_client => ", site_id",
        true => ", site_id, seq",
    };
    let which = if w.collects { "cl % 2 = 1" } else { "true" };
    let sql =
        format!("SELECT \"table\", pk, cid, val, col_version, cl{more} FROM crsql_changes WHERE {which}");
    let mut all = rows(replica, &sql);
    if w.equal_values {
        let own = replica.site_id().expect("an id").0.to_vec();
        for row in &mut all {
            if row[6] == Value::Null {
                row[6] = Value::Blob(own.clone());
            }
        }
    }
    all.sort_by(|a, b| format!("{a:?}").cmp(&format!("{b:?}")));
    all
}

fn same(what: &str, room: &[Row], here: &[Row]) {
    if room != here {
        let only = |a: &[Row], b: &[Row]| -> Vec<String> {
            a.iter().filter(|r| !b.contains(r)).take(6).map(|r| format!("{r:?}")).collect()
        };
        panic!(
            "{what} are not the room's.\nonly in the room: {:#?}\nonly here: {:#?}",
            only(room, here),
            only(here, room)
        );
    }
}
