use crate::Folder;

const COMMANDS: [&str; 14] = [
    "init",
    "import",
    "replicate",
    "status",
    "changes",
    "apply",
    "merge",
    "sync",
    "clone",
    "rejected",
    "diff",
    "verify",
    "compact",
    "upgrade",
];

#[test]
fn every_command_explains_itself_with_examples() {
    let f = Folder::new();
    for command in COMMANDS {
        let ran = f.run(&format!("{command} --help")).ok();
        let example = format!("rejoin {command} ");
        assert!(ran.out.contains("Examples:") && ran.out.contains(&example), "{command}: {}", ran.out);
        assert!(ran.out.contains("DB>") || ran.out.contains("<A> <B>"), "{command}: {}", ran.out);
    }
    let ran = f.run("--help").ok();
    for command in COMMANDS {
        assert!(
            ran.out.contains(&format!("  {command}  ")) || ran.out.contains(&format!("  {command} ")),
            "{command}"
        );
    }
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "8 ", "9 ", "10 ", "11 ", "12 ", "130 "] {
        assert!(ran.out.lines().any(|l| l.trim_start().starts_with(code)), "exit code {code}");
    }
}

#[test]
fn wrong_usage_is_2() {
    let f = crate::two();
    f.run("").fails(2, &["Usage"]);
    f.run("frobnicate a.db").fails(2, &["frobnicate"]);
    f.run("merge a.db").fails(2, &["<B>"]);
    f.run("sync a.db").fails(2, &["<URL>"]);
    f.run("sync a.db shop").fails(2, &["shop", "ws://HOST:PORT/ROOM"]);
    f.run("clone ws://localhost/a/b c.db").fails(2, &["one name"]);
    f.run("rejected a.db --retry 1 --drop 1").fails(2, &["--drop"]);
    f.run("rejected a.db --site 12 --drop 1").fails(2, &["site id"]);
    f.run("init a.db").fails(2, &["--schema"]);
    f.run("replicate a.db").fails(2, &["TABLE"]);
    f.run("changes a.db --since -1").fails(2, &["-1"]);
    f.run("changes a.db --since x").fails(2, &["x"]);
    f.run("changes a.db --json --out x").fails(2, &["--json"]);
    f.run("import a.db books b.csv --delimiter ab").fails(2, &["one ASCII character"]);
    f.run("import a.db books b.csv --existing maybe").fails(2, &["maybe"]);
    f.run("status a.db --wait 4000000000").fails(2, &["4000000000"]);
    f.run("merge a.db a.db").fails(2, &["same file"]);
    f.run("diff a.db ./a.db").fails(2, &["same file"]);
    f.run("changes a.db --out a.db").fails(2, &["over the database"]);
    assert!(f.run("--version").ok().out.starts_with("rejoin 0."));
}
