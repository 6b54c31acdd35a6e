//! Owns the syntax of endpoint strings, Twisted's as the original took them: `tcp:2004`, `unix:/run/x.sock:mode=660`.
//! Never opens a socket or looks a name up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::networks::Networks;
use super::protocol::Protocol;

/// How many connections the kernel may hold for us before we accept them. Twisted's default is 50: when a relay comes
/// back and a hundred senders connect at once, the rest would wait for a SYN to be sent again, a second or three. The
/// kernel cuts the number to its own `net.core.somaxconn`.
pub const BACKLOG_DEFAULT: u32 = 1024;

/// The permissions of a unix socket's file unless `mode=` says otherwise: Twisted's default.
const MODE_DEFAULT: u32 = 0o666;

/// A place where metrics come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The socket to bind.
    pub transport: Transport,
    /// What is spoken there, if it was said; see [`Protocol::chosen`].
    pub protocol: Option<Protocol>,
    /// Who may send there.
    pub allow: Networks,
}

/// The files of an encrypted endpoint, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `privateKey=`.
    pub private_key: PathBuf,
    /// `certKey=`: our certificate, and those between it and a root. As Twisted has it, without one it stands in the
    /// file of the private key.
    pub cert_key: PathBuf,
    /// `caCerts=`: who signs the certificates that senders must show; without it they need none.
    pub ca_certs: Option<PathBuf>,
}

/// A socket to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A TCP port.
    Tcp {
        /// The address to bind; port 0 lets the kernel choose.
        address: SocketAddr,
        /// Connections that may wait to be accepted.
        backlog: u32,
    },
    /// A TCP port that speaks TLS and nothing else.
    Tls {
        /// The address to bind; port 0 lets the kernel choose.
        address: SocketAddr,
        /// Connections that may wait to be accepted.
        backlog: u32,
        /// Who we are there, and who may come.
        files: TlsFiles,
    },
    /// A UDP port: each datagram holds whole lines.
    Udp {
        /// The address to bind; port 0 lets the kernel choose.
        address: SocketAddr,
    },
    /// A unix stream socket.
    Unix {
        /// Where its file is made.
        path: PathBuf,
        /// The file's permissions, as `chmod` takes them.
        mode: u32,
        /// Connections that may wait to be accepted.
        backlog: u32,
    },
    /// A socket that systemd bound for us.
    Systemd {
        /// What it is said to be.
        domain: SystemdDomain,
        /// Its place among those that systemd passed.
        index: u32,
    },
}

/// The kind of a socket that systemd bound. Twisted had to be told; here a wrong one of the first two does no harm,
/// since `ListenStream=2004` makes an IPv6 socket that takes IPv4 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemdDomain {
    /// TCP or UDP over IPv4.
    Inet,
    /// TCP or UDP over IPv6.
    Inet6,
    /// A unix stream socket.
    Unix,
}

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `kind:argument:...:name=value`, a backslash before a character meaning the character itself.
    ///
    /// # Errors
    /// One sentence for an operator: what is wrong, and what to write.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut arguments = Arguments::split(text)?;
        let transport = match arguments.kind.as_str() {
            "tcp" => {
                let address = arguments.address(Ipv4Addr::UNSPECIFIED.into())?;
                Transport::Tcp { address, backlog: arguments.backlog()? }
            }
            "tcp6" => match arguments.address(Ipv6Addr::UNSPECIFIED.into())? {
                address @ SocketAddr::V6(_) => Transport::Tcp { address, backlog: arguments.backlog()? },
                SocketAddr::V4(v4) => {
                    return Err(format!("{} is no IPv6 address: write tcp:{}", v4.ip(), v4.port()));
                }
            },
            "udp" => Transport::Udp { address: arguments.address(Ipv4Addr::UNSPECIFIED.into())? },
            "unix" => Transport::Unix {
                path: arguments.path()?,
                mode: arguments.mode()?,
                backlog: arguments.backlog()?,
            },
            "tls" | "ssl" => Transport::Tls {
                address: arguments.address(Ipv4Addr::UNSPECIFIED.into())?,
                backlog: arguments.backlog()?,
                files: arguments.tls_files()?,
            },
            "systemd" => Transport::Systemd { domain: arguments.domain()?, index: arguments.index()? },
            port if port.parse::<u16>().is_ok() => return Err(format!("a bare port: write tcp:{port}")),
            kind => {
                return Err(format!(
                    "{kind:?} is no kind of endpoint: write tcp:, tcp6:, tls:, udp:, unix: or systemd:"
                ));
            }
        };
        let allow = match &transport {
            // Who may open its file is said by mode=, so that allow= is refused with the rest that means nothing.
            Transport::Unix { .. } | Transport::Systemd { domain: SystemdDomain::Unix, .. } => {
                Networks::default()
            }
            _ => arguments.take("allow").map(|text| text.parse()).transpose()?.unwrap_or_default(),
        };
        let protocol = arguments.take("protocol").map(|name| name.parse()).transpose()?;
        Protocol::chosen(protocol, Protocol::Line, matches!(transport, Transport::Udp { .. }))
            .ok_or("datagrams carry lines only: leave protocol out, or use tcp: for pickle")?;
        arguments.finish()?;
        Ok(Self { transport, protocol, allow })
    }
}

