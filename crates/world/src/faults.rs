//! What goes wrong, and what people do, until it is calm.

use crate::app;
use crate::node;
use crate::world::{Happening, World};
use rejoin_sync::client;

impl World {
    /// Runs for a while with whatever may go wrong.
    pub fn storm(&mut self) {
        let end = self.now + self.weather.storm_ms;
        self.later(1, Happening::Chaos);
        self.run(|w| w.now >= end);
    }

    pub fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let wait = 1 + self.dice.below(120);
        self.later(wait, Happening::Chaos);
        let node = self.dice.index(self.nodes.len());
        let w = self.weather.clone();
        match self.dice.below(32) {
            0..=11 => self.write(node),
            12 if w.cuts => self.cut_line(node, true),
            13 if w.cuts => self.cut_line(node, false),
            14 if w.cuts => self.fall_silent(node),
            15 if w.kills => self.kill_node(node),
            16 if w.kills => self.kill_room(false),
            17 if w.restores_room => self.back_up_room(),
            18 if w.restores_room && self.room_backup.is_some() && self.dice.one_in(2) => {
                self.kill_room(true)
            }
            19 if w.restores_client => self.back_up(node),
            20 if w.restores_client && self.dice.one_in(2) => self.restore(node),
            21 if w.forks && self.dice.one_in(3) => self.fork(node),
            22 if w.schemas => drop(self.migrate(node)),
            23 if w.schemas && self.dice.one_in(3) => self.migrate_room(),
            24 if w.row_wise => self.exchange_rows(node),
            25 if w.peers => self.write_letter(node),
            26 if w.peers => self.read_letter(),
            27 if w.clocks => self.set_clock(node),
            28 if w.collects => self.collect(),
            29 if w.locks => self.lock(node),
            30 => self.verify_node(node),
            _ => {}
        }
    }

    fn write(&mut self, node: usize) {
        let n = &self.nodes[node];
        if !n.is_up() || n.locked || !app::has_tables(n.app().connection()) {
            return;
        }
        self.node_clock(node);
        let number = self.ledger.next();
        let n = &self.nodes[node];
        let conn = n.app().connection();
        let done = app::transaction(conn, &mut self.dice, &self.weather, number, node);
        match done {
            Ok((mut transaction, told)) => {
                let head = n.app().own_head().expect("it has a head");
                transaction.place = Some((head.site.0, head.version));
                let version = head.version;
                self.ledger.committed(number, transaction);
                self.count("transactions");
                self.say(format_args!("{node} commits {number} as version {version}: {told}"));
                self.committed(node);
            }
            Err(e) => self.say(format_args!("{node} cannot commit {number}: {e}")),
        }
    }

    /// The storage notices within its poll, or is told.
    fn committed(&mut self, node: usize) {
        let (life, ms) = (self.nodes[node].life, self.dice.below(20));
        self.later(ms, Happening::Looks { node, life });
    }

    /// Both sides notice that the connection is gone, or only the client does.
    fn cut_line(&mut self, node: usize, both: bool) {
        let Some(conn) = self.nodes[node].conn.take() else { return };
        self.count("cuts");
        self.say(format_args!("{conn} is cut{}", if both { "" } else { ", and the server does not notice" }));
        if both {
            self.lines.remove(&conn);
        }
        self.tell(node, client::Event::Closed { why: "the line is cut".into() });
    }

    fn fall_silent(&mut self, node: usize) {
        let Some(conn) = self.nodes[node].conn else { return };
        let (up, ms) = (self.dice.one_in(2), self.dice.below(4 * self.weather.heartbeat_ms));
        self.count("silences");
        self.say(format_args!("{conn} is silent {} for {ms} ms", if up { "upwards" } else { "downwards" }));
        self.silent.insert((conn, up), self.now + ms);
    }

    fn stop_node(&mut self, node: usize) {
        if let Some(conn) = self.nodes[node].conn {
            // What it had sent may still arrive.
            let ms = self.delay();
            self.later(ms, Happening::NodeHangsUp { conn });
        }
        self.nodes[node].kill();
    }

    fn start_later(&mut self, node: usize) {
        let (life, ms) = (self.nodes[node].life, self.dice.below(1_500));
        self.later(ms, Happening::StartNode { node, life });
    }

    fn kill_node(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.count("clients killed");
        self.say(format_args!("{node} is killed"));
        self.stop_node(node);
        self.start_later(node);
    }

    pub fn start_node(&mut self, node: usize) {
        if self.nodes[node].is_up() {
            return;
        }
        self.node_clock(node);
        let seed = self.dice.roll();
        self.nodes[node].start(seed);
        self.say(format_args!("{node} is started"));
        self.new_incarnation(node);
        self.tell(node, client::Event::Start);
    }

    fn kill_room(&mut self, restore: bool) {
        if self.room.owner.is_none() {
            return;
        }
        self.say(format_args!("the server is killed{}", if restore { " and restored" } else { "" }));
        self.count(if restore { "server restored" } else { "server killed" });
        self.room.kill();
        if restore && let Some(backup) = &self.room_backup {
            node::copy(backup, &self.room.file());
            self.ledger.room_restored();
        }
        let lines = std::mem::take(&mut self.lines);
        for (conn, line) in lines {
            let ms = self.delay();
            self.later(ms, Happening::ServerHangsUp { node: line.node, conn });
        }
        let ms = self.dice.below(1_500);
        self.later(ms, Happening::StartRoom);
    }

    pub fn start_room(&mut self) {
        if self.room.owner.is_none() {
            self.room_clock();
            self.room.start();
            self.say(format_args!("the server is started"));
            self.look_at_room();
        }
    }

    fn back_up_room(&mut self) {
        let path = self.dir.path().join("room.backup");
        node::copy(&self.room.file(), &path);
        self.room_backup = Some(path);
        self.ledger.backed_up();
        self.say(format_args!("the room is backed up"));
    }

    fn back_up(&mut self, node: usize) {
        let path = self.dir.path().join(format!("client{node}.backup"));
        node::copy(self.nodes[node].path(), &path);
        self.backups[node] = Some((path, self.ledger.logs[node].clone(), self.nodes[node].step));
        self.say(format_args!("{node} is backed up"));
    }

    fn restore(&mut self, node: usize) {
        let Some((backup, log, step)) = self.backups[node].clone() else { return };
        self.count("clients restored");
        self.say(format_args!("{node} is restored"));
        self.stop_node(node);
        node::copy(&backup, self.nodes[node].path());
        self.ledger.replaced(node, log);
        self.nodes[node].step = step;
        self.start_later(node);
    }

    /// A copy of the client's file takes the place of another one's, and both go on.
    fn fork(&mut self, node: usize) {
        let other = (node + 1) % self.nodes.len();
        if self.nodes[node].is_owned() != self.nodes[other].is_owned() || self.nodes[node].locked {
            return;
        }
        self.count("forks");
        self.say(format_args!("{other} goes on with a copy of {node}"));
        self.stop_node(other);
        node::copy(self.nodes[node].path(), self.nodes[other].path());
        self.ledger.replaced(other, self.ledger.logs[node].clone());
        (self.nodes[other].subject, self.nodes[other].step) =
            (self.nodes[node].subject, self.nodes[node].step);
        self.backups[other] = None;
        self.start_later(other);
    }

    /// The application takes the next step of the schema.
    pub fn migrate(&mut self, node: usize) -> bool {
        let n = &self.nodes[node];
        if !n.is_up() || n.locked || n.step == app::STEPS.len() || !app::has_tables(n.app().connection()) {
            return false;
        }
        self.node_clock(node);
        let step = self.nodes[node].step;
        match app::take_step(self.nodes[node].app().connection(), step) {
            Ok(new) => {
                self.count("schema steps");
                self.say(format_args!(
                    "{node} takes step {step} of the schema{}",
                    if new { "" } else { ", again" }
                ));
                self.nodes[node].step += 1;
                self.committed(node);
                true
            }
            Err(e) => {
                self.say(format_args!("{node} cannot take step {step} of the schema: {e}"));
                false
            }
        }
    }

    /// Another program changes the room's file.
    fn migrate_room(&mut self) {
        let step = self.dice.index(app::STEPS.len());
        if self.room.owner.is_none() {
            return;
        }
        self.room_clock();
        let outside = rejoin::Replica::open(self.room.file()).expect("a second connection");
        if !app::has_tables(outside.connection()) {
            return;
        }
        let new = app::take_step(outside.connection(), step).expect("a column is added");
        drop(outside);
        self.say(format_args!("the room gets step {step} of the schema{}", if new { "" } else { ", again" }));
        if let Some(owner) = &mut self.room.owner {
            owner.advance();
        }
        self.after_room();
    }

    /// Another client reads this one's changes by a cursor.
    fn exchange_rows(&mut self, from: usize) {
        let to = (from + 1 + self.dice.index(self.nodes.len() - 1)) % self.nodes.len();
        let (a, b) = (&self.nodes[from], &self.nodes[to]);
        let able = |n: &node::Node| n.is_up() && !n.locked && app::has_tables(n.app().connection());
        if !able(a) || !able(b) {
            return;
        }
        self.node_clock(to);
        let since = self.nodes[from].cursors[to];
        match app::exchange(self.nodes[from].app(), self.nodes[to].app(), since) {
            Ok((rows, upto)) => {
                self.count("row-wise exchanges");
                self.say(format_args!("{to} takes {rows} changes of {from} row by row, up to {upto}"));
                self.nodes[from].cursors[to] = upto;
                self.after_storage(to, false);
                self.committed(to);
            }
            Err(e) => self.say(format_args!("{to} cannot take changes of {from} row by row: {e}")),
        }
    }

    /// A changeset for another client, who may get it late, twice, or never.
    fn write_letter(&mut self, from: usize) {
        let to = (from + 1 + self.dice.index(self.nodes.len() - 1)) % self.nodes.len();
        let (a, b) = (&self.nodes[from], &self.nodes[to]);
        if !a.is_up() || !b.is_up() {
            return;
        }
        let theirs = b.app().vector().expect("a vector");
        self.node_clock(from);
        if let Ok(Some(bytes)) = self.nodes[from].app().changeset_for(&theirs) {
            self.say(format_args!("{from} makes a changeset of {} bytes for {to}", bytes.len()));
            self.letters.push((to, bytes));
        }
    }

    fn read_letter(&mut self) {
        if self.letters.is_empty() {
            return;
        }
        let at = self.dice.index(self.letters.len());
        let (mut to, bytes) = self.letters[at].clone();
        if self.dice.one_in(4) {
            to = self.dice.index(self.nodes.len());
        }
        if self.dice.one_in(2) {
            self.letters.remove(at);
        }
        if !self.nodes[to].is_up() || self.nodes[to].locked {
            return;
        }
        self.count("changesets between clients");
        self.node_clock(to);
        let done = self.nodes[to].app().apply_changeset(&bytes);
        let told = done.map(|_| "done".to_owned()).unwrap_or_else(|e| e.to_string());
        self.say(format_args!("{to} applies a changeset of {} bytes: {told}", bytes.len()));
        self.after_storage(to, true);
        self.committed(to);
    }

    fn set_clock(&mut self, node: usize) {
        let minute = 60_000;
        let skew =
            self.dice.pick(&[0, -86_400_000 * 365, 86_400_000 * 365, minute / 2, -2 * minute, 3 * minute]);
        self.count("clocks set");
        if self.dice.one_in(4) {
            let skew = skew % (86_400_000 * 365);
            self.say(format_args!("the server's clock is set {skew} ms ahead"));
            self.room.skew_ms = skew;
        } else {
            self.say(format_args!("{node}'s clock is set {skew} ms ahead"));
            self.nodes[node].skew_ms = skew;
            self.wake_node(node);
        }
    }

    fn collect(&mut self) {
        self.room_clock();
        let last_ms = self.dice.below(8_000);
        let Some(owner) = &mut self.room.owner else { return };
        owner.flush();
        owner.collect(last_ms).expect("it collects");
        let horizon = owner.replica().horizon().expect("a horizon");
        self.count("collections");
        self.say(format_args!("the room collects up to {}", crate::frames::vector(&horizon)));
        // A copy from before would be below the horizon, from which nothing leads back.
        if self.weather.restores_room {
            self.back_up_room();
        }
        self.after_room();
    }

    fn lock(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        if !n.is_up() || n.locked || n.is_owned() {
            return;
        }
        if n.app().connection().execute_batch("BEGIN IMMEDIATE").is_ok() {
            n.locked = true;
            let life = n.life;
            self.say(format_args!("{node}'s file is locked"));
            let ms = self.dice.below(3_000);
            self.later(ms, Happening::Unlock { node, life });
        }
    }

    pub fn unlock(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        if std::mem::take(&mut n.locked) {
            n.app().connection().execute_batch("ROLLBACK").expect("it ends");
            self.say(format_args!("{node}'s file is free again"));
        }
    }

    /// The application reads what was rejected, and drops it or writes it again.
    pub fn forgive(&mut self, node: usize) {
        if self.nodes[node].locked {
            let life = self.nodes[node].life;
            return self.later(200, Happening::Forgive { node, life });
        }
        self.node_clock(node);
        for app::Rejected { mut receipts, site, version, code } in app::rejected(self.nodes[node].app()) {
            self.say(format_args!("{node} finds {receipts:?} (version {version}) rejected: {code}"));
            self.count("rejected transactions");
            receipts.extend(self.ledger.number_of(&site.0, version));
            let again = code == "depends-on" && self.dice.one_in(2) && !self.calm;
            let replica = self.nodes[node].app();
            let done = if again {
                replica.retry_rejected(version, Some(site))
            } else {
                replica.drop_rejected(version, Some(site))
            };
            done.expect("the rejected can be dealt with");
            for number in receipts {
                let t = self.ledger.all.get_mut(&number).expect("it was committed");
                t.rejected = true;
                t.retried |= again;
            }
        }
        self.after_storage(node, false);
        self.committed(node);
    }
}
