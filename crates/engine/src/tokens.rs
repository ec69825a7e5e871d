//! SQL text cut into tokens: to compare two CREATE INDEX statements and to find one column's definition in a CREATE
//! TABLE. SQLite has parsed what comes here; other text gives tokens too, never an error.

/// One token: where it stands and what it means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    pub start: usize,
    pub text: &'a str,
}

impl Token<'_> {
    /// Equal for tokens that mean the same: names without their quotes in lower case, everything else as it is
    /// written (keywords and numbers in lower case).
    pub fn meaning(&self) -> String {
        let body = self.text.get(1..self.text.len().saturating_sub(1)).unwrap_or("");
        match self.text.as_bytes().first() {
            Some(b'"') => body.replace("\"\"", "\"").to_ascii_lowercase(),
            Some(b'`') => body.replace("``", "`").to_ascii_lowercase(),
            Some(b'[') => body.to_ascii_lowercase(),
            Some(b'\'') => self.text.to_owned(),
            _ => self.text.to_ascii_lowercase(),
        }
    }
}

/// Whether two texts are the same statement, apart from white space, comments, case and quotes.
pub fn same(a: &str, b: &str) -> bool {
    let words = |sql: &str| tokens(sql).iter().map(Token::meaning).collect::<Vec<_>>();
    words(a) == words(b)
}

/// The definition of a column in a CREATE TABLE statement: name, type and constraints.
pub fn column_definition<'a>(create: &'a str, column: &str) -> Option<&'a str> {
    let all = tokens(create);
    let open = all.iter().position(|t| t.text == "(")?;
    let mut depth = 0usize;
    let mut first: Option<&Token> = None;
    for t in all.get(open..)? {
        match t.text {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        let ends = depth == 0 || (depth == 1 && t.text == ",");
        if ends {
            if let Some(name) = first.take()
                && name.meaning() == column.to_ascii_lowercase()
            {
                return create.get(name.start..t.start).map(str::trim);
            }
            if depth == 0 {
                return None;
            }
        } else if first.is_none() && !(depth == 1 && t.text == "(") {
            first = Some(t);
        }
    }
    None
}

/// The text with IF NOT EXISTS in each CREATE that lacks it.
pub fn if_not_exists(sql: &str) -> String {
    let all = tokens(sql);
    let is = |at: usize, words: &[&str]| {
        all.get(at).is_some_and(|t| words.iter().any(|w| t.text.eq_ignore_ascii_case(w)))
    };
    let (mut text, mut copied) = (String::with_capacity(sql.len() + 64), 0);
    for create in (0..all.len()).filter(|at| is(*at, &["create"])) {
        let mut at = create + 1;
        while is(at, &["temp", "temporary", "unique", "virtual"]) {
            at += 1;
        }
        if is(at, &["table", "index", "view", "trigger"])
            && !is(at + 1, &["if"])
            && let Some(kind) = all.get(at)
        {
            let end = kind.start + kind.text.len();
            text.push_str(sql.get(copied..end).unwrap_or_default());
            text.push_str(" IF NOT EXISTS");
            copied = end;
        }
    }
    text.push_str(sql.get(copied..).unwrap_or_default());
    text
}

/// The tokens of a text, without white space and comments.
pub fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(rest) = sql.get(at..).filter(|r| !r.is_empty()) {
        let (len, counts) = next(rest);
        if counts {
            all.push(Token { start: at, text: rest.get(..len).unwrap_or(rest) });
        }
        at += len;
    }
    all
}

/// The length of the first token of a text that is not empty, and whether it is more than space.
fn next(sql: &str) -> (usize, bool) {
    let bytes = sql.as_bytes();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let until = |end: Option<usize>, more: usize| end.map_or(sql.len(), |e| e + more);
    match bytes.first() {
        Some(c) if c.is_ascii_whitespace() => (1, false),
        Some(b'-') if bytes.get(1) == Some(&b'-') => (until(sql.find('\n'), 1), false),
        Some(b'/') if bytes.get(1) == Some(&b'*') => {
            (until(sql.get(2..).and_then(|s| s.find("*/")), 4), false)
        }
        Some(b'[') => (until(sql.find(']'), 1), true),
        Some(q @ (b'\'' | b'"' | b'`')) => (quoted(bytes, *q), true),
        _ => {
            let words = sql.find(|c| !word(c)).unwrap_or(sql.len());
            let one = sql.chars().next().map_or(1, char::len_utf8);
            (words.max(one), true)
        }
    }
}