/// The canonical form: what is the default is left out. Reads back as the same endpoint.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Tcp { address, backlog } => {
                let kind = if address.is_ipv4() { "tcp" } else { "tcp6" };
                write_address(f, kind, address, address.ip().is_unspecified())?;
                write_backlog(f, *backlog)?;
            }
            Transport::Tls { address, backlog, files: TlsFiles { private_key, cert_key, ca_certs } } => {
                write_address(f, "tls", address, address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
                let mut file = |name, path: &Path| write!(f, ":{name}={}", escape(&path.to_string_lossy()));
                file("privateKey", private_key)?;
                if cert_key != private_key {
                    file("certKey", cert_key)?;
                }
                ca_certs.as_deref().map_or(Ok(()), |path| file("caCerts", path))?;
                write_backlog(f, *backlog)?;
            }
            // There is no udp6: the family is told by the interface, so an IPv6 wildcard must be written.
            Transport::Udp { address } => {
                write_address(f, "udp", address, address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
            }
            Transport::Unix { path, mode, backlog } => {
                write!(f, "unix:{}", escape(&path.to_string_lossy()))?;
                if *mode != MODE_DEFAULT {
                    write!(f, ":mode={mode:o}")?;
                }
                write_backlog(f, *backlog)?;
            }
            Transport::Systemd { domain, index } => {
                let domain = match domain {
                    SystemdDomain::Inet => "INET",
                    SystemdDomain::Inet6 => "INET6",
                    SystemdDomain::Unix => "UNIX",
                };
                write!(f, "systemd:domain={domain}:index={index}")?;
            }
        }
        if !self.allow.is_everyone() {
            write!(f, ":allow={}", escape(&self.allow.to_string()))?;
        }
        self.protocol.map_or(Ok(()), |protocol| write!(f, ":protocol={protocol}"))
    }
}

fn write_address(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    address: &SocketAddr,
    everywhere: bool,
) -> fmt::Result {
    write!(f, "{kind}:{}", address.port())?;
    if everywhere { Ok(()) } else { write!(f, ":interface={}", escape(&address.ip().to_string())) }
}

