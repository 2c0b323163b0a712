//! Whom a request comes from: the page (RFC 6454) and the address behind proxies (RFC 7239), each believed only where it can be.

use crate::session::{Peer, Via};
use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};
use std::net::{IpAddr, SocketAddr};

/// Addresses and networks from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u32)>);

impl Networks {
    /// Those of checked settings; what is none is left out.
    #[must_use]
    pub fn new(texts: &[String]) -> Self {
        let network = |text: &String| {
            let (address, bits) = text.split_once('/').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| bits.parse().ok()).filter(|bits| *bits <= most)?;
            Some((address, bits))
        };
        Self(texts.iter().filter_map(network).collect())
    }

    /// Whether one of them holds the address. One that IPv6 carries is the IPv4 address it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(network, bits)| match (network, address.to_canonical()) {
            (IpAddr::V4(n), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                n.to_bits() & mask == a.to_bits() & mask
            }
            (IpAddr::V6(n), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                n.to_bits() & mask == a.to_bits() & mask
            }
            _ => false,
        })
    }
}

/// The peer behind trusted proxies: the last address in their header that is none of them. Of others the header is not
/// looked at. Where both headers are there and differ, one may be the client's own, and the proxy itself is the peer.
pub(super) fn client(headers: &HeaderMap, peer: &Peer, trusted: &Networks) -> Peer {
    let Peer::Ip { address, via, certificate } = peer else { return peer.clone() };
    let mut found = *address;
    if trusted.contains(address.ip()) {
        let named = list(headers, &FORWARDED).map(|list| behind(&list, trusted, forwarded_for));
        let plain = list(headers, &X_FORWARDED_FOR).map(|list| behind(&list, trusted, |hop| endpoint(hop.trim())));
        match (named.flatten(), plain.flatten()) {
            (Some(a), Some(b)) if a.ip() != b.ip() => log::debug!("{address}: Forwarded and X-Forwarded-For differ"),
            (Some(address), _) | (None, Some(address)) => found = address,
            (None, None) => {}
        }
    }
    Peer::Ip { address: found, via: *via, certificate: certificate.clone() }
}

/// Whether a proxy on this machine, which nobody listed, speaks for somebody else: taken for a peer of this machine, the
/// world would have the rights of one.
pub(super) fn hides_a_proxy(headers: &HeaderMap, peer: &Peer, trusted: &Networks) -> bool {
    let Peer::Ip { address, .. } = peer else { return false };
    let ip = address.ip().to_canonical();
    ip.is_loopback()
        && !trusted.contains(ip)
        && (headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR))
}

const FORWARDED: HeaderName = hyper::header::FORWARDED;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// All values of a list header, in order.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut all = headers.get_all(name).iter().peekable();
    all.peek()?;
    Some(all.map(|value| value.to_str().unwrap_or("?")).collect::<Vec<_>>().join(","))
}

/// The last hop that is not trusted; with what cannot be read before one is found, the last that could.
fn behind(list: &str, trusted: &Networks, read: impl Fn(&str) -> Option<SocketAddr>) -> Option<SocketAddr> {
    let mut last = None;
    for hop in split(list, ',').into_iter().rev() {
        let Some(address) = read(hop) else { break };
        last = Some(address);
        if !trusted.contains(address.ip()) {
            break;
        }
    }
    last
}

/// Splits at a separator outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c: char| {
        let inside = quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == separator && !inside
    })
    .collect()
}

/// The `for` of an element of `Forwarded`.
fn forwarded_for(hop: &str) -> Option<SocketAddr> {
    let pair = |part: &str| {
        let (name, value) = part.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| value.trim_matches('"').to_owned())
    };
    endpoint(&split(hop, ';').into_iter().find_map(pair)?)
}

/// `1.2.3.4`, `1.2.3.4:5`, `[::1]:5` or `::1`; port 0 where there is none.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let address = text.parse().ok();
    let bare = || text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let found: SocketAddr = address.or_else(|| bare().map(|ip| SocketAddr::new(ip, 0)))?;
    Some(SocketAddr::new(found.ip().to_canonical(), found.port()))
}

