//! Tokens: who a client is and what it may do.
//!
//! A key is bound to one algorithm by the configuration, never by the token: the header only chooses among the keys that
//! fit, so neither `none` nor a public key taken for a secret can pass.

use crate::config::{AuthConfig, read};
use crate::crypto;
use crate::error::StartError;
use crate::names::RoomName;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use std::path::Path;

const SECRET_BYTES_MIN: usize = 32;
const SUBJECT_BYTES_MAX: usize = 256;

/// Who is on the other side, and what it may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub subject: String,
    /// Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// Transactions and cells of sites of other subjects.
    pub relay: bool,
    pub read_only: bool,
    /// May bring tables and columns to a room that adopts its schema.
    pub schema: bool,
    /// All claims, for policies.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

impl Grant {
    /// Without keys, everybody is the same subject and may do everything.
    pub fn everything() -> Grant {
        Grant {
            subject: "anonymous".to_owned(),
            expires_ms: None,
            relay: true,
            read_only: false,
            schema: true,
            claims: serde_json::Map::new(),
        }
    }
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// No token, or none that can be believed.
    Unauthenticated(String),
    /// A good token for something else.
    Forbidden(String),
}

impl Denied {
    pub fn message(&self) -> &str {
        match self {
            Denied::Unauthenticated(message) | Denied::Forbidden(message) => message,
        }
    }
}