fn write_backlog(f: &mut fmt::Formatter<'_>, backlog: u32) -> fmt::Result {
    if backlog == BACKLOG_DEFAULT { Ok(()) } else { write!(f, ":backlog={backlog}") }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\\' | ':' | '=') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// An endpoint string cut at its colons. What is taken is removed, so what is left at the end was not understood.
struct Arguments {
    kind: String,
    positional: Vec<String>,
    named: Vec<(String, String)>,
}

impl Arguments {
    fn split(text: &str) -> Result<Self, String> {
        let mut fields = vec![Field::default()];
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let Some(field) = fields.last_mut() else { break };
            match character {
                '\\' => {
                    field.text.push(characters.next().ok_or("ends in a lone backslash: write \\\\ for one")?)
                }
                ':' => fields.push(Field::default()),
                // Only the first one: Twisted would cut `a=b=c` in three and then fail.
                '=' if field.name.is_none() => field.name = Some(std::mem::take(&mut field.text)),
                _ => field.text.push(character),
            }
        }
        let mut fields = fields.into_iter();
        let kind = fields.next().unwrap_or_default().text;
        let mut arguments = Self { kind, positional: Vec::new(), named: Vec::new() };
        for Field { name, text } in fields {
            match name {
                None => arguments.positional.push(text),
                Some(name) if arguments.named.iter().any(|(known, _)| *known == name) => {
                    return Err(format!("{name}= is given twice"));
                }
                Some(name) => arguments.named.push((name, text)),
            }
        }
        Ok(arguments)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.named.iter().position(|(known, _)| known == name)?;
        Some(self.named.swap_remove(at).1)
    }

    /// The first argument may stand without its name: `tcp:2004` is `tcp:port=2004`.
    fn take_first(&mut self, name: &str, example: &str) -> Result<String, String> {
        let positional = (!self.positional.is_empty()).then(|| self.positional.remove(0));
        positional
            .or_else(|| self.take(name))
            .filter(|text| !text.is_empty())
            .ok_or_else(|| format!("has no {name}: write for example {example}"))
    }

    fn address(&mut self, everywhere: IpAddr) -> Result<SocketAddr, String> {
        let port = self.take_first("port", &format!("{}:2004", self.kind))?;
        let port =
            port.parse().map_err(|_| format!("{port:?} is no port: write a number from 0 to 65535"))?;
        let ip = match self.take("interface").as_deref() {
            None | Some("") => everywhere,
            Some("localhost") if everywhere.is_ipv6() => Ipv6Addr::LOCALHOST.into(),
            Some("localhost") => Ipv4Addr::LOCALHOST.into(),
            Some(ip) => ip.parse().map_err(|_| {
                format!("interface {ip:?} is no IP address: write for example 127.0.0.1, or \\:\\:1 for ::1")
            })?,
        };
        Ok(SocketAddr::new(ip, port))
    }

    fn path(&mut self) -> Result<PathBuf, String> {
        let path = self.take_first("address", "unix:/run/blueflood-forward/metrics.sock")?;
        if let Some(name) = path.strip_prefix('@') {
            return Err(format!(
                "{path:?} is how others name a socket without a file, for which mode= could not say who may send: write \
                 unix:/run/{name}, or unix:./{path} for a file of that name"
            ));
        }
        Ok(path.into())
    }

    fn tls_files(&mut self) -> Result<TlsFiles, String> {
        let mut file = |name| self.take(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let (private_key, cert_key, ca_certs) = (file("privateKey"), file("certKey"), file("caCerts"));
        let private_key = private_key.ok_or_else(|| {
            format!(
                "has no privateKey: write for example {}:2004:privateKey=key.pem:certKey=cert.pem",
                self.kind
            )
        })?;
        Ok(TlsFiles { cert_key: cert_key.unwrap_or_else(|| private_key.clone()), private_key, ca_certs })
    }

    fn domain(&mut self) -> Result<SystemdDomain, String> {
        match self.take_first("domain", "systemd:domain=INET:index=0")?.as_str() {
            "INET" => Ok(SystemdDomain::Inet),
            "INET6" => Ok(SystemdDomain::Inet6),
            "UNIX" => Ok(SystemdDomain::Unix),
            domain => Err(format!("domain {domain:?} is none of INET, INET6 and UNIX")),
        }
    }

    fn index(&mut self) -> Result<u32, String> {
        let index = self.take_first("index", "systemd:domain=INET:index=0")?;
        index.parse().map_err(|_| format!("index {index:?} is no number: the first socket is index=0"))
    }

    fn mode(&mut self) -> Result<u32, String> {
        let Some(mode) = self.take("mode") else { return Ok(MODE_DEFAULT) };
        match u32::from_str_radix(&mode, 8) {
            Ok(bits) if bits <= 0o777 => Ok(bits),
            _ => Err(format!("mode {mode:?} is no file mode: write octal digits, for example mode=660")),
        }
    }

    fn backlog(&mut self) -> Result<u32, String> {
        let Some(backlog) = self.take("backlog") else { return Ok(BACKLOG_DEFAULT) };
        match backlog.parse() {
            // `listen` takes a C int.
            Ok(count) if (1..=i32::MAX.unsigned_abs()).contains(&count) => Ok(count),
            _ => Err(format!("backlog {backlog:?} is no count: write for example backlog=100")),
        }
    }

    fn finish(self) -> Result<(), String> {
        if let Some((name, _)) = self.named.first() {
            return Err(match name.as_str() {
                "lockfile" => {
                    "lockfile= has no use here: a dead daemon's socket file is noticed without one".to_owned()
                }
                "extraCertChain" => {
                    "extraCertChain= is not read: append what is in that file to the file of certKey="
                        .to_owned()
                }
                "sslmethod" | "dhParameters" => {
                    format!("{name}= has no use here: TLS 1.2 and 1.3 are spoken, with safe keys")
                }
                "allow" => "allow= means nothing for unix: endpoints: mode= says who may send".to_owned(),
                _ => format!("{name}= means nothing for {}: endpoints", self.kind),
            });
        }
        match self.positional.first() {
            None => Ok(()),
            Some(text) => Err(format!(
                "{text:?} has no name: write it as name={text}, and a colon within a value as \\:"
            )),
        }
    }
}

/// What stands between two colons.
#[derive(Default)]
struct Field {
    name: Option<String>,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(address: &str, backlog: u32) -> Transport {
        Transport::Tcp { address: address.parse().unwrap(), backlog }
    }

    fn unix(path: &str, mode: u32) -> Transport {
        Transport::Unix { path: path.into(), mode, backlog: BACKLOG_DEFAULT }
    }

    fn tls(address: &str, private_key: &str, cert_key: &str, ca_certs: Option<&str>) -> Transport {
        let files = TlsFiles {
            private_key: private_key.into(),
            cert_key: cert_key.into(),
            ca_certs: ca_certs.map(PathBuf::from),
        };
        Transport::Tls { address: address.parse().unwrap(), backlog: BACKLOG_DEFAULT, files }
    }

    #[test]
    fn reads_what_the_original_took() {
        for (text, transport) in [
            ("tcp:2004", tcp("0.0.0.0:2004", BACKLOG_DEFAULT)),
            ("tcp:port=2004:interface=127.0.0.1:backlog=100", tcp("127.0.0.1:2004", 100)),
            ("tcp:2004:backlog=10", tcp("0.0.0.0:2004", 10)),
            ("tcp:2004:interface=localhost", tcp("127.0.0.1:2004", BACKLOG_DEFAULT)),
            ("tcp6:2004", tcp("[::]:2004", BACKLOG_DEFAULT)),
            (r"tcp6:2004:interface=\:\:1", tcp("[::1]:2004", BACKLOG_DEFAULT)),
            ("unix:/path", unix("/path", 0o666)),
            ("unix:/path:mode=660", unix("/path", 0o660)),
            (r"unix:/with\:colon", unix("/with:colon", 0o666)),
            ("unix:/with space", unix("/with space", 0o666)),
            ("udp:2003", Transport::Udp { address: "0.0.0.0:2003".parse().unwrap() }),
            (
                "ssl:2004:privateKey=k.pem:certKey=c.pem:interface=127.0.0.1",
                tls("127.0.0.1:2004", "k.pem", "c.pem", None),
            ),
            ("ssl:port=2004:privateKey=both.pem", tls("0.0.0.0:2004", "both.pem", "both.pem", None)),
            (
                r"tls:2004:privateKey=/a\:b:certKey=c:caCerts=ca.pem:interface=\:\:",
                tls("[::]:2004", "/a:b", "c", Some("ca.pem")),
            ),
            ("systemd:domain=INET:index=0", Transport::Systemd { domain: SystemdDomain::Inet, index: 0 }),
            ("systemd:UNIX:1", Transport::Systemd { domain: SystemdDomain::Unix, index: 1 }),
            ("systemd:INET6:index=2", Transport::Systemd { domain: SystemdDomain::Inet6, index: 2 }),
        ] {
            let allow = Networks::default();
            assert_eq!(text.parse(), Ok(Endpoint { transport, protocol: None, allow }), "{text}");
        }
    }

    #[test]
    fn a_protocol_may_be_said() {
        let said: Endpoint = "tcp:2003:protocol=line".parse().unwrap();
        assert_eq!(said.protocol, Some(Protocol::Line));
        let unsaid: Endpoint = "unix:/path".parse().unwrap();
        assert_eq!(unsaid.protocol, None);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        for (text, advice) in [
            ("2004", "write tcp:2004"),
            ("", "write tcp:, tcp6:, tls:, udp:, unix: or systemd:"),
            ("foo:2004", "write tcp:, tcp6:, tls:, udp:, unix: or systemd:"),
            ("tcp", "has no port: write for example tcp:2004"),
            ("tcp:", "has no port"),
            ("tcp:99999", "a number from 0 to 65535"),
            ("tcp:2004:interface=eth0", "is no IP address"),
            ("tcp:2004:interface=::1", "a colon within a value as \\:"),
            ("tcp6:2004:interface=127.0.0.1", "write tcp:2004"),
            ("tcp:2004:backlog=0", "backlog=100"),
            ("tcp:2004:baklog=10", "baklog= means nothing"),
            ("tcp:2004:backlog=1:backlog=2", "given twice"),
            ("tcp:2004\\", "lone backslash"),
            ("unix:", "has no address"),
            ("unix:@metrics", "write unix:/run/metrics, or unix:./@metrics for a file of that name"),
            ("unix:/path:mode=999", "octal"),
            ("unix:/path:mode=100000", "octal"),
            ("unix:/path:lockfile=0", "no use here"),
            ("udp:2003:protocol=pickle", "datagrams carry lines only"),
            ("tcp:2004:protocol=Nonsense", "pickle, line or auto"),
            ("ssl:2004", "write for example ssl:2004:privateKey=key.pem:certKey=cert.pem"),
            ("tls:2004:certKey=c.pem", "has no privateKey"),
            ("ssl:2004:privateKey=k.pem:sslmethod=SSLv3_METHOD", "TLS 1.2 and 1.3"),
            ("ssl:2004:privateKey=k.pem:extraCertChain=x.pem", "to the file of certKey="),
            ("tcp:2004:privateKey=k.pem", "privateKey= means nothing for tcp:"),
            ("tcp:2004:allow=10.0.0.0/33", "is no network"),
            ("unix:/path:allow=10.0.0.0/8", "mode= says who may send"),
            ("systemd:", "has no domain: write for example systemd:domain=INET:index=0"),
            ("systemd:domain=INET", "has no index"),
            ("systemd:domain=AX25:index=0", "none of INET, INET6 and UNIX"),
            ("systemd:domain=INET:index=one", "the first socket is index=0"),
            ("systemd:domain=INET:index=0:backlog=5", "backlog= means nothing"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(error.contains(advice), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in ".{0,40}") {
            let _ = text.parse::<Endpoint>();
        }

        #[test]
        fn what_is_written_reads_back(
            kind in 0..6u8, ip: IpAddr, v6: Ipv6Addr, port: u16, path in "/[ -~]{1,20}", mode in 0..=0o777u32,
            backlog in 1..5000u32, ca_certs in prop::option::of("[ -~]{1,9}"), networks: Vec<(IpAddr, u8)>, protocol in prop::option::of(prop::sample::select(&[Protocol::Line][..])),
        ) {
            let transport = match kind {
                0 => Transport::Tcp { address: SocketAddr::new(ip, port), backlog },
                1 => Transport::Udp { address: SocketAddr::new(ip, port) },
                4 => Transport::Systemd { domain: SystemdDomain::Inet6, index: backlog },
                2 => Transport::Tcp { address: SocketAddr::new(v6.into(), port), backlog },
                3 => Transport::Tls {
                    address: SocketAddr::new(ip, port),
                    backlog,
                    files: TlsFiles {
                        private_key: path.clone().into(),
                        cert_key: if mode % 2 == 0 { path.into() } else { "c.pem".into() },
                        ca_certs: ca_certs.map(PathBuf::from),
                    },
                },
                _ => Transport::Unix { path: path.into(), mode, backlog },
            };
            let networks = networks.iter().map(|(ip, length)| format!("{ip}/{}", length % 33));
            let allow = match transport {
                Transport::Unix { .. } => Networks::default(),
                _ => networks.collect::<Vec<_>>().join(",").parse().unwrap(),
            };
            let endpoint = Endpoint { transport, protocol, allow };
            prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
    }
}
