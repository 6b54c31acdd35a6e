//! Owns when the certificates end that settings name: what is shown of it, and when it is time to renew one. It never reads
//! a file, and knows nothing of the system's roots.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use crate::core::human::{clock, span};

/// A certificate that ends within this time is warned of.
pub const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What a file of certificates is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Who we are at an endpoint.
    Endpoint,
    /// Who signs those of senders.
    EndpointCa,
    /// Who we are on the way out.
    Client,
    /// Who signs those of Blueflood and Keystone, besides the system's roots.
    Ca,
}

impl Role {
    /// Its name in the figures.
    pub const fn label(self) -> &'static str {
        match self {
            Role::Endpoint => "endpoint",
            Role::EndpointCa => "endpoint_ca",
            Role::Client => "client",
            Role::Ca => "ca",
        }
    }

    /// The setting that names the file.
    pub const fn setting(self) -> &'static str {
        match self {
            Role::Endpoint => "certKey",
            Role::EndpointCa => "caCerts",
            Role::Client => "cert_file",
            Role::Ca => "ca_file",
        }
    }
}

/// When the first certificate of a file ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// What the file is for.
    pub role: Role,
    /// The file.
    pub file: PathBuf,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl Expiry {
    /// Of the certificates in a file. Those that cannot be read are passed over: TLS itself judges them.
    pub fn of(role: Role, file: &Path, certificates: &[CertificateDer<'_>]) -> Option<Self> {
        let end = |certificate: &CertificateDer<'_>| {
            let (_, certificate) = parse_x509_certificate(certificate).ok()?;
            // One that ended before 1970 has ended.
            Some(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0))
        };
        let at = certificates.iter().filter_map(end).min()?;
        Some(Self { role, file: file.to_owned(), at })
    }

    /// Whether it is time to renew it, or past that.
    pub fn is_soon(&self, now: u64) -> bool {
        self.at.saturating_sub(now) < SOON.as_secs()
    }

    /// When it ends, for people.
    pub fn words(&self, now: u64) -> String {
        let Self { role, file, at } = self;
        let ends = match at.checked_sub(now) {
            Some(left) => format!("expires in {}", span(left)),
            None => format!("has expired {} ago", span(now.saturating_sub(*at))),
        };
        let date = clock(at.saturating_mul(1_000), now.saturating_mul(1_000));
        format!("the certificate of {} {} {ends} ({date})", role.setting(), file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_soon_from_fourteen_days_before_the_end_and_said_with_its_date() {
        let end = 1_795_746_720;
        let expiry = Expiry { role: Role::Endpoint, file: "/etc/c.pem".into(), at: end };
        let day = 86_400;
        assert!(!expiry.is_soon(end - 14 * day) && expiry.is_soon(end - 14 * day + 1));
        assert!(expiry.is_soon(end) && expiry.is_soon(end + day));
        assert_eq!(
            expiry.words(end - 20 * day),
            "the certificate of certKey /etc/c.pem expires in 20 days (2026-11-27 02:32 UTC)"
        );
        assert!(expiry.words(end + 3 * day).contains("has expired 3 days ago"));
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let garbage = [CertificateDer::from(b"\x30\x82\xff\xff".to_vec()), CertificateDer::from(Vec::new())];
        assert_eq!(Expiry::of(Role::Ca, Path::new("/c"), &garbage), None);
        assert_eq!(Expiry::of(Role::Ca, Path::new("/c"), &[]), None);
    }
}
