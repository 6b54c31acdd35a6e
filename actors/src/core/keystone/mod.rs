//! Owns Keystone's contract in its two versions: what a token is asked for with, and what each answer means.
//! It never decides when to ask; that is [`renewal`].
//!
//! Version 3 was asked of a real Keystone 30.0.0 (`actors/contract/keystone.md`, "Identity v3"); version 2.0, of which no
//! server can be had, was read from the original's client library (`actors/contract/keystone.md`, "Identity v2.0") and
//! OpenStack's reference of the API.

pub mod renewal;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::secret::Secret;

/// The longest token that is taken. Those of Keystone 30 have about 200 bytes, signed ones had up to 8 KiB.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// The longest tenant that is taken.
const TENANT_BYTES_MAX: usize = 255;

/// The life of a token whose expiry cannot be read or is over already, as it is where the two clocks disagree.
pub const LIFE_ASSUMED: Duration = Duration::from_secs(300);

/// Keystone cuts the times that it gives to whole seconds (seen): the end comes so much sooner than they say.
const LIFE_CUT: Duration = Duration::from_secs(1);

/// A shorter life is taken for this one, or Keystone would be asked without a pause.
pub const LIFE_MIN: Duration = Duration::from_secs(5);

/// A longer life is taken for this one: a token is renewed at least once a day.
pub const LIFE_MAX: Duration = Duration::from_secs(86_400);

/// The most words of Keystone's that are repeated, in characters.
const WORDS_MAX: usize = 200;

/// Who asks for a token. The key comes beside it, for it may change at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// Version 2.0, Rackspace's extension: the original's only way.
    ApiKey {
        /// The user's name.
        user: String,
    },
    /// Version 2.0, the user's password.
    Password {
        /// The user's name.
        user: String,
    },
    /// Version 3, the user's password, for a token of a project.
    V3Password {
        /// The user.
        user: Named,
        /// Whose token it is to be.
        project: Named,
        /// The domain of both, where they are given by name.
        domain: Named,
    },
    /// Version 3, an application credential, which knows its user and project.
    V3ApplicationCredential {
        /// Its id.
        id: String,
    },
}

/// Something of Keystone's, by its id or by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Named {
    /// An id: unique by itself.
    Id(String),
    /// A name: unique in a domain.
    Name(String),
}

impl Named {
    /// `id:x` and `name:x` say what they are. Otherwise what looks like one of Keystone's own ids (32 hexadecimal
    /// digits, 64 for a user of LDAP) is one, and all else is a name.
    pub fn read(text: &str) -> Self {
        let is_id = matches!(text.len(), 32 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text.split_once(':') {
            Some(("id", id)) => Self::Id(id.to_owned()),
            Some(("name", name)) => Self::Name(name.to_owned()),
            _ if is_id => Self::Id(text.to_owned()),
            _ => Self::Name(text.to_owned()),
        }
    }

    /// As [`Named::read`]; besides, `default` is the id of the domain that every Keystone begins with.
    pub fn read_domain(text: &str) -> Self {
        if text == "default" { Self::Id(text.to_owned()) } else { Self::read(text) }
    }

    fn is_name(&self) -> bool {
        matches!(self, Self::Name(_))
    }
}

/// A request for a token: a POST.
#[derive(Debug)]
pub struct Request {
    /// Where it goes.
    pub url: String,
    /// What it says. It holds the key.
    pub body: Zeroizing<Vec<u8>>,
}

/// The only type of a body that Keystone takes.
pub const CONTENT_TYPE: &str = "application/json";

/// The header in which version 3 answers with the token.
pub const SUBJECT_TOKEN: &str = "x-subject-token";

impl Account {
    /// What to send, to a Keystone at `auth_url` with or without the parts of the path that are always the same, as
    /// OpenStack's own clients take it.
    ///
    /// # Errors
    /// A body that cannot be written as JSON, which does not happen with text.
    pub fn request(&self, auth_url: &str, key: &Secret) -> Result<Request, String> {
        let key = key.reveal();
        let auth = match self {
            Self::ApiKey { user } => Auth::ApiKey { username: user, key },
            Self::Password { user } => Auth::Password { username: user, password: key },
            Self::V3Password { user, project, domain } => Auth::V3 {
                identity: Identity::Password {
                    methods: ["password"],
                    password: ByPassword { user: User { user: Scoped::new(user, domain), password: key } },
                },
                scope: Some(Scope { project: Scoped::new(project, domain) }),
            },
            Self::V3ApplicationCredential { id } => Auth::V3 {
                identity: Identity::ApplicationCredential {
                    methods: ["application_credential"],
                    application_credential: ByCredential { id, secret: key },
                },
                scope: None,
            },
        };
        // Large enough for the key with every byte of it escaped, so that growing leaves no copy of it behind.
        let mut body = Zeroizing::new(Vec::with_capacity(key.len().saturating_mul(6).saturating_add(4096)));
        serde_json::to_writer(&mut *body, &Body { auth }).map_err(|error| error.to_string())?;
        Ok(Request { url: self.url(auth_url), body })
    }

