//! Policies: what of a row may be written by whom, as SQL expressions over `old`, `new` and `claims`.
//!
//! An expression becomes one SELECT over three rows of bound values, on a connection of its own in memory: there is
//! no table to read, the authorizer lets nothing through but pure functions and `json_each`, and the progress handler
//! ends what takes too many steps. What cannot be evaluated is not allowed.

use crate::config::{Operation, PolicyConfig};
use crate::error::StartError;
use rejoin::Value;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

type Claims = serde_json::Map<String, serde_json::Value>;

/// Names that one expression may use.
const NAMES_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 16 << 10;
const VALUE_BYTES_MAX: i32 = 128 << 20;
/// The progress handler is asked this often.
const STEPS_A_CALL: u32 = 100;

/// Functions without effects. Whatever is not here, SQLite's own new ones included, is refused.
const FUNCTIONS: &[&str] = &[
    "->",
    "->>",
    "abs",
    "ceil",
    "ceiling",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "date",
    "datetime",
    "floor",
    "format",
    "glob",
    "group_concat",
    "hex",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_length",
    "json_extract",
    "json_object",
    "json_quote",
    "json_type",
    "json_valid",
    "julianday",
    "length",
    "like",
    "likelihood",
    "likely",
    "lower",
    "ltrim",
    "max",
    "min",
    "mod",
    "nullif",
    "octet_length",
    "printf",
    "quote",
    "replace",
    "round",
    "rtrim",
    "sign",
    "strftime",
    "substr",
    "substring",
    "sum",
    "time",
    "timediff",
    "total",
    "trim",
    "trunc",
    "typeof",
    "unhex",
    "unicode",
    "unixepoch",
    "unlikely",
    "upper",
];

/// A row as a client wants to change it.
#[derive(Clone, Copy, Debug)]
pub struct RowChange<'a> {
    pub table: &'a str,
    pub operation: Operation,
    pub columns: &'a [String],
    /// In the order of the columns; None before an insert.
    pub old: Option<&'a [Value]>,
    /// None after a delete.
    pub new: Option<&'a [Value]>,
}

/// A rule that is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// For the client.
    pub message: String,
    /// For the log: where the rule stands.
    pub place: String,
}

#[derive(Clone, Debug)]
struct Rule {
    config: PolicyConfig,
    sql: String,
    binds: Vec<Bind>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bind {
    Old(String),
    New(String),
    Claim(String),
}

/// The rules, ready to be asked; one for each room, as a connection belongs to one thread.
pub struct Policies {
    sandbox: Connection,
    rules: Vec<Rule>,
    steps: Arc<AtomicU32>,
}

impl Policies {
    pub fn compile(configs: &[PolicyConfig], steps_max: u32) -> Result<Policies, StartError> {
        let steps = Arc::new(AtomicU32::new(0));
        let internal = |e: rusqlite::Error| StartError::Refused { message: format!("policies: {e}") };
        let sandbox = sandbox(&steps, steps_max).map_err(internal)?;
        sandbox.set_prepared_statement_cache_capacity(configs.len());
        let rules = configs.iter().map(|config| compile(&sandbox, config)).collect::<Result<_, _>>()?;
        Ok(Policies { sandbox, rules, steps })
    }

    /// Whether any rule is about the table.
    pub fn is_about(&self, table: &str) -> bool {
        self.rules.iter().any(|r| r.is_about(table))
    }

    /// Compares the rules with tables that are known: a rule about a column that is not there would refuse everything.
    pub fn check_columns(&self, table: &str, columns: &[String]) -> Result<(), StartError> {
        for rule in self.rules.iter().filter(|r| r.is_about(table)) {
            for bind in &rule.binds {
                if let Bind::Old(name) | Bind::New(name) = bind
                    && !columns.iter().any(|c| c.eq_ignore_ascii_case(name))
                {
                    let message =
                        format!("{}: table \"{table}\" has no column \"{name}\"", rule.config.place);
                    return Err(StartError::Refused { message });
                }
            }
        }
        Ok(())
    }

    /// The rules that are about none of these tables.
    pub fn about_nothing<'a>(&'a self, tables: &'a [String]) -> impl Iterator<Item = &'a PolicyConfig> {
        let unused = |r: &&Rule| r.config.table != "*" && !tables.iter().any(|t| r.is_about(t));
        self.rules.iter().filter(unused).map(|r| &r.config)
    }

