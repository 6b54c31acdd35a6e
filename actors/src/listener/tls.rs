//! Owns encryption on the way in: an endpoint's certificate, read anew when its files change, and the handshake.
//! It never ends a connection that stands, and never serves a certificate that does not fit its key.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    AlertDescription, CertificateError, Error, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use slog::{Logger, error, info};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Common;
use crate::{
    core::{
        datapoint::SAMPLE_BYTES_MAX,
        endpoint::TlsFiles,
        greeting::{Foreign, Greeting, PROXY_BEFORE_TLS, greeting},
    },
    expiry::{Expiry, Role},
    tls::{certificates, in_words, wrong},
};

/// How long a sender may take until data can come.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// The same while the daemon stops: who is in the middle of it may have metrics that nobody else has.
const HANDSHAKE_AT_STOP: Duration = Duration::from_secs(1);

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The first byte of a TLS handshake.
const HANDSHAKE_RECORD: u8 = 0x16;

/// Who we are on an endpoint, and who may come.
#[derive(Debug)]
pub struct Identity {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// When its certificates end.
    expiries: Vec<Expiry>,
    /// The files that it was read from.
    stamps: Vec<Stamp>,
    looked: Instant,
    /// What was said of files that do not fit, so that it is not said again.
    said: Option<String>,
}

/// What tells one content of a file from another: device, inode, size, and when it or its inode last changed.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with which file, by the name of its argument.
    pub fn read(files: &TlsFiles) -> Result<Self, String> {
        let stamps = stamps(files);
        let (config, expiries) = config(files)?;
        let current = Current { config, expiries, stamps, looked: Instant::now(), said: None };
        Ok(Self { files: files.clone(), current: Mutex::new(current) })
    }

    /// When the certificates end that senders meet, and those that theirs are signed with.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).expiries.clone()
    }

    /// What the next sender meets: read anew if the files have changed and fit, else what was there before.
    pub(super) async fn config(self: &Arc<Self>, log: &Logger) -> Arc<ServerConfig> {
        let (config, is_due) = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = current.looked.elapsed() >= LOOK_EVERY;
            if is_due {
                current.looked = Instant::now();
            }
            (current.config.clone(), is_due)
        };
        if !is_due {
            return config;
        }
        let (identity, log) = (self.clone(), log.clone());
        // Where a slow disk holds up nobody else.
        actix_rt::task::spawn_blocking(move || identity.look(&log)).await.unwrap_or(config)
    }

    fn look(&self, log: &Logger) -> Arc<ServerConfig> {
        // Before the files are read: what is written meanwhile is seen at the next look.
        let stamps = stamps(&self.files);
        let is_known = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.said.is_none() && current.stamps == stamps
        };
        let read = if is_known { None } else { Some(config(&self.files)) };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            None => {}
            Some(Ok((config, expiries))) => {
                if current.stamps != stamps {
                    info!(log, "the certificate was read again: new connections get it";
                        "certKey" => self.files.cert_key.display().to_string());
                }
                *current = Current { config, expiries, stamps, looked: current.looked, said: None };
            }
            Some(Err(why)) => {
                if current.said.as_ref() != Some(&why) {
                    error!(log, "the certificate's files have changed and do not fit: the one that was read before is \
                                 used on, and they are looked at again until they do"; "cause" => &why);
                }
                current.said = Some(why);
            }
        }
        current.config.clone()
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
    };
    let TlsFiles { private_key, cert_key, ca_certs } = files;
    [Some(private_key), Some(cert_key), ca_certs.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| stamp(path))
        .collect()
}

