//! What strangers and administrators write: identities files, tokens as they are and with a signature made to fit, key sets,
//! PEM, hashes, and any bytes of any method. Whoever comes in has a name that is one level of a channel, a tenant that there is,
//! roles that could be given, and an end that is not over.
#![no_main]

use arbitrary::Arbitrary;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::OnceLock;
use tidegate::auth::Authenticator;
use tidegate::auth::identities::{parse, parse_line};
use tidegate::auth::keys::{KeyFile, SigningKey};
use tidegate::auth::name::is_name;
use tidegate::auth::password::Hashed;
use tidegate::auth::token::{Algorithm, VerifyingKey, jwks, peek};
use tidegate::config::{Settings, parse as settings};
use tidegate::model::Wall;
use tidegate::session::{Attempt, Certificate, Method, Peer, Via};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Identities(&'a [u8]),
    Words(Vec<u8>),
    Token(&'a [u8]),
    Signed { header: &'a str, claims: &'a str },
    Claims { name: u8, claims: Vec<(u8, &'a str)> },
    Set(&'a [u8]),
    Pem(&'a [u8]),
    Spki(&'a [u8]),
    Hash(&'a str),
    Attempt { method: u8, again: bool, data: &'a [u8] },
    Certificate(Vec<&'a str>),
}

/// Words of identities files.
const WORDS: &[&str] = &[
    "key",
    "password",
    "certificate",
    "uid",
    "ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=",
    "1000",
    "name=a",
    "name=a/b",
    "tenant=acme",
    "roles=open,admin",
    "roles=",
    "expires=2027-01-01",
    "*.a.example.org",
    "a.example.org",
    "$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
    "#",
    "\n",
    "\r\n",
];

/// Claims, and values that are right somewhere.
const CLAIMS: &[&str] = &["iss", "sub", "aud", "exp", "nbf", "iat", "tenant", "roles", "more"];

const CONFIG: &str = r#"
tenants:
  - name: acme
issuers:
  - name: a
    algorithms: [EdDSA]
    keys: ["env:KEY"]
    audiences: [tidegate]
    tenant: "{claim}"
    roles: [open]
  - name: b
    algorithms: [EdDSA, HS256]
    keys: ["env:KEY", "env:SECRET"]
    audiences: [tidegate]
    roles: [admin]
"#;

const NOW: Wall = Wall(1_800_000_000_000);

fn key() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn judge() -> &'static Authenticator {
    static JUDGE: OnceLock<Authenticator> = OnceLock::new();
    JUDGE.get_or_init(|| {
        let settings: Settings = settings(CONFIG, "fuzz").expect("a valid configuration").settings;
        let env = |name: &str| match name {
            "KEY" => Some(key().public().to_string().into()),
            "SECRET" => Some("a secret of at least thirty-two bytes".into()),
            _ => None,
        };
        Authenticator::load_with(&settings, Path::new("."), &env).expect("its keys are there")
    })
}

fn attempt(method: Method, data: &[u8]) -> Attempt {
    let peer = Peer::tcp(([127, 0, 0, 1], 1).into());
    Attempt { method, data: data.to_vec(), nonce: [7; 32], again: false, peer }
}

fn judged(attempt: &Attempt) {
    match judge().check(NOW, attempt) {
        Ok(principal) => {
            assert!(is_name(&principal.name) && !principal.admin, "{principal:?}");
            assert!(matches!(&*principal.tenant, "" | "acme"), "{principal:?}");
            assert!(principal.roles.iter().all(|role| matches!(&**role, "open" | "admin")), "{principal:?}");
            assert!(principal.expires.is_some_and(|end| end > NOW), "{principal:?}");
        }
        Err(denied) => assert!(denied.detail.len() < 2_000 && !denied.detail.contains('\n'), "{denied:?}"),
    }
}

/// A token that its issuer signed.
fn signed(header: &str, claims: &str) {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = key().sign_bytes(message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    let _ = peek(token.as_bytes());
    judged(&attempt(Method::Token, token.as_bytes()));
}

fn identities(text: &[u8]) {
    match parse(text, Path::new("identities"), None) {
        Ok(found) => {
            let text = std::str::from_utf8(text).expect("it was taken");
            let lines: Vec<&str> = text.lines().collect();
            for identity in &found {
                assert!(identity.name.is_empty() || is_name(&identity.name), "{identity:?}");
                assert!(!identity.roles.is_empty() && identity.roles.iter().all(|role| is_name(role)), "{identity:?}");
                let line = lines[identity.line as usize - 1];
                assert_eq!(parse_line(line, identity.line).as_ref(), Ok(&Some(identity.clone())));
            }
        }
        Err(error) => assert!(!error.problems.is_empty()),
    }
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Identities(bytes) => identities(bytes),
        Input::Words(words) => {
            let words: Vec<&str> = words.iter().map(|w| WORDS[usize::from(*w) % WORDS.len()]).collect();
            identities(words.join(" ").as_bytes());
        }
        Input::Token(bytes) => {
            let _ = peek(bytes);
            judged(&attempt(Method::Token, bytes));
        }
        Input::Signed { header, claims } => {
            signed(header, claims);
            signed(r#"{"alg":"EdDSA"}"#, claims);
        }
        Input::Claims { name, claims } => {
            let names = ["a", "b", "c"];
            let mut text = format!(r#"{{"iss":"{}""#, names[usize::from(name) % names.len()]);
            if name & 0x80 != 0 {
                text.push_str(
                    r#","sub":"sensor-7","aud":"tidegate","exp":1800000100,"tenant":"acme","roles":"open admin""#,
                );
            }
            for (claim, value) in claims {
                text.push_str(&format!(r#","{}":{value}"#, CLAIMS[usize::from(claim) % CLAIMS.len()]));
            }
            text.push('}');
            signed(r#"{"alg":"EdDSA"}"#, &text);
        }
        Input::Set(bytes) => {
            let all = [Algorithm::Hs256, Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256];
            if let Ok(set) = jwks::parse(bytes, &all) {
                assert!(set.keys.iter().all(|listed| !listed.key.verifies(b"message", &[0; 64])));
            }
        }
        Input::Pem(bytes) => {
            let _ = VerifyingKey::public(bytes);
            let _ = KeyFile::parse(bytes);
        }
        Input::Spki(der) => {
            if let Ok(key) = VerifyingKey::spki(der) {
                let _ = key.verifies(b"message", &[0; 64]);
            }
        }
        Input::Hash(text) => {
            if let Ok(hash) = Hashed::parse(text) {
                assert!(hash.work() <= 256 * 1_024);
                assert_eq!(Hashed::parse(hash.dummy_like().as_str()).map(|dummy| dummy.work()), Ok(hash.work()));
            }
        }
        Input::Attempt { method, again, data } => {
            let method = Method::from_u8(method % 5).expect("there are five");
            judged(&Attempt { again, ..attempt(method, data) });
        }
        Input::Certificate(names) => {
            let names = names.into_iter().map(str::to_owned).collect();
            let certificate = Certificate { names, fingerprint: [0; 32], expires: NOW.plus_ms(1) };
            let peer = Peer::Ip {
                address: ([127, 0, 0, 1], 1).into(),
                via: Via::Tls,
                certificate: Some(std::sync::Arc::new(certificate)),
            };
            judged(&Attempt { peer, ..attempt(Method::Transport, &[]) });
        }
    }
});
