//! Void versions that somebody holds with what was in them: a file from before the rejection, or one that has them from a peer.

use super::room::{Policy, adopt, has_bad, push};
use crate::util::{Files, int, run};
use rejoin::{CutRequest, Replica, VersionVector};

const SCHEMA: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, a); SELECT crsql_as_crr('t');";

fn tell(server: &Replica, client: &Replica, voids: &VersionVector) -> Vec<u8> {
    let theirs = client.vector().unwrap();
    let request = CutRequest { voids: Some(voids), ..CutRequest::new(&theirs) };
    let cut = server.cut_for(&request).unwrap().expect("it is told of voids");
    client.apply_changeset(&cut.bytes).unwrap();
    cut.bytes
}

#[test]
fn who_has_what_was_in_a_void_version_is_told() {
    let files = Files::new();
    let [a, b, server] = ["a.db", "b.db", "server.db"].map(|name| files.open(name, SCHEMA));
    run(&a, "INSERT INTO t VALUES (1, 'good')");
    run(&a, "INSERT INTO t VALUES (2, 'bad')");
    run(&a, "INSERT INTO t VALUES (3, 'good')");
    // Before they have a server, replicas exchange what they like.
    b.apply_changeset(&a.changeset_since(0).unwrap()).unwrap();
    let mut policy = Policy { refuses: &has_bad };
    let rejections = push(&a, &server, &mut policy).expect("a rejection");
    let voids = adopt(&a, &server, &rejections, || ());
    server.void(&voids).unwrap();
    assert_eq!(push(&a, &server, &mut policy), None);
    let mut void = VersionVector::new();
    voids.iter().for_each(|v| void.insert(v.site, v.version));

    // Nothing is missing anywhere, and yet the rows differ.
    assert!(server.vector().unwrap().covers(&b.vector().unwrap()));
    assert_eq!((int(&b, "SELECT count(*) FROM t"), int(&server, "SELECT count(*) FROM t")), (3, 2));
    let site = a.site_id().unwrap();
    let told = tell(&server, &b, &void);
    assert_eq!(b.holds_void(&told).unwrap(), Some((site, 2)));
    // Who has given it up, and who never had it, is told as well; it is nothing new to them.
    let c = files.open("c.db", SCHEMA);
    c.apply_changeset(&server.changeset_for(&VersionVector::new()).unwrap().unwrap()).unwrap();
    for r in [&a, &c] {
        let told = tell(&server, r, &void);
        assert_eq!(r.holds_void(&told).unwrap(), None);
        assert_eq!(int(r, "SELECT count(*) FROM t"), 2);
    }
    // What is empty because it was overwritten is not void.
    run(&a, "UPDATE t SET a = 'better' WHERE k = 1");
    assert_eq!(b.holds_void(&a.changeset_since(0).unwrap()).unwrap(), None);
}

/// What is void and lacked is told once, as any other empty version.
#[test]
fn what_is_lacked_is_told_once() {
    let files = Files::new();
    let [a, server, c] = ["a.db", "server.db", "c.db"].map(|name| files.open(name, SCHEMA));
    run(&a, "INSERT INTO t VALUES (2, 'bad')");
    let rejections = push(&a, &server, &mut Policy { refuses: &has_bad }).expect("a rejection");
    let voids = adopt(&a, &server, &rejections, || ());
    server.void(&voids).unwrap();
    let mut void = VersionVector::new();
    voids.iter().for_each(|v| void.insert(v.site, v.version));
    let told = tell(&server, &c, &void);
    assert_eq!(c.holds_void(&told).unwrap(), None);
    assert_eq!(c.vector().unwrap(), server.vector().unwrap());
}
