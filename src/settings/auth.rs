//! Owns what the settings of credentials and certificates must agree on, and what they come to for Keystone and TLS.
//! Never keeps a key longer than it is looked at.

use std::path::Path;

use actors::core::keystone::{Account, Named};
use actors::keystone_auth::KeySource;
use actors::tls;
use zeroize::Zeroizing;

use super::sources::{COMMAND_LINE_ORIGIN, DEFAULT_ORIGIN};
use super::{AuthType, Effective, Settings, Surroundings};

impl Settings {
    /// Who asks Keystone for a token, and with which key; nothing if nobody does.
    pub fn credentials(&self) -> Option<(Account, KeySource)> {
        if self.user.is_empty() {
            return None;
        }
        let user = self.user.clone();
        let account = match self.auth_type {
            AuthType::ApiKey => Account::ApiKey { user },
            AuthType::Password => Account::Password { user },
            AuthType::V3Password => Account::V3Password {
                user: Named::read(&user),
                project: Named::read(&self.auth_project),
                domain: Named::read_domain(&self.auth_domain),
            },
            AuthType::V3ApplicationCredential => Account::V3ApplicationCredential { id: user },
        };
        let key = match &self.key_file {
            Some(path) => KeySource::File(path.clone()),
            None => KeySource::Fixed(self.key.clone()),
        };
        Some((account, key))
    }

    /// Whom we trust, and who we are, on every connection that we open.
    pub fn tls(&self) -> tls::Options {
        let identity = self.cert_file.clone().zip(self.private_key_file.clone());
        tls::Options {
            ca_file: self.ca_file.clone(),
            identity: identity
                .map(|(cert_file, private_key_file)| tls::Identity { cert_file, private_key_file }),
            insecure: self.insecure,
            plain: !self.uses_tls(),
        }
    }

    /// Whether any connection that we open is encrypted.
    pub fn uses_tls(&self) -> bool {
        is_https(&self.blueflood) || (!self.user.is_empty() && is_https(&self.auth_url))
    }

    /// What can't work, each with the setting that is at fault.
    pub(super) fn auth_problems(&self) -> impl Iterator<Item = (&'static str, String)> {
        let authenticates = !self.user.is_empty();
        let (has_key, has_file) = (!self.key.reveal().is_empty(), self.key_file.is_some());
        let is_v3 = matches!(self.auth_type, AuthType::V3Password | AuthType::V3ApplicationCredential);
        let path_ends_in = |ends: &[&str]| ends.iter().any(|end| self.auth_url.ends_with(end));
        [
            (
                authenticates && !has_key && !has_file,
                "key",
                "is empty, but user is set: write it into a file, and name that by key_file",
            ),
            (has_key && has_file, "key_file", "is set, and so is key: leave one of them out"),
            (
                authenticates && self.auth_type == AuthType::V3Password && self.auth_project.is_empty(),
                "auth_project",
                "is empty: write the project that the token is to be for, which v3password needs",
            ),
            (
                authenticates && self.auth_type == AuthType::V3Password && self.auth_domain.is_empty(),
                "auth_domain",
                "is empty: write default, or the domain of user and project",
            ),
            (
                authenticates && is_v3 && path_ends_in(&["/v2.0", "/v2.0/tokens"]),
                "auth_url",
                "is version 2.0's, but auth_type is version 3's: write Keystone's, for example \
                 https://keystone.example.com:5000/v3",
            ),
            (
                authenticates && !is_v3 && path_ends_in(&["/v3", "/v3/auth/tokens"]),
                "auth_url",
                "is version 3's, but auth_type is version 2.0's: set auth_type to v3password or \
                 v3applicationcredential",
            ),
            (
                self.cert_file.is_some() && self.private_key_file.is_none(),
                "private_key_file",
                "is empty: write the file with the private key of cert_file's certificate",
            ),
            (
                self.cert_file.is_none() && self.private_key_file.is_some(),
                "cert_file",
                "is empty: write the file with the certificate of private_key_file's key",
            ),
        ]
        .into_iter()
        .filter(|(wrong, ..)| *wrong)
        .map(|(_, key, why)| (key, why.to_owned()))
    }

    /// What is allowed, and leaves a key where others may find it, or is probably not meant.
    pub(super) fn auth_doubts(&self, effective: &[Effective], around: &Surroundings<'_>) -> Vec<String> {
        let mut doubts = Vec::new();
        let origin = |key: &str| {
            effective
                .iter()
                .find(|entry| entry.setting.key == key)
                .map_or(DEFAULT_ORIGIN, |entry| &entry.origin)
        };
        let (key_origin, key_file_origin) = (origin("key"), origin("key_file"));
        let has_key = !self.key.reveal().is_empty();
        if self.user.is_empty() {
            let has_file = self.key_file.is_some() && !key_file_origin.starts_with(DEFAULT_ORIGIN);
            let set = [(has_key, "key"), (has_file, "key_file")];
            let set = set.into_iter().filter(|(is_set, _)| *is_set);
            doubts.extend(
                set.map(|(_, key)| format!("{key} is set but user is empty: no authentication is done")),
            );
        }
        // The arguments of a process can be overwritten, but not without unsafe code.
        if has_key && key_origin == COMMAND_LINE_ORIGIN {
            doubts.push(
                "key stands on the command line, where everyone on this host can read it: write it into a file, and \
                 name that by key_file"
                    .to_owned(),
            );
        }
        if let Some(file) = key_origin.strip_prefix("file ")
            && has_key
            && (around.others_can_read)(Path::new(file))
        {
            doubts.push(format!(
                "key stands in {file}, which everyone on this host can read: chmod o-r {file}"
            ));
        }
        if let Some(file) = self.key_file.as_deref().filter(|_| !self.user.is_empty()) {
            let shown = file.display();
            if let Err(error) = (around.read_file)(file).map(Zeroizing::new) {
                doubts.push(format!(
                    "key_file {shown} can't be read: {error}. It is tried again for every token"
                ));
            } else if (around.others_can_read)(file) {
                doubts.push(format!(
                    "key_file {shown} can be read by everyone on this host: chmod o-r {shown}"
                ));
            }
        }
        if self.insecure {
            doubts.push(
                "INSECURE: whoever answers https is trusted, with the key and every metric. Leave insecure out, and \
                 name who signed their certificate by ca_file"
                    .to_owned(),
            );
        }
        if !self.user.is_empty() && !is_https(&self.auth_url) && !is_this_host(&self.auth_url) {
            doubts.push(format!("auth_url {} is not https: the key is sent for all to read", self.auth_url));
        }
        doubts
    }
}

fn is_https(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

fn is_this_host(url: &str) -> bool {
    let authority = url.split('/').nth(2).unwrap_or_default();
    ["localhost", "127.", "[::1]"].iter().any(|host| authority.starts_with(host))
}
