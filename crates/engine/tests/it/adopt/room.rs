//! A server in the same process, and the exchange of a client with it.

use crate::util::rows;
use rejoin::{
    Checked, Checker, CutRequest, Refusal, Rejection, Replica, RowFacts, TransactionFacts, Value,
    VersionVector, Void,
};

/// Refuses rows by their new values, and what is not the sender's own.
pub struct Policy<'a> {
    pub refuses: &'a dyn Fn(&RowFacts<'_>) -> bool,
}

impl Checker for Policy<'_> {
    fn row(&mut self, row: &RowFacts<'_>) -> Result<(), Refusal> {
        if (self.refuses)(row) {
            return Err(Refusal { code: "policy".into(), reason: "the policy says no".into() });
        }
        Ok(())
    }

    fn foreign(&mut self, _: &TransactionFacts, _: rejoin::SiteId) -> Result<(), Refusal> {
        Err(Refusal { code: "foreign".into(), reason: "cells of others".into() })
    }
}

/// Whether a new value of the row is the text `bad`.
pub fn has_bad(row: &RowFacts<'_>) -> bool {
    row.new.is_some_and(|new| new.contains(&Value::Text(b"bad".to_vec())))
}

pub fn clean(r: &Replica) {
    let report = r.verify().unwrap();
    let problems: Vec<String> = report.problems.iter().map(|p| p.to_string()).collect();
    assert!(report.is_clean(), "{problems:#?}");
}

/// What the client has of its own and the server lacks; None: it was applied, or there was nothing.
pub fn push(client: &Replica, server: &Replica, policy: &mut dyn Checker) -> Option<Vec<Rejection>> {
    let theirs = server.vector().unwrap();
    let request = CutRequest { own_only: true, ..CutRequest::new(&theirs) };
    let cut = client.cut_for(&request).unwrap()?;
    match server.apply_checked(&cut.bytes, policy).unwrap() {
        Checked::Applied(_) => None,
        Checked::Rejected { rejections, .. } => Some(rejections),
        other => panic!("{other:?}"),
    }
}

pub fn pull(server: &Replica, client: &Replica) {
    if let Some(cut) = server.cut_for(&CutRequest::new(&client.vector().unwrap())).unwrap() {
        client.apply_changeset(&cut.bytes).unwrap();
    }
}

/// Adopts, asking for rows until none is wanted. `between` is what happens while the server is asked.
pub fn adopt(
    client: &Replica,
    server: &Replica,
    rejections: &[Rejection],
    mut between: impl FnMut(),
) -> Vec<Void> {
    let mut states: Vec<Vec<u8>> = Vec::new();
    for _ in 0..20 {
        let bytes: Vec<&[u8]> = states.iter().map(Vec::as_slice).collect();
        let before = client.vector().unwrap();
        let adopted = client.adopt(rejections, &bytes).unwrap();
        if adopted.wanted.is_empty() {
            return adopted.voids;
        }
        assert_eq!(before, client.vector().unwrap());
        states.push(server.row_states(&adopted.wanted).unwrap());
        between();
    }
    panic!("rows are wanted for ever");
}

/// Asks for the rows that are wanted, and merges them.
pub fn ask(client: &Replica, server: &Replica) {
    let wanted = client.rows_wanted().unwrap();
    if !wanted.is_empty() {
        client.merge_rows(&server.row_states(&wanted).unwrap()).unwrap();
        clean(client);
    }
}

/// One round of a client with its server.
pub fn sync(client: &Replica, server: &Replica, policy: &mut dyn Checker) {
    while let Some(rejections) = push(client, server, policy) {
        let voids = adopt(client, server, &rejections, || ());
        server.void(&voids).unwrap();
        clean(client);
        clean(server);
    }
    pull(server, client);
}

/// `crsql_rejected`, without what differs between runs.
pub fn rejected(r: &Replica) -> Vec<String> {
    rows(
        r,
        "SELECT version, \"table\", hex(pk), cid, val, code FROM crsql_rejected ORDER BY version, 2, 3, 4",
    )
}

/// The transactions of which a replica tells a newcomer, and what it holds.
pub fn told(r: &Replica) -> Vec<(rejoin::SiteId, u64)> {
    let Some(bytes) = r.changeset_for(&VersionVector::new()).unwrap() else { return Vec::new() };
    let reader = rejoin_wire::Reader::open(&bytes).unwrap();
    reader.transactions().iter().map(|t| (reader.sites()[t.origin as usize], t.version)).collect()
}
