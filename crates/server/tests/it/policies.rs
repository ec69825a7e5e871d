//! Policies on real transactions.

use crate::util::*;
use rejoin::{Rejection, RowKey};
use rejoin_wire::frame::{Bytes, Code, Frame, RowName, Void};
use serde_json::json;

const POLICIES: &str = "
schema = 'adopt'
[[policy]]
table = 'notes'
on = ['insert', 'update']
require = 'new.owner = claims.sub'
message = 'a note belongs to who writes it'
[[policy]]
table = 'notes'
on = ['update', 'delete']
require = \"old.owner = claims.sub OR claims.role = 'admin'\"
";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_does_not_allow_is_rejected_whole() {
    let running = server_with(POLICIES).await;
    let (ann, bob) = (replica(), replica());
    write(&ann, 1, "ann", "ann's");
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, Some(&token("ann", "shop", json!({"schema": true})))).await.unwrap();
    assert!(matches!(anns.push(&ann, &welcome.vector).await, Outcome::Ack));

    let mut bobs = running.connect("shop").await;
    let bobs_token = token("bob", "shop", json!({}));
    let welcome = bobs.greet(&bob, Some(&bobs_token)).await.unwrap();
    bob.apply_changeset(&bobs.pull().await).unwrap();
    // One transaction: a row of his own, and one that he may not touch.
    let sql = "BEGIN; INSERT INTO notes VALUES (2, 'bob', 'bob''s'); UPDATE notes SET body = 'taken' WHERE id = 1; COMMIT";
    bob.connection().execute_batch(sql).unwrap();
    let Outcome::Reject(reject) = bobs.push(&bob, &welcome.vector).await else { panic!("it was taken") };
    let rejection = reject.rejections[0].clone();
    assert_eq!((reject.cut, rejection.version, rejection.code), (1, 1, Code::Policy));
    assert_eq!(
        (rejection.table.as_str(), rejection.message.as_str()),
        ("notes", "a note belongs to who writes it")
    );
    assert_eq!(running.rows("shop", "SELECT body FROM notes ORDER BY id"), ["ann's"]);

    // He takes it back, with what the server says of the rows, and both go on.
    let row = Some(RowKey { table: rejection.table.clone(), pk: rejection.pk.0.clone() });
    let (site, version) = (bob.site_id().unwrap(), rejection.version);
    let rejected =
        [Rejection { site, version, code: "policy".into(), reason: rejection.message.clone(), row }];
    let wanted = bob.adopt(&rejected, &[]).unwrap().wanted;
    let name = |row: RowKey| RowName { table: row.table, pk: Bytes(row.pk) };
    bobs.send(&Frame::RowsWanted(wanted.into_iter().map(name).collect())).await;
    let rows = bobs.pull().await;
    let adopted = bob.adopt(&rejected, &[&rows]).unwrap();
    assert!(adopted.wanted.is_empty());
    let void = |v: &rejoin::Void| Void { site: v.site.0, version: v.version, nonce: v.nonce, chain: v.chain };
    bobs.send(&Frame::Adopted(adopted.voids.iter().map(void).collect())).await;
    assert_eq!(bodies(&bob), ["ann's"]);
    write(&bob, 3, "bob", "bob's own");
    bobs.since = reject.cut;
    let mut held = ann.vector().unwrap();
    held.insert_range(site, 1..=version);
    assert!(matches!(bobs.push(&bob, &held.into()).await, Outcome::Ack));
    assert_eq!(running.rows("shop", "SELECT body FROM notes ORDER BY id"), ["ann's", "bob's own"]);
    let held = bob.vector().unwrap();
    bob.connection().execute("DELETE FROM notes WHERE id = 3", []).unwrap();
    let outcome = bobs.push(&bob, &held.into()).await;
    assert!(matches!(outcome, Outcome::Ack), "{outcome:?}");
    assert_eq!(running.rows("shop", "SELECT body FROM notes ORDER BY id"), ["ann's"]);

    // Deleting is another rule.
    let carl = replica();
    let mut carls = running.connect("shop").await;
    let welcome = carls.greet(&carl, Some(&token("carl", "shop", json!({})))).await.unwrap();
    carl.apply_changeset(&carls.pull().await).unwrap();
    carl.connection().execute("DELETE FROM notes", []).unwrap();
    let outcome = carls.push(&carl, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Policy));
    let mut carls = running.connect("shop").await;
    let admin = token("carl", "shop", json!({"role": "admin"}));
    let welcome = carls.greet(&carl, Some(&admin)).await.unwrap();
    assert!(matches!(carls.push(&carl, &welcome.vector).await, Outcome::Ack));
    assert_eq!(running.rows("shop", "SELECT body FROM notes"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_of_the_rooms_table_rejects_too() {
    let running = open_server().await;
    let strict =
        replica_with("CREATE TABLE notes (id INTEGER PRIMARY KEY, owner TEXT, body TEXT CHECK (body <> ''))");
    running.connect("shop").await.greet(&strict, None).await.unwrap();
    let loose = replica();
    write(&loose, 1, "ann", "");
    let mut client = running.connect("shop").await;
    let welcome = client.greet(&loose, None).await.unwrap();
    let outcome = client.push(&loose, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Constraint), "{outcome:?}");
    assert_eq!(running.rows("shop", "SELECT body FROM notes"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_names_no_column_of_the_table_refuses_all() {
    let text = "schema = 'adopt'\n[[policy]]\ntable = 'notes'\non = 'any'\nrequire = 'new.colour IS NULL'";
    let running = server_with(text).await;
    let ann = replica();
    write(&ann, 1, "ann", "x");
    let mut anns = running.connect("shop").await;
    let welcome = anns.greet(&ann, Some(&token("ann", "shop", json!({"schema": true})))).await.unwrap();
    let outcome = anns.push(&ann, &welcome.vector).await;
    assert_eq!(code_of(&outcome), Some(Code::Policy), "{outcome:?}");
}
