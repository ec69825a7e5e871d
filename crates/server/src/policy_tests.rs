use super::*;
use serde_json::json;

const STEPS: u32 = 100_000;

fn config(on: &[Operation], require: &str) -> PolicyConfig {
    PolicyConfig {
        table: "orders".into(),
        on: on.to_vec(),
        require: require.into(),
        message: None,
        place: "server.toml:7".into(),
    }
}

fn policies(require: &str) -> Policies {
    Policies::compile(&[config(&[Operation::Any], require)], STEPS).unwrap()
}

fn refusal(require: &str) -> String {
    match Policies::compile(&[config(&[Operation::Any], require)], STEPS) {
        Ok(_) => panic!("{require} was taken"),
        Err(e) => e.to_string(),
    }
}

fn claims() -> Claims {
    let claims =
        json!({"sub": "ann", "level": 3, "admin": true, "shops": ["a", "b"], "odd name": "x", "none": null});
    claims.as_object().unwrap().clone()
}

fn ask(policies: &Policies, old: Option<&[Value]>, new: Option<&[Value]>) -> Result<(), Violation> {
    let columns = ["id".to_owned(), "owner".to_owned(), "total".to_owned()];
    let operation = match (old, new) {
        (None, _) => Operation::Insert,
        (_, None) => Operation::Delete,
        _ => Operation::Update,
    };
    policies.check(&RowChange { table: "Orders", operation, columns: &columns, old, new }, &claims())
}

fn row(owner: &str, total: i64) -> Vec<Value> {
    vec![Value::Int(1), Value::Text(owner.as_bytes().into()), Value::Int(total)]
}

#[test]
fn functions_are_sorted() {
    assert!(FUNCTIONS.is_sorted());
}

#[test]
fn expressions_see_the_row_and_the_claims() {
    let anns = row("ann", 10);
    for (require, allowed) in [
        ("new.owner = claims.sub", true),
        ("NEW.Owner = Claims.sub", true),
        ("new.owner <> claims.sub", false),
        ("new.\"total\" BETWEEN 1 AND 10", true),
        ("old.id IS NULL", true),
        ("claims.level >= 3 AND claims.admin", true),
        ("claims.unknown", false),
        ("claims.none IS NULL", true),
        ("claims.\"odd name\" = 'x'", true),
        ("EXISTS (SELECT 1 FROM json_each(claims.shops) WHERE value = 'b')", true),
        ("'c' IN (SELECT value FROM json_each(claims.shops))", false),
        ("claims.shops ->> 1 = 'b'", true),
        ("new.owner LIKE 'a%' -- a comment", true),
        ("new.total < unixepoch()", true),
        ("NULL", false),
    ] {
        assert_eq!(ask(&policies(require), None, Some(&anns)).is_ok(), allowed, "{require}");
    }
}

#[test]
fn operations_are_told_apart() {
    let policies = Policies::compile(
        &[
            config(&[Operation::Insert, Operation::Update], "new.owner = claims.sub"),
            config(&[Operation::Delete], "old.total = 0"),
        ],
        STEPS,
    )
    .unwrap();
    let (anns, bobs, empty) = (row("ann", 5), row("bob", 5), row("bob", 0));
    assert!(ask(&policies, None, Some(&anns)).is_ok());
    assert!(ask(&policies, Some(&bobs), Some(&anns)).is_ok());
    assert!(ask(&policies, Some(&anns), Some(&bobs)).is_err());
    assert!(ask(&policies, Some(&empty), None).is_ok());
    let violation = ask(&policies, Some(&anns), None).unwrap_err();
    assert_eq!(violation.message, "a policy does not allow to delete from \"orders\"");
    assert_eq!(violation.place, "server.toml:7");
}

#[test]
fn what_does_not_compile_is_refused_with_its_place() {
    for (require, why) in [
        ("new.owner = ", "syntax error"),
        ("owner = 1", "no such column: owner"),
        ("other.owner = 1", "no such column: other.owner"),
        ("(SELECT count(*) FROM sqlite_master) = 0", "not authorized"),
        ("(SELECT count(*) FROM pragma_table_list) = 0", "not authorized"),
        ("EXISTS (SELECT 1 FROM dbstat)", "not authorized"),
        ("load_extension('x') IS NULL", "not authorized"),
        ("randomblob(9) IS NULL", "not authorized"),
        ("sqlite_version() = '3'", "not authorized"),
        ("1; DROP TABLE x", "syntax error"),
        ("", "syntax error"),
        ("1, 2", "row value misused"),
        (
            "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n) > 0",
            "not authorized",
        ),
    ] {
        let message = refusal(require);
        assert!(message.starts_with("server.toml:7: policy for \"orders\": "), "{message}");
        assert!(message.contains(why), "{require}: {message}");
    }
}

#[test]
fn what_takes_too_long_is_not_allowed() {
    let numbers = format!("[{}]", vec!["1"; 300].join(","));
    let each = format!("json_each('{numbers}')");
    let policies = policies(&format!("(SELECT count(*) FROM {each} a, {each} b, {each} c) > 0"));
    let violation = ask(&policies, None, Some(&row("ann", 1))).unwrap_err();
    assert!(violation.message.contains("too many steps"), "{}", violation.message);
}

#[test]
fn columns_that_a_table_lacks_are_found() {
    let policies = policies("new.owner = old.colour");
    let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert!(policies.check_columns("orders", &columns(&["owner", "COLOUR"])).is_ok());
    assert!(policies.check_columns("other", &columns(&[])).is_ok());
    let refusal = policies.check_columns("orders", &columns(&["owner"])).unwrap_err().to_string();
    assert_eq!(refusal, "server.toml:7: table \"orders\" has no column \"colour\"");
    // And were it asked nonetheless, it would say no.
    let violation = ask(&policies, None, Some(&row("ann", 1))).unwrap_err();
    assert!(violation.message.contains("has no column \"colour\""), "{}", violation.message);
    let items = columns(&["items"]);
    let unused: Vec<_> = policies.about_nothing(&items).map(|c| c.table.as_str()).collect();
    assert_eq!(unused, ["orders"]);
}