    /// Whether all rules about the row are kept.
    pub fn check(&self, change: &RowChange<'_>, claims: &Claims) -> Result<(), Violation> {
        let on = |r: &&Rule| {
            r.is_about(change.table)
                && r.config.on.iter().any(|o| *o == Operation::Any || *o == change.operation)
        };
        for rule in self.rules.iter().filter(on) {
            let violation = |message| Violation { message, place: rule.config.place.clone() };
            match self.evaluate(rule, change, claims) {
                Ok(true) => {}
                Ok(false) => return Err(violation(rule.message(change.operation))),
                Err(why) => {
                    let message =
                        format!("{}; it could not be evaluated: {why}", rule.message(change.operation));
                    return Err(violation(message));
                }
            }
        }
        Ok(())
    }

    fn evaluate(&self, rule: &Rule, change: &RowChange<'_>, claims: &Claims) -> Result<bool, String> {
        self.steps.store(0, Ordering::Relaxed);
        let text = |e: rusqlite::Error| match e {
            rusqlite::Error::SqliteFailure(code, _)
                if code.code == rusqlite::ErrorCode::OperationInterrupted =>
            {
                "it takes too many steps".to_owned()
            }
            e => e.to_string(),
        };
        let mut statement = self.sandbox.prepare_cached(&rule.sql).map_err(text)?;
        for (i, bind) in rule.binds.iter().enumerate() {
            let value = match bind {
                Bind::Old(name) => cell(change, change.old, name)?,
                Bind::New(name) => cell(change, change.new, name)?,
                Bind::Claim(name) => claim(claims.get(name)),
            };
            statement.raw_bind_parameter(i + 1, value).map_err(text)?;
        }
        let mut rows = statement.raw_query();
        let row = rows.next().map_err(text)?.ok_or("it has no result")?;
        row.get::<_, bool>(0).map_err(text)
    }
}

impl Rule {
    fn is_about(&self, table: &str) -> bool {
        self.config.table == "*" || self.config.table.eq_ignore_ascii_case(table)
    }

    fn message(&self, operation: Operation) -> String {
        let verb = match operation {
            Operation::Insert => "insert into",
            Operation::Update => "update",
            Operation::Delete => "delete from",
            Operation::Any => "change",
        };
        let default = || format!("a policy does not allow to {verb} \"{}\"", self.config.table);
        self.config.message.clone().unwrap_or_else(default)
    }
}

/// A value as a parameter, without a copy.
enum Parameter<'a> {
    Borrowed(ValueRef<'a>),
    Owned(SqlValue),
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Parameter::Borrowed(v) => ToSqlOutput::Borrowed(*v),
            Parameter::Owned(v) => ToSqlOutput::Borrowed(v.into()),
        })
    }
}

fn cell<'a>(change: &RowChange<'a>, row: Option<&'a [Value]>, name: &str) -> Result<Parameter<'a>, String> {
    let missing = || format!("the table has no column \"{name}\"");
    let at = change.columns.iter().position(|c| c.eq_ignore_ascii_case(name)).ok_or_else(missing)?;
    let value = match row {
        Some(values) => values.get(at).ok_or_else(missing)?,
        None => &Value::Null,
    };
    Ok(Parameter::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Int(i) => ValueRef::Integer(*i),
        Value::Real(r) => ValueRef::Real(*r),
        Value::Text(t) => ValueRef::Text(t),
        Value::Blob(b) => ValueRef::Blob(b),
    }))
}

fn claim(value: Option<&serde_json::Value>) -> Parameter<'_> {
    use serde_json::Value as Json;
    let borrowed = Parameter::Borrowed;
    match value {
        None | Some(Json::Null) => borrowed(ValueRef::Null),
        Some(Json::Bool(b)) => borrowed(ValueRef::Integer(i64::from(*b))),
        Some(Json::String(s)) => borrowed(ValueRef::Text(s.as_bytes())),
        Some(Json::Number(n)) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => borrowed(ValueRef::Integer(i)),
            (None, Some(r)) => borrowed(ValueRef::Real(r)),
            (None, None) => borrowed(ValueRef::Null),
        },
        Some(list) => Parameter::Owned(SqlValue::Text(list.to_string())),
    }
}

