//! Frames and requests in a few words, for the trace.

use rejoin_crdt::vector::VersionVector;
use rejoin_sync::{client, server};
use rejoin_wire::frame::{Frame, Id};

pub fn id(id: &Id) -> String {
    id.iter().take(3).map(|b| format!("{b:02x}")).collect()
}

pub fn vector(v: &VersionVector) -> String {
    let one = |(site, ranges): (&rejoin_crdt::SiteId, &rejoin_crdt::vector::Ranges)| {
        let ranges: Vec<_> = ranges.iter().map(|r| format!("{}-{}", r.start(), r.end())).collect();
        format!("{}:{}", id(&site.0), ranges.join(","))
    };
    format!("{{{}}}", v.iter().map(one).collect::<Vec<_>>().join(" "))
}

pub fn frame(bytes: &[u8]) -> String {
    match Frame::decode(bytes, usize::MAX) {
        Ok(Frame::Hello(h)) => {
            format!("Hello site {} head {:?} {}", id(&h.site), h.head, vector(&h.vector.0))
        }
        Ok(Frame::Welcome(w)) => {
            format!("Welcome site {} yours {:?} {}", id(&w.site), w.yours, vector(&w.vector.0))
        }
        Ok(Frame::Cut(c)) => format!(
            "Cut {} of {} bytes {}, {} transactions, since {}{}{}",
            c.cut,
            c.bytes,
            id(&c.hash),
            c.transactions,
            c.since,
            if c.more { ", more" } else { "" },
            if c.rows { ", rows" } else { "" }
        ),
        Ok(Frame::Data(d)) => format!("Data {} of {} bytes", d.cut, d.bytes.0.len()),
        Ok(Frame::Vector(v)) => format!("Vector {}", vector(&v.0)),
        Ok(Frame::Horizon(v)) => format!("Horizon {}", vector(&v.0)),
        Ok(Frame::Refused(r)) => format!("Refused {} {:?}: {}", r.cut, r.code, r.message),
        Ok(Frame::Schema(s)) => format!("Schema of {} bytes", s.0.len()),
        Ok(frame) => format!("{frame:?}"),
        Err(e) => format!("damaged: {e}"),
    }
}

pub fn request(request: &client::Request) -> String {
    use client::Request as R;
    match request {
        R::Compare { version, .. } => format!("Compare, chain at {version:?}"),
        R::Prepare(steps) => format!("Prepare {:?}", steps.iter().map(step).collect::<Vec<_>>()),
        R::MakeCut { theirs, own_only, .. } => {
            format!("MakeCut{} for {}", if *own_only { " (own)" } else { "" }, vector(theirs))
        }
        R::Apply(bytes) => format!("Apply {} bytes", bytes.len()),
        R::Adopt { rejections, rows } => format!("Adopt {} with {} rows", rejections.len(), rows.len()),
        R::MergeRows(rows) => format!("MergeRows {} bytes", rows.len()),
        R::Acknowledge(v) => format!("Acknowledge {}", vector(v)),
        R::Describe | R::StartOver => format!("{request:?}"),
    }
}

fn step(step: &client::Step) -> String {
    use client::Step as S;
    match step {
        S::Restamp { acknowledged, offset_ms } => {
            format!("Restamp by {offset_ms} above {}", vector(acknowledged))
        }
        S::Remember { server, .. } => format!("Remember {}", id(server)),
        S::TakeLineage(lineage) => format!("TakeLineage {}", id(lineage)),
        S::NewSite(_) | S::GiveWay(_) => format!("{step:?}"),
    }
}

pub fn reply(reply: &client::Reply) -> String {
    use client::Reply as R;
    match reply {
        R::Described(f) => format!("Described {}", facts(f)),
        R::Prepared(f) => format!("Prepared {}", facts(f)),
        R::Applied { facts: f, .. } => format!("Applied {}", facts(f)),
        R::Merged(f) => format!("Merged {}", facts(f)),
        R::StartedOver(f) => format!("StartedOver {}", facts(f)),
        R::NotApplied { why, facts: f } => format!("NotApplied {why:?} {}", facts(f)),
        R::Adopted { voids, wanted, facts: f } => {
            let voids: Vec<_> = voids.iter().map(|v| v.version).collect();
            format!("Adopted voids {voids:?}, {} wanted, {}", wanted.len(), facts(f))
        }
        R::Made(Some(m)) => format!("Made {} bytes, brings {}", m.bytes.len(), vector(&m.brings)),
        R::Acknowledged(v) => format!("Acknowledged {}", vector(v)),
        R::Compared { relation, chain, server } => {
            format!("Compared {relation:?} {chain:?} {server:?}")
        }
        R::Made(None) | R::Failed(_) | R::Impossible(_) => format!("{reply:?}"),
    }
}

fn facts(f: &client::Facts) -> String {
    format!(
        "site {} {} acknowledged {} rejected {} wanted {} offset {}",
        id(&f.site),
        vector(&f.vector),
        vector(&f.acknowledged),
        f.rejected,
        f.wanted.len(),
        f.clock_offset_ms
    )
}

pub fn room_request(request: &server::Request) -> String {
    use server::Request as R;
    match request {
        R::Admit(hello) => format!("Admit {}", id(&hello.site)),
        R::MakeCut { reader: server::Reader::Vector(v), .. } => format!("MakeCut for {}", vector(v)),
        R::MakeCut { reader: server::Reader::Since(at), .. } => format!("MakeCut since {at}"),
        R::Apply(bytes) => format!("Apply {} bytes", bytes.len()),
        R::Void(voids) => format!("Void {:?}", voids.iter().map(|v| v.version).collect::<Vec<_>>()),
        R::RowStates(rows) => format!("RowStates of {}", rows.len()),
        R::Acknowledged { upto, .. } => format!("Acknowledged up to {upto}"),
        R::Compare(_) => "Compare".into(),
        R::Authenticate(_) => "Authenticate".into(),
    }
}

pub fn room_reply(reply: &server::Reply) -> String {
    use server::Reply as R;
    match reply {
        R::Admitted(_) => "Admitted".into(),
        R::Made { cut: Some(m), upto } => {
            format!("Made {} bytes up to {upto}, brings {}", m.bytes.len(), vector(&m.brings))
        }
        R::NotApplied { code, message, .. } => format!("NotApplied {code:?}: {message}"),
        R::Rows(rows) => format!("Rows {} bytes", rows.len()),
        R::Rejected(all) => {
            let one = |r: &rejoin_wire::frame::Rejection| format!("{} {:?} {}", r.version, r.code, r.message);
            format!("Rejected {:?}", all.iter().map(one).collect::<Vec<_>>())
        }
        reply => format!("{reply:?}"),
    }
}