fn unauthenticated(message: impl Into<String>) -> Denied {
    Denied::Unauthenticated(message.into())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Rooms {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    room: Rooms,
    #[serde(default)]
    relay: bool,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    schema: bool,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys of the configuration; without any, everybody is let in.
pub struct Authority {
    keys: Option<Vec<Key>>,
    leeway_s: u64,
    issuer: Option<String>,
    audience: Option<String>,
    token_bytes_max: usize,
}

impl Authority {
    pub fn new(config: Option<&AuthConfig>, token_bytes_max: usize) -> Result<Authority, StartError> {
        crypto::install();
        let keys = config.map(keys_of).transpose()?;
        Ok(Authority {
            keys,
            leeway_s: config.map_or(0, |c| c.leeway_s),
            issuer: config.and_then(|c| c.issuer.clone()),
            audience: config.and_then(|c| c.audience.clone()),
            token_bytes_max,
        })
    }

    /// What a token allows in a room.
    pub fn check(&self, token: Option<&str>, room: &RoomName) -> Result<Grant, Denied> {
        let Some(keys) = &self.keys else { return Ok(Grant::everything()) };
        let token = token.ok_or_else(|| unauthenticated("a token is needed"))?;
        if token.len() > self.token_bytes_max {
            return Err(unauthenticated("the token is too long"));
        }
        let header = decode_header(token).map_err(|e| unauthenticated(reason(e.kind())))?;
        let mut denied = unauthenticated(format!(
            "no key of this server is for algorithm {:?}{}",
            header.alg,
            if header.kid.is_some() { " and the token's key id" } else { "" }
        ));
        let named = |key: &&Key| header.kid.is_none() || key.id.is_none() || key.id == header.kid;
        for key in keys.iter().filter(|k| k.algorithm == header.alg).filter(named) {
            match decode::<serde_json::Map<String, serde_json::Value>>(token, &key.key, &self.validation(key))
            {
                Ok(data) => return grant(data.claims, room, self.leeway_s),
                Err(e) => denied = unauthenticated(reason(e.kind())),
            }
        }
        Err(denied)
    }

    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = self.leeway_s;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

fn grant(
    all: serde_json::Map<String, serde_json::Value>,
    room: &RoomName,
    leeway_s: u64,
) -> Result<Grant, Denied> {
    let claims = Claims::deserialize(serde_json::Value::Object(all.clone()))
        .map_err(|e| unauthenticated(format!("the token's claims: {e}")))?;
    if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX {
        return Err(unauthenticated("the token's subject is empty or too long"));
    }
    let names = match &claims.room {
        Rooms::One(name) => std::slice::from_ref(name),
        Rooms::Many(names) => names,
    };
    if !names.iter().any(|n| n == "*" || n == room.as_str()) {
        return Err(Denied::Forbidden(format!("the token is not for room \"{room}\"")));
    }
    Ok(Grant {
        subject: claims.sub,
        expires_ms: Some(((claims.exp * 1000.0) as u64).saturating_add(leeway_s.saturating_mul(1000))),
        relay: claims.relay,
        read_only: claims.read_only,
        schema: claims.schema,
        claims: all,
    })
}

/// A sentence for the client and the log, without the token.
fn reason(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired".into(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".into(),
        ErrorKind::InvalidSignature => "the token's signature does not fit".into(),
        ErrorKind::InvalidAlgorithm => "the token's algorithm is not allowed".into(),
        ErrorKind::InvalidIssuer => "the token has another issuer".into(),
        ErrorKind::InvalidAudience => "the token is for another audience".into(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token lacks the claim {claim}"),
        ErrorKind::InvalidClaimFormat(claim) => format!("the token's claim {claim} is malformed"),
        // The algorithm `none`, which the library does not know, ends here as well.
        _ => "this is no signed JSON Web Token".into(),
    }
}

fn keys_of(config: &AuthConfig) -> Result<Vec<Key>, StartError> {
    let refuse = |message: String| StartError::Refused { message };
    let mut keys = Vec::new();
    if let Some(file) = &config.key_file {
        let Some(name) = config.algorithm.as_deref() else {
            return Err(refuse("[auth] key_file needs algorithm: \"HS256\", \"EdDSA\" or \"RS256\"".into()));
        };
        keys.push(key_of(file, name)?);
    } else if config.algorithm.is_some() {
        return Err(refuse("[auth] algorithm is for key_file; keys of a JWKS file name their own".into()));
    }
    if let Some(file) = &config.jwks_file {
        let set: JwkSet = serde_json::from_str(&read(file)?).map_err(|e| StartError::file(file, &e))?;
        for jwk in &set.keys {
            keys.push(key_of_jwk(jwk).map_err(|message| StartError::file(file, &message))?);
        }
    }
    if keys.is_empty() {
        return Err(refuse("[auth] names no key: say key_file and algorithm, or jwks_file".into()));
    }
    Ok(keys)
}

fn key_of(file: &Path, algorithm: &str) -> Result<Key, StartError> {
    let bytes = std::fs::read(file).map_err(|e| StartError::file(file, &e))?;
    let refuse = |message: &str| StartError::file(file, &message);
    let (algorithm, key) = match algorithm {
        "HS256" => {
            let secret = bytes.trim_ascii_end();
            if secret.starts_with(b"-----BEGIN") {
                return Err(refuse("a PEM file is no secret for HS256; a public key is known to everybody"));
            }
            check_secret(secret).map_err(|m| refuse(&m))?;
            (Algorithm::HS256, DecodingKey::from_secret(secret))
        }
        "EdDSA" => (
            Algorithm::EdDSA,
            DecodingKey::from_ed_pem(&bytes).map_err(|_| refuse("no Ed25519 public key in PEM form"))?,
        ),
        "RS256" => (
            Algorithm::RS256,
            DecodingKey::from_rsa_pem(&bytes).map_err(|_| refuse("no RSA public key in PEM form"))?,
        ),
        other => {
            let message = format!("[auth] algorithm = \"{other}\": only HS256, EdDSA and RS256 are spoken");
            return Err(StartError::Refused { message });
        }
    };
    Ok(Key { id: None, algorithm, key })
}

fn check_secret(secret: &[u8]) -> Result<(), String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "a secret for HS256 has at least {SECRET_BYTES_MIN} bytes, this one {}",
            secret.len()
        ));
    }
    Ok(())
}

fn key_of_jwk(jwk: &Jwk) -> Result<Key, String> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return Err("a key that is neither a secret, nor RSA, nor Ed25519".into()),
    };
    if let Some(named) = jwk.common.key_algorithm
        && named.to_string() != format!("{algorithm:?}")
    {
        return Err(format!("a key for algorithm {named}; only HS256, EdDSA and RS256 are spoken"));
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|e| format!("a key that cannot be read: {e}"))?;
    if algorithm == Algorithm::HS256 {
        check_secret(key.try_get_as_bytes().unwrap_or_default())?;
    }
    Ok(Key { id: jwk.common.key_id.clone(), algorithm, key })
}