fn sandbox(steps: &Arc<AtomicU32>, steps_max: u32) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_MEMORY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(":memory:", flags)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, 4 * TEXT_BYTES_MAX as i32)?;
    conn.set_limit(Limit::SQLITE_LIMIT_EXPR_DEPTH, 200)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)?;
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.authorizer(Some(authorize))?;
    let steps = steps.clone();
    let over = move || steps.fetch_add(STEPS_A_CALL, Ordering::Relaxed) >= steps_max;
    conn.progress_handler(STEPS_A_CALL as i32, Some(over))?;
    Ok(conn)
}

fn authorize(context: AuthContext<'_>) -> Authorization {
    let allowed = match context.action {
        AuthAction::Select => true,
        AuthAction::Function { function_name } => FUNCTIONS.binary_search(&function_name).is_ok(),
        // The three rows have aliases; what they stand for has no name.
        AuthAction::Read { table_name, .. } => {
            matches!(table_name, "" | "old" | "new" | "claims" | "json_each")
        }
        // How SQLite makes the eponymous table known to the connection.
        AuthAction::Update { table_name, .. } | AuthAction::Insert { table_name } => {
            table_name == "sqlite_master"
        }
        AuthAction::CreateVtable { table_name, .. } => table_name == "json_each",
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

/// Names are found by trying: SQLite's own parser says which one it misses.
fn compile(sandbox: &Connection, config: &PolicyConfig) -> Result<Rule, StartError> {
    let refuse = |why: &str| {
        let place = if config.place.is_empty() { String::new() } else { format!("{}: ", config.place) };
        StartError::Refused { message: format!("{place}policy for \"{}\": {why}", config.table) }
    };
    if config.require.len() > TEXT_BYTES_MAX {
        return Err(refuse("the expression is too long"));
    }
    if config.on.is_empty() {
        return Err(refuse("`on` names no operation"));
    }
    let mut binds: Vec<Bind> = Vec::new();
    loop {
        let sql = select(&config.require, &binds);
        let why = match sandbox.prepare(&sql) {
            Ok(statement) if statement.readonly() && statement.column_count() == 1 => {
                return Ok(Rule { config: config.clone(), sql, binds });
            }
            Ok(_) => return Err(refuse("this is no expression")),
            Err(rusqlite::Error::SqlInputError { msg, .. }) => msg,
            Err(rusqlite::Error::SqliteFailure(_, Some(msg))) => msg,
            Err(e) => e.to_string(),
        };
        match missing(&why) {
            Some(bind) if binds.len() < NAMES_MAX && !binds.contains(&bind) => binds.push(bind),
            _ => return Err(refuse(&why)),
        }
    }
}

fn missing(why: &str) -> Option<Bind> {
    let name = why.strip_prefix("no such column: ")?;
    let (row, column) = name.split_once('.')?;
    let column = column.to_owned();
    match row.to_ascii_lowercase().as_str() {
        "old" => Some(Bind::Old(column)),
        "new" => Some(Bind::New(column)),
        "claims" => Some(Bind::Claim(column)),
        _ => None,
    }
}

fn select(expression: &str, binds: &[Bind]) -> String {
    let row = |pick: fn(&Bind) -> Option<&String>| {
        let columns: Vec<String> = binds
            .iter()
            .enumerate()
            .filter_map(|(i, bind)| Some(format!("?{} AS \"{}\"", i + 1, pick(bind)?.replace('"', "\"\""))))
            .collect();
        if columns.is_empty() { "NULL AS \"\"".to_owned() } else { columns.join(", ") }
    };
    format!(
        "SELECT CASE WHEN ({expression}\n) THEN 1 ELSE 0 END FROM (SELECT {}) AS old, (SELECT {}) AS new, \
         (SELECT {}) AS claims",
        row(|b| if let Bind::Old(name) = b { Some(name) } else { None }),
        row(|b| if let Bind::New(name) = b { Some(name) } else { None }),
        row(|b| if let Bind::Claim(name) = b { Some(name) } else { None }),
    )
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
