//! Owns the certificates of the tests: who signs them, their files, and the ends of TLS that use them. Never keeps one
//! beyond its test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actors::tls::{Identity, Options};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

/// Both versions of TLS that we speak.
pub const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

/// A certificate authority, and the files it gives out.
pub struct Authority {
    pub issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Issued {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM")]
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM")
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        Self { issuer, directory: tempfile::tempdir().expect("a directory") }
    }

    pub fn issues(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { certificate, key: key.serialize_pem() }
    }

    /// One that was good in 2020.
    pub fn issues_expired(&self, name: &str) -> Issued {
        self.issues(name, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        })
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What a client has that trusts this authority.
    pub fn trusted(&self) -> Options {
        Options { ca_file: Some(self.file("ca.pem", &self.issuer.pem())), ..Options::default() }
    }

    pub fn known_as(&self, issued: &Issued) -> Options {
        let cert_file = self.file("us.pem", &issued.certificate);
        let private_key_file = self.file("us.key", &issued.key);
        Options { identity: Some(Identity { cert_file, private_key_file }), ..self.trusted() }
    }
}

/// How a server asks for certificates of its clients.
pub enum Clients {
    Any,
    Of(CertificateDer<'static>),
}

pub fn server(
    issued: &Issued,
    clients: Clients,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("versions of TLS");
    let builder = match clients {
        Clients::Any => builder.with_no_client_auth(),
        Clients::Of(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    builder.with_single_cert(issued.chain(), issued.private_key()).expect("they fit")
}
