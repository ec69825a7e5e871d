use crate::Folder;

#[test]
fn all_tables_or_none() {
    let f = Folder::new();
    f.plain("a.db")
        .execute_batch(
            "CREATE TABLE one(id INTEGER PRIMARY KEY, x); INSERT INTO one VALUES (1, 2), (2, 3);
             CREATE TABLE \"two words\"(id TEXT PRIMARY KEY); CREATE TABLE nokey(x);
             CREATE TABLE uniq(id INTEGER PRIMARY KEY, email UNIQUE); CREATE TABLE child(id TEXT PRIMARY KEY, one REFERENCES one);
             CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT); CREATE VIEW v AS SELECT 1;
             CREATE TABLE coll(id TEXT COLLATE odd PRIMARY KEY)",
        )
        .unwrap_or_else(|e| assert!(e.to_string().contains("odd"), "{e}"));
    let refused = |table: &str, words: &[&str]| {
        f.run(&format!("replicate a.db one {table}")).fails(5, words);
        assert_eq!(f.run("status a.db --json").ok().json()["tables"], serde_json::json!([]), "{table}");
    };
    refused("nokey", &["\"nokey\"", "PRIMARY KEY"]);
    refused("uniq", &["\"uniq\"", "UNIQUE", "drop it"]);
    refused("child", &["\"child\"", "FOREIGN KEY"]);
    refused("auto", &["\"auto\"", "AUTOINCREMENT"]);
    refused("missing", &["\"missing\" does not exist"]);
    refused("v", &["v"]);
    let ran = f.run_words(&["replicate", "a.db", "one", "two words"]).ok();
    assert!(ran.out.contains("one: replicated, 2 rows") && ran.out.contains("two words: replicated, 0 rows"));
    f.run("replicate a.db one").ok();
    assert_eq!(f.run("status a.db --json").ok().json()["db_version"], 1);
    f.run("verify a.db").ok();
}
