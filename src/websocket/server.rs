//! The server's half of the opening handshake (RFC 6455, section 4.2): a request judged, and the answer to it.

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::http::request::Parts;
use async_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};

/// What is answered to a request that may become a WebSocket.
#[derive(Debug)]
pub struct Upgrade {
    /// The answer: 101 when the connection is a WebSocket behind it, else why not, in words.
    pub answer: Response<String>,
    /// The subprotocol that was agreed on.
    pub protocol: Option<&'static str>,
}

/// Judges a request. Of `protocols` the first that the client names is taken; where there are any, one must be.
#[must_use]
pub fn check(request: &Parts, protocols: &[&'static str]) -> Upgrade {
    match judge(request, protocols) {
        Ok((accept, protocol)) => {
            let mut answer = answer(StatusCode::SWITCHING_PROTOCOLS, "");
            let headers = answer.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            if let Some(protocol) = protocol {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            }
            Upgrade { answer, protocol }
        }
        Err(answer) => Upgrade { answer: *answer, protocol: None },
    }
}

fn answer(status: StatusCode, words: &str) -> Response<String> {
    let mut answer = Response::new(words.into());
    *answer.status_mut() = status;
    answer
}

fn judge(
    request: &Parts,
    protocols: &[&'static str],
) -> Result<(HeaderValue, Option<&'static str>), Box<Response<String>>> {
    let headers = &request.headers;
    let no = |status, words: &str| Err(Box::new(answer(status, words)));
    if request.method != Method::GET {
        let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return Err(Box::new(refused));
    }
    if request.version != Version::HTTP_11 {
        return no(StatusCode::BAD_REQUEST, "a WebSocket needs HTTP/1.1\n");
    }
    if !has(headers, header::UPGRADE, "websocket") || !has(headers, header::CONNECTION, "upgrade") {
        let mut refused = answer(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket: ask to upgrade to it\n");
        refused.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return Err(Box::new(refused));
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION) != Some("13") {
        let mut refused = answer(StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken here\n");
        refused.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        refused.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(Box::new(refused));
    }
    let Some(key) = single(headers, header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
        return no(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or not 16 bytes in base64\n");
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return no(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key cannot be answered\n");
    };
    let named = |wanted: &str| {
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(|v| tokens(v).any(|token| token == wanted))
    };
    let protocol = protocols.iter().copied().find(|protocol| named(protocol));
    if protocol.is_none() && !protocols.is_empty() {
        let names = protocols.join(" or ");
        return no(StatusCode::BAD_REQUEST, &format!("the subprotocol {names} must be asked for\n"));
    }
    Ok((accept, protocol))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim)
}

/// Whether a list header holds a token, in any case of letters.
fn has(headers: &HeaderMap, name: header::HeaderName, wanted: &str) -> bool {
    headers.get_all(name).iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(wanted)))
}

/// The value of a header that is there once.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(first)
}

/// Sixteen bytes in base64: 22 characters and two `=`.
fn is_key(key: &str) -> bool {
    key.len() == 24
        && key.ends_with("==")
        && key.bytes().take(22).all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_tungstenite::tungstenite::http::Request;

    fn asked(change: impl FnOnce(&mut Parts)) -> Upgrade {
        let request = Request::get("/ws")
            .header("Host", "box")
            .header("Upgrade", "WebSocket")
            .header("Connection", "keep-alive, Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Protocol", "chat, tidegate.v1")
            .body(())
            .expect("a request");
        let mut parts = request.into_parts().0;
        change(&mut parts);
        check(&parts, &["tidegate.v1"])
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted_with_its_key() {
        let upgrade = asked(|_| {});
        assert_eq!(upgrade.answer.status(), 101);
        assert_eq!(upgrade.answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(upgrade.protocol, Some("tidegate.v1"));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_status() {
        let without = |name: &'static str| move |parts: &mut Parts| drop(parts.headers.remove(name));
        let set = |name: &'static str, value: &'static str| {
            move |parts: &mut Parts| drop(parts.headers.insert(name, HeaderValue::from_static(value)))
        };
        assert_eq!(asked(without("upgrade")).answer.status(), 426);
        assert_eq!(asked(without("connection")).answer.status(), 426);
        assert_eq!(asked(without("sec-websocket-key")).answer.status(), 400);
        assert_eq!(asked(set("sec-websocket-key", "c2hvcnQ=")).answer.status(), 400);
        assert_eq!(asked(without("sec-websocket-protocol")).answer.status(), 400);
        assert_eq!(asked(set("sec-websocket-protocol", "tidegate.v2")).answer.status(), 400);
        assert_eq!(asked(|parts| parts.version = Version::HTTP_10).answer.status(), 400);
        assert_eq!(asked(|parts| parts.method = Method::POST).answer.status(), 405);
        let old = asked(set("sec-websocket-version", "8"));
        assert_eq!(
            (old.answer.status().as_u16(), &old.answer.headers()["sec-websocket-version"]),
            (426, &"13".parse().expect("a value"))
        );
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let twice = asked(|parts| assert!(parts.headers.append("sec-websocket-key", key)));
        assert_eq!(twice.answer.status(), 400);
    }
}