/// The length of a quoted text, in which the quote is doubled.
fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(b) = bytes.get(at) {
        at += 1;
        if *b == quote {
            if bytes.get(at) != Some(&quote) {
                break;
            }
            at += 1;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_compared_by_meaning() {
        assert!(same(
            "CREATE INDEX i ON t(x,\n y DESC)",
            "create index \"I\" on [t] (x, /* two */ y desc) -- end"
        ));
        assert!(same("a >= 'It''s'", "a>='It''s'"));
        for (a, b) in [
            ("ON t (x, y)", "ON t (y, x)"),
            ("ON t (x)", "ON t (x) WHERE x > 1"),
            ("WHERE x = 'A'", "WHERE x = 'a'"),
            ("WHERE x = 'a'", "WHERE x = \"a\""),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn definitions_of_columns() {
        let sql = "CREATE TABLE \"t\" (id INTEGER PRIMARY KEY, -- a, comment\n\
                   \"odd, \"\"name\" DECIMAL(10, 2) NOT NULL DEFAULT (1 + 2), y TEXT CHECK (y IN ('a', 'b)')) COLLATE NOCASE,\
                   last, PRIMARY KEY (id))";
        assert_eq!(column_definition(sql, "ID"), Some("id INTEGER PRIMARY KEY"));
        let odd = column_definition(sql, "odd, \"name");
        assert_eq!(odd, Some("\"odd, \"\"name\" DECIMAL(10, 2) NOT NULL DEFAULT (1 + 2)"));
        assert_eq!(column_definition(sql, "y"), Some("y TEXT CHECK (y IN ('a', 'b)')) COLLATE NOCASE"));
        assert_eq!(column_definition(sql, "last"), Some("last"));
        assert_eq!(column_definition(sql, "nope"), None);
        assert_eq!(column_definition("CREATE TABLE t (only)", "only"), Some("only"));
        assert_eq!(column_definition("", "x"), None);
    }

    #[test]
    fn creates_say_if_not_exists() {
        for (given, made) in [
            (
                "CREATE TABLE t(x); create unique index i on t(x)",
                "CREATE TABLE IF NOT EXISTS t(x); create unique index IF NOT EXISTS i on t(x)",
            ),
            ("CREATE /* a */ TABLE\nIF NOT EXISTS t(x)", "CREATE /* a */ TABLE\nIF NOT EXISTS t(x)"),
            ("CREATE VIRTUAL TABLE f USING fts5(x)", "CREATE VIRTUAL TABLE IF NOT EXISTS f USING fts5(x)"),
            (
                "-- CREATE TABLE a\nSELECT 'CREATE TABLE b', \"create\" FROM [table]",
                "-- CREATE TABLE a\nSELECT 'CREATE TABLE b', \"create\" FROM [table]",
            ),
            ("CREATE TEMP VIEW v AS SELECT 1;", "CREATE TEMP VIEW IF NOT EXISTS v AS SELECT 1;"),
            ("CREATE", "CREATE"),
            ("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"),
        ] {
            assert_eq!(if_not_exists(given), made);
            assert_eq!(if_not_exists(made), made);
        }
    }

    #[test]
    fn any_text_has_an_end() {
        for sql in
            ["'", "\"a", "[x", "/*", "/* x", "--", "\u{e9}\u{2603} \u{1f600}", "a\u{e9}=b", "\0", "'''"]
        {
            let all = tokens(sql);
            assert!(all.iter().all(|t| !t.text.is_empty()), "{sql:?}");
        }
    }
}