/// Whether a page may open a WebSocket. Programs send no origin and may. A page of the broker's own host may where its name
/// proves something: an address or `localhost`, a certificate, or a proxy that is trusted. Any other name can be made to point
/// here by whoever owns it, so such a page's origin must be listed.
///
/// # Errors
/// A sentence that says what to do.
pub(super) fn check(headers: &HeaderMap, listed: &[String], peer: &Peer, trusted: &Networks) -> Result<(), String> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let origin = origin.to_str().ok().filter(|_| origins.next().is_none());
    let Some(origin) = origin else { return Err("a request has one Origin".into()) };
    if listed.iter().any(|one| one == "*" || same_origin(one, origin)) {
        return Ok(());
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if same_host(origin, host) && (proves(host) || proven(peer, trusted)) {
        return Ok(());
    }
    // It is shown to a page, and logged: no more of it than an origin may have.
    let shown: String = origin.chars().filter(|c| !c.is_control()).take(128).collect();
    Err(format!("pages of {shown} may not connect here: add it to http.origins"))
}

fn proven(peer: &Peer, trusted: &Networks) -> bool {
    match peer {
        Peer::Ip { via: Via::Https, .. } => true,
        Peer::Ip { address, .. } => trusted.contains(address.ip()),
        Peer::Unix { .. } | Peer::Bridge { .. } => false,
    }
}

/// A host that no name server decides on.
fn proves(host: &str) -> bool {
    let Some((name, _)) = host_and_port(host) else { return false };
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn same_origin(listed: &str, origin: &str) -> bool {
    let parts = |text: &str| {
        let (scheme, host) = text.split_once("://")?;
        let (name, port) = host_and_port(host)?;
        let port = port.or_else(|| default_port(scheme))?;
        Some((scheme.to_ascii_lowercase(), name.to_ascii_lowercase(), port))
    };
    parts(listed).is_some_and(|listed| Some(listed) == parts(origin))
}

/// Whether a page's host and port are those that were asked; the scheme may differ.
fn same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, page)) = origin.split_once("://") else { return false };
    let Some(((name, port), (asked, asked_port))) = host_and_port(page).zip(host_and_port(host)) else { return false };
    let default = default_port(scheme);
    !name.is_empty() && name.eq_ignore_ascii_case(asked) && port.or(default) == asked_port.or(default)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// `box:1` is `box` and 1; `[::1]:1` is `[::1]` and 1; `None` is a port that is none.
