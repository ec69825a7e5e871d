//! What of the configuration can change while the server runs: keys, certificates, policies, and where tables come from.

use crate::auth::Authority;
use crate::config::Config;
use crate::error::StartError;
use crate::{schema, tls};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub struct Live {
    pub authority: Authority,
    pub tls: Option<TlsAcceptor>,
    /// Of this, policies and schemas; the rest is as it was at the start.
    pub config: Config,
}

pub type Now = watch::Receiver<Arc<Live>>;

impl Live {
    /// Checks everything that can be known without opening a room.
    pub fn new(config: Config) -> Result<Live, StartError> {
        let authority = Authority::new(config.auth.as_ref(), config.limits.token_bytes as usize)?;
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        schema::check(&config)?;
        Ok(Live { authority, tls, config })
    }

    /// What comes after `self`. Who may come in without a token, and whether the line is encrypted, is decided at a start.
    pub fn successor(&self, config: Config) -> Result<Live, StartError> {
        let refuse = |what: &str| {
            let message = format!("{what} can only be switched on or off by a new start");
            Err(StartError::Refused { message })
        };
        if self.config.auth.is_some() != config.auth.is_some() {
            return refuse("[auth]");
        }
        if self.config.tls.is_some() != config.tls.is_some() {
            return refuse("[tls]");
        }
        let old = &self.config;
        let later = [
            ("data", old.data != config.data),
            ("listen", old.listen != config.listen),
            ("durable", old.durable != config.durable),
            ("metrics_public", old.metrics_public != config.metrics_public),
            ("[limits]", old.limits != config.limits),
        ];
        for (name, _) in later.iter().filter(|l| l.1) {
            tracing::warn!("{name} has changed, which takes effect at the next start");
        }
        Live::new(config)
    }
}
