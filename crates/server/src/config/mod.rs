//! The configuration: command line, TOML file, defaults, and what is refused before the server starts.
//!
//! `docs/operating.md` lists every key; a test compares the two.

mod limits;

pub use limits::Limits;

use crate::error::StartError;
use crate::names::RoomName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;

pub const LISTEN_DEFAULT: &str = "127.0.0.1:4747";

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub data: Option<PathBuf>,
    pub listen: Option<String>,
    pub config: Option<PathBuf>,
    pub insecure_no_auth: bool,
}

/// Where a room's tables come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaSource {
    /// The room's file as it stands; rooms without a file are unknown.
    Fixed,
    /// Taken from the first client that may, and enlarged by the later ones.
    Adopt,
    /// From a file of SQL; the room is migrated to it.
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Config {
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// None: everybody may do everything (`--insecure-no-auth`).
    pub auth: Option<AuthConfig>,
    pub tls: Option<TlsConfig>,
    pub schema: SchemaSource,
    /// Rooms whose schema is another.
    pub rooms: BTreeMap<RoomName, SchemaSource>,
    pub policies: Vec<PolicyConfig>,
    pub limits: Limits,
    pub metrics_public: bool,
    pub durable: bool,
}

impl Config {
    pub fn schema_of(&self, room: &RoomName) -> &SchemaSource {
        self.rooms.get(room).unwrap_or(&self.schema)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    pub key_file: Option<PathBuf>,
    pub algorithm: Option<String>,
    pub jwks_file: Option<PathBuf>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    #[serde(default = "leeway")]
    pub leeway_s: u64,
}

fn leeway() -> u64 {
    30
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
}

/// Operations that a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Any,
}

#[derive(Clone, Debug)]
pub struct PolicyConfig {
    pub table: String,
    pub on: Vec<Operation>,
    pub require: String,
    pub message: Option<String>,
    /// `FILE:LINE` of the expression.
    pub place: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    table: String,
    on: OneOrMany,
    require: Spanned<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`on` is \"insert\", \"update\", \"delete\", \"any\", or a list of these")]