fn host_and_port(host: &str) -> Option<(&str, Option<u16>)> {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => Some((name, Some(port.parse().ok()?))),
        _ => Some((host, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn peer(address: &str, via: Via) -> Peer {
        Peer::Ip { address: address.parse().expect("an address"), via, certificate: None }
    }

    fn found(pairs: &[(&'static str, &'static str)], from: &str, trusted: &[&str]) -> String {
        let trusted: Vec<String> = trusted.iter().map(|&t| t.to_owned()).collect();
        match client(&headers(pairs), &peer(from, Via::Http), &Networks::new(&trusted)) {
            Peer::Ip { address, .. } => address.ip().to_string(),
            Peer::Unix { .. } | Peer::Bridge { .. } => unreachable!("it was an address"),
        }
    }

    #[test]
    fn a_forged_x_forwarded_for_is_not_believed() {
        let forged = [("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=9.9.9.9")];
        assert_eq!(found(&forged, "10.0.0.1:5", &[]), "10.0.0.1");
        assert_eq!(found(&forged, "10.0.0.1:5", &["10.0.0.2", "127.0.0.0/8"]), "10.0.0.1");
        // What the client wrote stands left of what the proxy added.
        let appended = [("x-forwarded-for", "9.9.9.9, 192.0.2.7")];
        assert_eq!(found(&appended, "10.0.0.1:5", &["10.0.0.0/8"]), "192.0.2.7");
        // The proxy adds the one, the client sends the other along.
        let both = [("x-forwarded-for", "192.0.2.7"), ("forwarded", "for=9.9.9.9")];
        assert_eq!(found(&both, "10.0.0.1:5", &["10.0.0.0/8"]), "10.0.0.1");
    }

    #[test]
    fn a_proxy_of_this_machine_must_be_listed() {
        let listed = Networks::new(&["127.0.0.1".into()]);
        let forwarded = headers(&[("x-forwarded-for", "192.0.2.7")]);
        for (address, trusted, hidden) in [
            ("127.0.0.1:5", &Networks::default(), true),
            ("[::ffff:127.0.0.1]:5", &Networks::default(), true),
            ("[::1]:5", &listed, true),
            ("127.0.0.1:5", &listed, false),
            ("192.0.2.1:5", &Networks::default(), false),
        ] {
            assert_eq!(hides_a_proxy(&forwarded, &peer(address, Via::Http), trusted), hidden, "{address}");
            assert!(!hides_a_proxy(&headers(&[("host", "x")]), &peer(address, Via::Http), trusted), "{address}");
        }
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        let trusted = ["10.0.0.0/8", "fd00::/8"];
        for (name, value, expected) in [
            ("x-forwarded-for", "192.0.2.7", "192.0.2.7"),
            ("x-forwarded-for", "1.1.1.1, 192.0.2.7, 10.0.0.9", "192.0.2.7"),
            ("x-forwarded-for", "192.0.2.7:4711", "192.0.2.7"),
            ("x-forwarded-for", "[2001:db8::1]:5, fd00::7", "2001:db8::1"),
            ("x-forwarded-for", "10.0.0.3, 10.0.0.9", "10.0.0.3"),
            ("x-forwarded-for", "192.0.2.7, garbage", "10.0.0.1"),
            ("x-forwarded-for", "192.0.2.7, garbage, 10.0.0.9", "10.0.0.9"),
            ("x-forwarded-for", "", "10.0.0.1"),
            ("forwarded", "for=192.0.2.7;proto=https, for=10.0.0.9", "192.0.2.7"),
            ("forwarded", "For=\"[2001:db8::1]:4711\";by=\"a,b\"", "2001:db8::1"),
            ("forwarded", "for=192.0.2.7, for=_hidden", "10.0.0.1"),
            ("forwarded", "for=unknown", "10.0.0.1"),
        ] {
            let pairs = [(name, value)];
            assert_eq!(found(&pairs, "10.0.0.1:5", &trusted), expected, "{name}: {value}");
        }
    }

    #[test]
    fn networks_hold_what_their_prefix_says() {
        let networks = Networks::new(&["10.1.0.0/16".into(), "192.0.2.7".into(), "::1".into(), "0.0.0.0/33".into()]);
        for (address, held) in [
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.8", false),
            ("::1", true),
            ("::2", false),
        ] {
            assert_eq!(networks.contains(address.parse().expect("an address")), held, "{address}");
        }
        assert!(Networks::new(&["0.0.0.0/0".into()]).contains("1.2.3.4".parse().expect("an address")));
    }

    fn allowed(origin: &'static str, host: &'static str, listed: &[&str], via: Via) -> bool {
        let listed: Vec<String> = listed.iter().map(|&l| l.to_owned()).collect();
        let headers = headers(&[("origin", origin), ("host", host)]);
        check(&headers, &listed, &peer("192.0.2.1:5", via), &Networks::default()).is_ok()
    }

    #[test]
    fn cross_origin_pages_are_refused_and_listed_ones_are_not() {
        let none: &[&str] = &[];
        for (origin, host, listed, ok) in [
            ("http://127.0.0.1:8434", "127.0.0.1:8434", none, true),
            ("https://127.0.0.1:8434", "127.0.0.1:8434", none, true),
            ("http://localhost", "localhost", none, true),
            ("http://[::1]:1", "[::1]:1", none, true),
            ("http://127.0.0.1:8435", "127.0.0.1:8434", none, false),
            ("http://127.0.0.1:84340", "127.0.0.1", none, false),
            ("http://127.0.0.1", "127.0.0.1:99999", none, false),
            ("http://evil.example", "127.0.0.1:8434", none, false),
            ("null", "127.0.0.1:8434", none, false),
            ("", "127.0.0.1:8434", none, false),
            // A name can be made to point here: it must be listed.
            ("http://rebound.example:8434", "rebound.example:8434", none, false),
            ("http://app.example", "127.0.0.1:8434", &["http://app.example"], true),
            ("HTTP://App.Example:80", "127.0.0.1:8434", &["http://app.example"], true),
            ("https://app.example", "127.0.0.1:8434", &["http://app.example"], false),
            ("http://app.example.evil", "127.0.0.1:8434", &["http://app.example"], false),
            ("null", "127.0.0.1:8434", &["*"], true),
        ] {
            assert_eq!(allowed(origin, host, listed, Via::Http), ok, "{origin} to {host}, {listed:?}");
        }
        // A certificate proves the name.
        assert!(allowed("https://box.example", "box.example", none, Via::Https));
        assert!(!allowed("https://other.example", "box.example", none, Via::Https));
        let program = check(&headers(&[("host", "box")]), &[], &peer("192.0.2.1:5", Via::Http), &Networks::default());
        assert_eq!(program, Ok(()));
    }
}
