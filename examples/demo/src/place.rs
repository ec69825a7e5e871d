//! The server on a free port of this machine, its policies, and the tokens of those who may come.

use crate::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rejoin_client::{Options, Report, Token, sync_once};
use rejoin_server::{Server, config};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;

pub const ROOM: &str = "catalogue";

/// A till sells and receives books; prices and the catalogue are the managers' business, and sales are for ever.
const CONFIG: &str = "
schema = 'adopt'

[auth]
key_file = 'secret.key'
algorithm = 'HS256'

[[policy]]
table = 'books'
on = ['insert', 'delete']
require = \"claims.role = 'manager'\"
message = 'only managers add and delete books'

[[policy]]
table = 'books'
on = 'update'
require = \"new.cents IS old.cents OR claims.role = 'manager'\"
message = 'only managers set prices'

[[policy]]
table = 'sales'
on = 'insert'
require = 'new.shop = claims.shop'
message = 'a sale belongs to the shop that made it'

[[policy]]
table = 'sales'
on = ['update', 'delete']
require = 'FALSE'
message = 'sales are never changed'
";

pub struct Place {
    folder: PathBuf,
    secret: String,
    runtime: Runtime,
    server: Server,
}

impl Place {
    pub fn open(folder: &Path) -> Result<Place> {
        let mut key = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key)
            .map_err(|_| "no randomness for a key")?;
        let secret = URL_SAFE_NO_PAD.encode(key);
        std::fs::write(folder.join("secret.key"), &secret)?;
        let file = folder.join("server.toml");
        std::fs::write(&file, CONFIG)?;
        let config = config::load(&config::Options {
            data: Some(folder.join("rooms")),
            listen: Some("127.0.0.1:0".into()),
            config: Some(file),
            insecure_no_auth: false,
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let server = runtime.block_on(Server::start(config))?;
        Ok(Place { folder: folder.to_owned(), secret, runtime, server })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn url(&self) -> String {
        format!("ws://{}/{ROOM}", self.address())
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.db"))
    }

    pub fn room_file(&self) -> PathBuf {
        self.folder.join("rooms").join(format!("{ROOM}.db"))
    }

    /// A token for an hour.
    pub fn token(&self, subject: &str, room: &str, more: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let mut claims = json!({"sub": subject, "room": room, "exp": now + 3600, "shop": subject});
        if let (Some(all), Value::Object(more)) = (claims.as_object_mut(), more) {
            all.extend(more);
        }
        let input = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.secret.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, input.as_bytes())))
    }

    /// What a shop may do is in its token. The head office and the north are managers, and may bring columns.
    pub fn options(&self, name: &str) -> Options {
        let more = match name {
            "till" => json!({"role": "till"}),
            "south" => json!({"role": "manager"}),
            _ => json!({"role": "manager", "schema": true}),
        };
        Options { token: Token::Fixed(self.token(name, ROOM, more)), ..Options::default() }
    }

    /// Syncs a shop until there is nothing left to do.
    pub fn sync(&self, name: &str) -> Result<Report> {
        Ok(sync_once(self.file(name), &self.url(), self.options(name))?)
    }

    pub fn close(self) {
        self.runtime.block_on(self.server.stop());
    }
}

/// One of the parts of a token.
pub fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
