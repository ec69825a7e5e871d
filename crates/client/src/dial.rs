//! Byte streams to a server, encrypted or not.

use crate::error::Error;
use crate::url::RoomUrl;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// How long an address may take to answer.
const DIAL: Duration = Duration::from_secs(15);

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Dials one server.
#[derive(Clone)]
pub struct Dialer {
    url: RoomUrl,
    tls: Option<TlsConnector>,
}

impl Dialer {
    pub fn new(url: RoomUrl, ca_file: Option<&Path>) -> Result<Dialer, Error> {
        let tls = if url.tls { Some(connector(ca_file)?) } else { None };
        Ok(Dialer { url, tls })
    }

    pub fn url(&self) -> &RoomUrl {
        &self.url
    }

    pub async fn dial(&self) -> Result<Box<dyn Stream>, String> {
        let place = self.url.authority();
        let dialing = async {
            let tcp = TcpStream::connect((self.url.bare_host(), self.url.port)).await;
            let tcp = tcp.map_err(|e| format!("{place} cannot be reached: {e}"))?;
            // Frames are sent whole.
            let _ = tcp.set_nodelay(true);
            let Some(tls) = &self.tls else { return Ok(Box::new(tcp) as Box<dyn Stream>) };
            let name = ServerName::try_from(self.url.bare_host().to_owned())
                .map_err(|_| format!("{} cannot be in a certificate", self.url.host))?;
            let stream = tls
                .connect(name, tcp)
                .await
                .map_err(|e| format!("no secure connection to {place}: {}", hint(&e)))?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        match tokio::time::timeout(DIAL, dialing).await {
            Ok(done) => done,
            Err(_) => Err(format!("{place} does not answer")),
        }
    }
}

/// What TLS says of the mistakes that are made when a server is set up, and what to do about it.
fn hint(e: &std::io::Error) -> String {
    use tokio_rustls::rustls::{CertificateError, Error};
    let more = match e.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => "; a server without TLS is ws://",
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; the certificate of an authority that the system does not know is given with --ca-file"
        }
        Some(Error::InvalidCertificate(CertificateError::Other(_))) => {
            "; a certificate that was made to sign others cannot be a server's, self-made ones need basicConstraints CA:FALSE"
        }
        _ => "",
    };
    format!("{e}{more}")
}

fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let wrong = |error| Error::File { path: path.to_owned(), error };
        let bytes = std::fs::read(path).map_err(wrong)?;
        let known = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate.map_err(|e| wrong(std::io::Error::other(e.to_string())))?;
            roots.add(certificate).map_err(|e| wrong(std::io::Error::other(e)))?;
        }
        if roots.len() == known {
            return Err(wrong(std::io::Error::other("no certificate in PEM form")));
        }
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::System(std::io::Error::other(e)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