enum OneOrMany {
    One(Operation),
    Many(Vec<Operation>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoom {
    schema: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    data: Option<PathBuf>,
    listen: Option<String>,
    schema: Option<String>,
    auth: Option<AuthConfig>,
    tls: Option<TlsConfig>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    policy: Vec<RawPolicy>,
    #[serde(default)]
    room: BTreeMap<Spanned<String>, RawRoom>,
    metrics_public: Option<bool>,
    durable: Option<bool>,
}

/// Reads and checks everything that can be known without opening a room.
pub fn load(options: &Options) -> Result<Config, StartError> {
    let (raw, place) = match &options.config {
        Some(path) => {
            let text = read(path)?;
            let raw = toml::from_str::<RawConfig>(&text).map_err(|e| {
                StartError::config(path, line_of(&text, e.span().map_or(0, |s| s.start)), e.message())
            })?;
            (raw, Some((path.as_path(), text)))
        }
        None => (RawConfig::default(), None),
    };
    build(raw, place.as_ref().map(|(path, text)| Place { path, text }), options)
}

/// Where messages point to.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

fn build(raw: RawConfig, place: Option<Place<'_>>, options: &Options) -> Result<Config, StartError> {
    let base = place.as_ref().and_then(|p| p.path.parent()).unwrap_or(Path::new("")).to_owned();
    let refuse = |at: usize, message: String| match &place {
        Some(p) => StartError::config(p.path, line_of(p.text, at), &message),
        None => StartError::Refused { message },
    };
    let data = options.data.clone().or(raw.data.map(|d| base.join(d)));
    let Some(data) = data else {
        return Err(StartError::Refused { message: "no data directory; say --data DIR".into() });
    };
    let listen = options.listen.as_deref().or(raw.listen.as_deref()).unwrap_or(LISTEN_DEFAULT);
    let Ok(listen) = listen.parse::<SocketAddr>() else {
        return Err(StartError::Refused { message: format!("\"{listen}\" is no ADDRESS:PORT to listen on") });
    };
    let auth = auth_of(raw.auth, options.insecure_no_auth, listen)?.map(|a| a.based(&base));
    let schema_of = |text: &str| match text {
        "adopt" => SchemaSource::Adopt,
        "fixed" => SchemaSource::Fixed,
        file => SchemaSource::File(base.join(file)),
    };
    let schema = match raw.schema.as_deref() {
        Some(text) => schema_of(text),
        None if auth.is_none() => SchemaSource::Adopt,
        None => SchemaSource::Fixed,
    };
    let mut rooms = BTreeMap::new();
    for (name, room) in raw.room {
        let Some(parsed) = RoomName::parse(name.get_ref()) else {
            return Err(refuse(
                name.span().start,
                format!("\"{}\" cannot be the name of a room", name.get_ref()),
            ));
        };
        rooms.insert(parsed, schema_of(&room.schema));
    }
    let line_place = |at: usize| match &place {
        Some(p) => format!("{}:{}", p.path.display(), line_of(p.text, at)),
        None => String::new(),
    };
    let policies = raw.policy.into_iter().map(|p| p.placed(line_place)).collect();
    raw.limits.check().map_err(|message| StartError::Refused { message })?;
    let mut limits = raw.limits;
    if auth.is_none() {
        // Everybody is the same subject.
        limits.connections_per_subject = u32::MAX;
        limits.sites_per_subject = u32::MAX;
        limits.subject_bytes_per_s = u32::MAX;
        limits.requests_per_s = u32::MAX;
    }
    Ok(Config {
        data,
        listen,
        auth,
        tls: raw.tls.map(|t| t.based(&base)),
        schema,
        rooms,
        policies,
        limits,
        metrics_public: raw.metrics_public.unwrap_or(false),
        durable: raw.durable.unwrap_or(true),
    })
}

/// Without keys, only this machine is served, and only if that was asked for.
fn auth_of(
    auth: Option<AuthConfig>,
    insecure: bool,
    listen: SocketAddr,
) -> Result<Option<AuthConfig>, StartError> {
    match (auth, insecure) {
        (Some(_), true) => Err(StartError::Refused {
            message: "--insecure-no-auth and [auth] exclude each other; leave one out".into(),
        }),
        (None, false) => Err(StartError::Refused {
            message: "no key to check tokens with: configure [auth], or say --insecure-no-auth, which lets \
                          every program of this machine do everything"
                .into(),
        }),
        (None, true) if !listen.ip().is_loopback() => Err(StartError::Refused {
            message: format!(
                "--insecure-no-auth is for this machine alone, and {listen} is not a loopback address; \
                     configure [auth] to listen there"
            ),
        }),
        (auth, _) => Ok(auth),
    }
}

impl AuthConfig {
    fn based(self, base: &Path) -> AuthConfig {
        AuthConfig {
            key_file: self.key_file.map(|f| base.join(f)),
            jwks_file: self.jwks_file.map(|f| base.join(f)),
            ..self
        }
    }
}

impl TlsConfig {
    fn based(self, base: &Path) -> TlsConfig {
        TlsConfig { certificate_file: base.join(self.certificate_file), key_file: base.join(self.key_file) }
    }
}

impl RawPolicy {
    fn placed(self, place: impl Fn(usize) -> String) -> PolicyConfig {
        PolicyConfig {
            table: self.table,
            on: match self.on {
                OneOrMany::One(one) => vec![one],
                OneOrMany::Many(many) => many,
            },
            place: place(self.require.span().start),
            require: self.require.into_inner(),
            message: self.message,
        }
    }
}

pub fn read(path: &Path) -> Result<String, StartError> {
    std::fs::read_to_string(path).map_err(|e| StartError::file(path, &e))
}

/// Lines count from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}
