//! TLS by rustls, with the cryptography of ring.

use crate::config::TlsConfig;
use crate::error::StartError;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

pub fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, StartError> {
    let (chain_file, key_file) = (&config.certificate_file, &config.key_file);
    let chain = CertificateDer::pem_file_iter(chain_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| StartError::file(chain_file, &e))?;
    if chain.is_empty() {
        return Err(StartError::file(chain_file, &"no certificate in PEM form"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| StartError::file(key_file, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| StartError::file(chain_file, &e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| StartError::file(chain_file, &e))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}