fn config(files: &TlsFiles) -> Result<(Arc<ServerConfig>, Vec<Expiry>), String> {
    let TlsFiles { private_key, cert_key, ca_certs } = files;
    let mut expiries = Vec::new();
    // Named here, so that nothing depends on what else in the process may have set as its default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?;
    let builder = match ca_certs {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let certificates = certificates("caCerts", path)?;
            expiries.extend(Expiry::of(Role::EndpointCa, path, &certificates));
            for certificate in certificates {
                roots.add(certificate).map_err(|error| wrong("caCerts", path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder
                .with_client_cert_verifier(verifier.build().map_err(|error| wrong("caCerts", path, error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = certificates("certKey", cert_key)?;
    expiries.extend(Expiry::of(Role::Endpoint, cert_key, &chain));
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|error| wrong("privateKey", private_key, in_words(&error)))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            wrong("privateKey", private_key, "is not the key of certKey's certificate")
        }
        error => wrong("certKey", cert_key, error),
    })?;
    // A sender that only ever writes never reads a ticket. Closed with one unread, its socket resets the connection,
    // and what we had not read by then would be lost.
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), expiries))
}

/// Why a sender is turned away.
#[derive(Debug)]
pub(super) struct Failed {
    /// In words for an operator.
    pub(super) cause: String,
    /// What came first, if it was no TLS.
    pub(super) sample: Vec<u8>,
}

/// The handshake with a sender; nothing if it went away without a word, as who only looks whether a port is open does.
pub(super) async fn handshake(
    stream: TcpStream,
    identity: &Arc<Identity>,
    common: &Common,
) -> Result<Option<TlsStream<TcpStream>>, Failed> {
    let mut stop = common.stop.clone();
    let patience = async {
        let stopped = async {
            // The sender of this channel lives as long as the daemon.
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(HANDSHAKE_AT_STOP).await;
        };
        // Either way the time is up.
        let _ = tokio::time::timeout(HANDSHAKE_MAX, stopped).await;
    };
    tokio::select! {
        accepted = accept(stream, identity, &common.log) => accepted,
        () = patience => {
            let cause = format!("the sender did not end the TLS handshake within {} s", HANDSHAKE_MAX.as_secs());
            Err(Failed { cause, sample: Vec::new() })
        }
    }
}

async fn accept(
    stream: TcpStream,
    identity: &Arc<Identity>,
    log: &Logger,
) -> Result<Option<TlsStream<TcpStream>>, Failed> {
    let mut first = [0; SAMPLE_BYTES_MAX];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Ok(None),
        Ok(length) if first.first() != Some(&HANDSHAKE_RECORD) => {
            let cause = match greeting(first.get(..length).unwrap_or_default(), true) {
                Greeting::Foreign(foreign @ (Foreign::Http | Foreign::Ssh)) => foreign.advice(),
                Greeting::Proxy(_) => PROXY_BEFORE_TLS,
                _ => {
                    "the sender speaks no TLS, but this endpoint nothing else: let it use TLS, or write tcp: for tls:"
                }
            };
            return Err(Failed {
                cause: cause.to_owned(),
                sample: first.get(..length).unwrap_or_default().to_vec(),
            });
        }
        Ok(_) => {}
    }
    let acceptor = TlsAcceptor::from(identity.config(log).await);
    let failed = |error| Failed { cause: explain(&error), sample: Vec::new() };
    acceptor.accept(stream).await.map(Some).map_err(failed)
}

/// Why a handshake failed, in words for an operator, with the argument that mends it where there is one.
fn explain(error: &io::Error) -> String {
    use AlertDescription as Alert;
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the sender closed in the middle of the TLS handshake".to_owned(),
            _ => format!("the sender went away in the TLS handshake: {error}"),
        };
    };
    match tls {
        Error::NoCertificatesPresented => {
            "the sender showed no certificate: caCerts= asks for one".to_owned()
        }
        Error::InvalidCertificate(certificate) => match certificate {
            // The latter where two authorities have the same name, as an old one and the new.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the sender's certificate is signed by nobody in the file of caCerts=".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the sender's certificate has expired, or the clock of this host is wrong".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the sender's certificate is not valid yet, or the clock of this host is wrong".to_owned()
            }
            other => format!("the sender's certificate is not valid: {other}"),
        },
        Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::DecryptError),
        ) => format!("the sender does not trust the certificate of certKey= ({alert:?})"),
        Error::PeerIncompatible(_) => {
            format!("the sender's TLS has nothing in common with 1.2 or 1.3: {tls}")
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}