    fn url(&self, auth_url: &str) -> String {
        let base = auth_url.trim_end_matches('/');
        match self {
            // The original's setting is the whole URL.
            Self::ApiKey { .. } | Self::Password { .. } if base.ends_with("/v2.0") => {
                format!("{base}/tokens")
            }
            Self::ApiKey { .. } | Self::Password { .. } => base.to_owned(),
            _ if base.ends_with("/auth/tokens") => base.to_owned(),
            _ if base.ends_with("/v3") => format!("{base}/auth/tokens"),
            _ => format!("{base}/v3/auth/tokens"),
        }
    }

    /// What an answer means. No word of it that is passed on has the key in it.
    pub fn classify(&self, answer: &Answer<'_>, key: &Secret) -> Verdict {
        let grant = match (self, answer.status) {
            (Self::ApiKey { .. } | Self::Password { .. }, 200 | 201 | 203) => answer.grant_of_v2(),
            (Self::V3Password { .. } | Self::V3ApplicationCredential { .. }, 200 | 201) => {
                answer.grant_of_v3()
            }
            (_, 300..=399 | 404 | 405) => {
                let words = key.hide_in(&answer.words());
                return Verdict::Failed(format!("{words} (is auth_url right?)"));
            }
            (_, 401 | 403) => return Verdict::Refused(key.hide_in(&answer.words())),
            _ => return Verdict::Failed(key.hide_in(&answer.words())),
        };
        match grant {
            Ok(grant) => Verdict::Granted(grant),
            Err(why) => Verdict::Failed(format!("HTTP {}, but {why}", answer.status)),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    auth: Auth<'a>,
}

#[derive(Serialize)]
enum Auth<'a> {
    #[serde(rename = "RAX-KSKEY:apiKeyCredentials")]
    ApiKey {
        username: &'a str,
        #[serde(rename = "apiKey")]
        key: &'a str,
    },
    #[serde(rename = "passwordCredentials")]
    Password { username: &'a str, password: &'a str },
    #[serde(untagged)]
    V3 {
        identity: Identity<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        scope: Option<Scope<'a>>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Identity<'a> {
    Password { methods: [&'static str; 1], password: ByPassword<'a> },
    ApplicationCredential { methods: [&'static str; 1], application_credential: ByCredential<'a> },
}

#[derive(Serialize)]
struct ByPassword<'a> {
    user: User<'a>,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(flatten)]
    user: Scoped<'a>,
    password: &'a str,
}

#[derive(Serialize)]
struct ByCredential<'a> {
    id: &'a str,
    secret: &'a str,
}

#[derive(Serialize)]
struct Scope<'a> {
    project: Scoped<'a>,
}

/// A name with the domain in which it is unique; an id needs none.
#[derive(Serialize)]
struct Scoped<'a> {
    #[serde(flatten)]
    named: &'a Named,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a Named>,
}

impl<'a> Scoped<'a> {
    fn new(named: &'a Named, domain: &'a Named) -> Self {
        Self { named, domain: named.is_name().then_some(domain) }
    }
}

/// An answer as it came.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The header [`SUBJECT_TOKEN`].
    pub subject_token: Option<&'a [u8]>,
    /// The body, or as much of it as came within the bound of who read it.
    pub body: &'a [u8],
    /// Our clock, to which an expiry is compared where the answer does not say when it was given.
    pub now: SystemTime,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Here it is.
    Granted(Grant),
    /// The credentials are wrong: nothing will pass until somebody changes them.
    Refused(String),
    /// A failure that may pass by itself.
    Failed(String),
}

/// A token that Keystone gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token: text that can stand in a header.
    pub token: Secret,
    /// Version 2.0's tenant of the token, which the original sends with every request: text that can stand in a
    /// header.
    pub tenant_id: Option<String>,
    /// How long it can be used from now, between [`LIFE_MIN`] and [`LIFE_MAX`].
    pub life: Duration,
}

