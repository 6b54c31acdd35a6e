//! Owns encryption on the way out: whom we trust, who we are, and what a failed handshake means to an operator.
//! It never opens a connection.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use actix_web::error::ParseError;
use awc::error::{ConnectError, SendRequestError};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible,
    RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
    version::{TLS12, TLS13},
};

use crate::{
    expiry::{Expiry, Role},
    http_client,
};

/// The settings of all outgoing connections.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--ca_file`: certificates that are trusted besides the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// `--cert_file` and `--private_key_file`: who we are, in PEM.
    pub identity: Option<Identity>,
    /// `--insecure`: whoever answers is trusted.
    pub insecure: bool,
    /// No URL begins with `https`, so the system's roots are not read: as certificates they take a megabyte.
    pub plain: bool,
}

/// A certificate of ours.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `--cert_file`: the certificate, and those between it and a root.
    pub cert_file: PathBuf,
    /// `--private_key_file`.
    pub private_key_file: PathBuf,
}

/// What the settings come to.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// For [`crate::http_client`]. It speaks TLS 1.2 and 1.3, and HTTP/1.1 alone.
    pub config: Arc<ClientConfig>,
    /// What an operator should hear of.
    pub warning: Option<String>,
    /// The same for the same certificates, keys and options: then the connections and the token that there are still
    /// serve.
    pub fingerprint: u64,
    /// When the certificates end that the options name.
    pub expiries: Vec<Expiry>,
}

impl Outgoing {
    /// Reads the system's roots, if they are needed, and the files that the options name. A system without roots is
    /// only a warning, for `ca_file` may be meant to name them.
    ///
    /// # Errors
    /// What is wrong with which file, by the name of its setting.
    pub fn new(options: &Options) -> Result<Self, String> {
        // Named here, so that nothing depends on what else in the process may have set as its default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let mut warning = None;
        let mut expiries = Vec::new();
        let mut seen = DefaultHasher::new();
        (options.insecure, options.plain).hash(&mut seen);
        if !options.plain {
            let found = rustls_native_certs::load_native_certs();
            found.certs.iter().for_each(|certificate| certificate.as_ref().hash(&mut seen));
            roots.add_parsable_certificates(found.certs);
            warning = (roots.is_empty() && options.ca_file.is_none() && !options.insecure).then(|| {
                let why = found.errors.iter().map(|error| format!(" ({error})")).collect::<String>();
                format!("this system has no root certificates, so no https can work: set ca_file{why}")
            });
        }
        if let Some(path) = &options.ca_file {
            let certificates = certificates("ca_file", path)?;
            expiries.extend(Expiry::of(Role::Ca, path, &certificates));
            for certificate in certificates {
                certificate.as_ref().hash(&mut seen);
                roots.add(certificate).map_err(|error| wrong("ca_file", path, error))?;
            }
        }
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &options.identity {
            Some(Identity { cert_file, private_key_file }) => {
                let certificates = certificates("cert_file", cert_file)?;
                expiries.extend(Expiry::of(Role::Client, cert_file, &certificates));
                let key = PrivateKeyDer::from_pem_file(private_key_file)
                    .map_err(|error| wrong("private_key_file", private_key_file, in_words(&error)))?;
                certificates.iter().for_each(|certificate| certificate.as_ref().hash(&mut seen));
                key.secret_der().hash(&mut seen);
                builder.with_client_auth_cert(certificates, key).map_err(|error| match error {
                    Error::InconsistentKeys(_) => wrong(
                        "private_key_file",
                        private_key_file,
                        "is not the key of cert_file's certificate",
                    ),
                    error => wrong("cert_file", cert_file, error),
                })?
            }
            None => builder.with_no_client_auth(),
        };
        if options.insecure {
            config.dangerous().set_certificate_verifier(Arc::new(TrustAnyone(provider)));
        }
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), warning, fingerprint: seen.finish(), expiries })
    }
}

/// The certificates in a file; what is wrong with it is said by the name of its setting.
pub(crate) fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates.map_err(|error| wrong(setting, path, in_words(&error)))? {
        none if none.is_empty() => Err(wrong(setting, path, "holds no certificate in PEM")),
        some => Ok(some),
    }
}

/// What is wrong with the file of a setting.
pub(crate) fn wrong(setting: &str, path: &Path, why: impl std::fmt::Display) -> String {
    format!("{setting} {}: {why}", path.display())
}

/// Why a file could not be read, without quoting from it.
pub(crate) fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("can't be read: {error}"),
        pem::Error::NoItemsFound => "holds no private key in PEM".to_owned(),
        // No other text of it: it may quote the file.
        _ => "is no PEM".to_owned(),
    }
}

/// Trusts whoever answers, as `--insecure` says. What was agreed with them is checked all the same.
#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a request of awc's came to nothing, in words for an operator, with the setting that mends it where there is one.
pub fn explain(error: &SendRequestError) -> String {
    let io = match error {
        SendRequestError::Connect(ConnectError::Io(error)) | SendRequestError::Send(error) => Some(error),
        SendRequestError::Response(ParseError::Io(error)) => Some(error),
        _ => None,
    };
    if let Some(faulty) = io.and_then(http_client::faulty_head) {
        return format!("no HTTP answer: {faulty}");
    }
    match io.and_then(of_tls) {
        Some(error) => explain_tls(error),
        None => error.to_string(),
    }
}

fn of_tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn explain_tls(error: &Error) -> String {
    use AlertDescription as Alert;
    match error {
        Error::InvalidCertificate(certificate) => match certificate {
            // The latter where two authorities have the same name, as an old one and the new.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is signed by nobody that is trusted here: set ca_file to who signed it"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired, or the clock of this host is wrong".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or the clock of this host is wrong".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "its certificate is for another host: write the URL with a name that it has ({certificate})"
                )
            }
            other => format!("its certificate is not valid: {other}"),
        },
        Error::AlertReceived(Alert::CertificateRequired) => {
            "it asks for a certificate of ours: set cert_file and private_key_file".to_owned()
        }
        Error::AlertReceived(
            alert @ (Alert::HandshakeFailure
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::DecryptError),
        ) => format!("it refuses the handshake ({alert:?}): it may ask for another certificate in cert_file"),
        Error::InvalidMessage(_) => "it does not speak TLS there: write http:// or another port".to_owned(),
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "it speaks no TLS newer than 1.1".to_owned()
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the repository that is no PEM.
    fn toml() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_by_the_name_of_its_setting() {
        let ca = |path: PathBuf| {
            Outgoing::new(&Options { ca_file: Some(path), ..Options::default() }).unwrap_err()
        };
        assert!(ca("/nosuch".into()).starts_with("ca_file /nosuch: can't be read: "));
        assert!(ca(toml()).ends_with("Cargo.toml: holds no certificate in PEM"));
        let identity = Identity { cert_file: toml(), private_key_file: "/nosuch".into() };
        let error = Outgoing::new(&Options { identity: Some(identity), ..Options::default() }).unwrap_err();
        assert!(error.starts_with("cert_file "), "{error}");
    }
}
