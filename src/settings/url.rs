//! Owns whether a request can be made of a URL at all. Every error says what is wrong with the URL, and what to write.

use actors::http_client;

/// Whether an IPv6 address stands in a URL as it must.
pub(super) fn addressed(url: &str) -> Result<(), String> {
    let (scheme, authority, _) = parts(url);
    if !authority.starts_with('[') && authority.matches(':').count() > 1 {
        return Err(match authority.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && host.parse::<std::net::Ipv6Addr>().is_ok() => {
                format!(
                    "an IPv6 address stands in brackets: write {scheme}://[{host}]:{port} or {scheme}://[{authority}]"
                )
            }
            _ => format!("an IPv6 address stands in brackets: write {scheme}://[{authority}]"),
        });
    }
    if let Some(v6) = authority.strip_prefix('[') {
        let Some((address, _)) = v6.split_once(']') else {
            return Err(format!("the bracket of its host does not close: write {scheme}://[{v6}]"));
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!(
                "what stands in its brackets is no IPv6 address: write for example {scheme}://[::1]"
            ));
        }
    }
    Ok(())
}

/// Whether requests can be made of a base URL at all.
pub(super) fn requestable(url: &str) -> Result<(), String> {
    let (scheme, authority, path) = parts(url);
    if !authority.is_ascii() {
        return Err(
            "its host has letters that no request can name: write the form that begins with xn--, as the DNS has it"
                .to_owned(),
        );
    }
    if !path.is_ascii() {
        return Err(
            "its path has letters that no request can name: write each of their bytes as % and two digits"
                .to_owned(),
        );
    }
    // What a daemon asks for is of this form.
    http_client::check_url(&format!("{}/v2.0/tenant/ingest", url.trim_end_matches('/'))).map_err(|error| {
        format!("no request can be made of it ({error}): write for example {scheme}://localhost:19000")
    })
}

/// The same host at another port, and no path: that is somebody's who stands before the one port.
pub(super) fn with_port(url: &str, port: u16) -> String {
    let (scheme, authority, _) = parts(url);
    let host = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') => host,
        _ => authority,
    };
    format!("{scheme}://{host}:{port}")
}

/// The scheme, the host with its port, and the path.
fn parts(url: &str) -> (&str, &str, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    (scheme, authority, path)
}

/// Whether something is left of Blueflood's own paths, to which the daemon would add them again.
pub(super) fn base_of_blueflood(url: &str) -> Result<(), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let mut segments = rest.split('/');
    let authority = segments.next().unwrap_or_default();
    let kept: Vec<&str> =
        segments.clone().take_while(|segment| *segment != "v2.0" && *segment != "ingest").collect();
    if kept.len() == segments.count() {
        return Ok(());
    }
    let base = [&[authority], kept.as_slice()].concat().join("/");
    Err(format!("its path is that of the ingest, which is added: write {scheme}://{base}, and set tenant"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_no_request_can_be_made_of_is_told_what_to_write() {
        for (url, says) in [
            ("http://::1:19000", "write http://[::1]:19000"),
            ("https://fe80::1", "write https://[fe80::1]"),
            ("http://[::1", "the bracket of its host does not close"),
            ("http://[localhost]:19000", "no IPv6 address"),
            ("http://b\u{fc}cher.example", "xn--"),
            ("http://h/\u{e4}", "% and two digits"),
            ("http://a b", "no request can be made of it"),
            ("http://h<>", "no request can be made of it"),
            ("http://h/<>\"", "no request can be made of it"),
        ] {
            let why = addressed(url).and_then(|()| requestable(url)).expect_err(url);
            assert!(why.contains(says), "{url}: {why}");
        }
        for url in [
            "http://localhost:19000",
            "https://a_b.example.:443/x/y",
            "http://xn--bcher-kva.example",
            "http://[::ffff:127.0.0.1]:19000",
            "http://[::1]",
            "http://h/%C3%A4",
        ] {
            assert_eq!(addressed(url).and_then(|()| requestable(url)), Ok(()), "{url}");
        }
    }

    #[test]
    fn another_port_of_the_same_host() {
        for (url, there) in [
            ("http://h:19000", "http://h:20000"),
            ("https://h/proxy/", "https://h:20000"),
            ("http://[::1]:19000", "http://[::1]:20000"),
            ("http://[::1]", "http://[::1]:20000"),
        ] {
            assert_eq!(with_port(url, 20000), there);
        }
    }

    #[test]
    fn a_whole_ingest_url_is_cut_to_its_base() {
        for (url, base) in [
            ("http://h:19000/v2.0/acme/ingest", "write http://h:19000, "),
            ("https://h/proxy/v2.0", "write https://h/proxy, "),
            ("http://h/ingest", "write http://h, "),
        ] {
            let why = base_of_blueflood(url).expect_err(url);
            assert!(why.contains(base), "{url}: {why}");
        }
        for url in ["http://h", "http://h/", "http://v2.0/x", "http://h/proxy"] {
            assert_eq!(base_of_blueflood(url), Ok(()), "{url}");
        }
    }
}