impl Answer<'_> {
    fn grant_of_v2(&self) -> Result<Grant, String> {
        #[derive(Deserialize)]
        struct Body {
            access: Access,
        }
        #[derive(Deserialize)]
        struct Access {
            token: Token,
        }
        #[derive(Deserialize)]
        struct Token {
            id: Secret,
            #[serde(default)]
            expires: Value,
            #[serde(default)]
            tenant: Value,
        }
        let Body { access: Access { token } } =
            serde_json::from_slice(self.body).map_err(|_| "no token is in its body".to_owned())?;
        let tenant_id = match token.tenant.get("id") {
            Some(Value::String(id)) => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        Ok(Grant {
            token: header_text(token.id)?,
            tenant_id: tenant_id.filter(|id| is_header_text(id, TENANT_BYTES_MAX)),
            life: life(self.now.into(), moment(&token.expires)),
        })
    }

    fn grant_of_v3(&self) -> Result<Grant, String> {
        #[derive(Deserialize, Default)]
        struct Body {
            #[serde(default)]
            token: Token,
        }
        #[derive(Deserialize, Default)]
        struct Token {
            #[serde(default)]
            issued_at: Value,
            #[serde(default)]
            expires_at: Value,
        }
        let token = self.subject_token.ok_or("there is no header X-Subject-Token")?;
        let token = std::str::from_utf8(token).map_err(|_| NO_HEADER_TEXT)?;
        // The token is all that must be there: what cannot be read of its times is assumed.
        let Body { token: times } = serde_json::from_slice(self.body).unwrap_or_default();
        // Both times are Keystone's, so that it does not matter what our clock says.
        let issued = moment(&times.issued_at).unwrap_or_else(|| self.now.into());
        Ok(Grant {
            token: header_text(Secret::new(token.to_owned()))?,
            tenant_id: None,
            life: life(issued, moment(&times.expires_at)),
        })
    }

    /// The status and Keystone's own words, in one line that is safe in a log. A body that is none of Keystone's is
    /// not repeated.
    fn words(&self) -> String {
        let message = serde_json::from_slice::<Value>(self.body).ok().and_then(|body| {
            // Version 3 has it under "error", version 2.0 under the name of the error.
            let error = body.as_object()?.values().next()?;
            Some(error.get("message")?.as_str()?.to_owned())
        });
        let message = message.unwrap_or_default();
        let one_line = message.chars().map(|c| if c.is_control() { ' ' } else { c });
        let words: String = one_line.take(WORDS_MAX).collect();
        match words.trim() {
            "" => format!("HTTP {}", self.status),
            words => format!("HTTP {}: {words}", self.status),
        }
    }
}

const NO_HEADER_TEXT: &str = "its token cannot stand in a header";

fn header_text(token: Secret) -> Result<Secret, String> {
    if is_header_text(token.reveal(), TOKEN_BYTES_MAX) { Ok(token) } else { Err(NO_HEADER_TEXT.to_owned()) }
}

/// Whether a text can be sent as a header's whole value, and is not longer than `bytes_max`.
fn is_header_text(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A time in ISO 8601 as Keystone writes it: with `Z` or an offset, with fractions of a second or without.
fn moment(text: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text.as_str()?, &Rfc3339).ok()
}

/// From one moment to the other, within bounds: an answer is believed only so far as to ask Keystone again between
/// [`LIFE_MIN`] and [`LIFE_MAX`] from now.
fn life(from: OffsetDateTime, expires: Option<OffsetDateTime>) -> Duration {
    let life = expires.and_then(|expires| Duration::try_from(expires - from).ok());
    let life = life.filter(|life| !life.is_zero()).unwrap_or(LIFE_ASSUMED);
    life.saturating_sub(LIFE_CUT).clamp(LIFE_MIN, LIFE_MAX)
}
