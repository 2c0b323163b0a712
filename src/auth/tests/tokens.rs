//! Tokens: whose, for whom, for how long, by which key, and everything that somebody may try instead.

use super::vectors::{RSA_N, rsa_private_pem, rsa_public_pem};
use super::{NOW, World, by_token, private_key, reason};
use crate::auth::Authenticator;
use crate::auth::keys::SigningKey as Ed25519Key;
use crate::auth::secret::Secret;
use crate::auth::token::{Algorithm, Grant, SigningKey, TOKEN_BYTES_MAX};
use crate::config::IssuerSettings;
use crate::model::Wall;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

const SECRET: &str = "a secret of forty-one bytes, or about that";
const SECONDS: u64 = NOW.0 / 1_000;

fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "sub": "sensor-7", "aud": "tidegate", "exp": SECONDS + 3_600,
        "nbf": SECONDS - 10, "iat": SECONDS - 10, "roles": ["sensor", "boss"],
    })
}

/// The claims with some set, or with null taken out.
fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(all.as_object_mut().expect("an object").remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all
}

fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    key.sign(header, claims, &SystemRandom::new()).expect("signed")
}

fn ed25519(byte: u8) -> SigningKey {
    SigningKey::Ed25519(private_key(byte))
}

fn hs256(secret: &str) -> SigningKey {
    SigningKey::parse(Algorithm::Hs256, &Secret::new(secret.into()), &SystemRandom::new()).expect("long enough")
}

/// An EdDSA token of key 1.
fn eddsa(claims: &Value) -> String {
    signed(&ed25519(1), &json!({"alg": "EdDSA", "typ": "JWT"}), claims)
}

/// An issuer with key 1.
fn eddsa_world(change: impl FnOnce(&mut IssuerSettings)) -> World {
    let world = World::new().issuer(&["EdDSA"], |issuer| {
        issuer.keys = vec!["file:issuer.pub".into()];
        change(issuer);
    });
    world.write("issuer.pub", 0o644, format!("{}\n", private_key(1).public()));
    world
}

fn eddsa_auth() -> Authenticator {
    eddsa_world(|_| {}).loaded()
}

#[test]
fn a_good_token_is_its_subject_with_the_roles_its_issuer_may_give() {
    let auth = eddsa_auth();
    let principal = by_token(&auth, NOW, eddsa(&claims())).expect("a good token");
    assert_eq!((&*principal.name, &*principal.tenant), ("sensor-7", ""));
    assert_eq!(principal.roles, ["sensor".into()], "boss is not the issuer's to give");
    assert_eq!(principal.expires, Some(Wall((SECONDS + 3_600 + 60) * 1_000)), "its end and the leeway");
    for (roles, expected) in [
        (json!("reader sensor"), &["sensor", "reader"][..]),
        (json!(["reader", "reader"]), &["reader"]),
        (json!([]), &[]),
        (json!("admin open boss"), &[]),
        (Value::Null, &[]),
    ] {
        let principal = by_token(&auth, NOW, eddsa(&with(json!({"roles": roles})))).expect("a good token");
        let found: Vec<&str> = principal.roles.iter().map(|role| &**role).collect();
        assert_eq!(found, expected, "{roles}");
    }
}

#[test]
fn alg_none_is_refused() {
    let auth = eddsa_auth();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 ", "eddsa"] {
        let unsigned = format!("{}.{}.", encode(&json!({"alg": alg})), encode(&claims()));
        assert_eq!(reason(by_token(&auth, NOW, &unsigned)), "algorithm", "{alg:?}");
        let kept = eddsa(&claims());
        let signature = kept.rsplit('.').next().expect("a signature");
        assert_eq!(reason(by_token(&auth, NOW, format!("{unsigned}{signature}"))), "algorithm", "{alg:?}");
    }
    // An algorithm of ours without a signature is one that does not fit.
    let unsigned = format!("{}.{}.", encode(&json!({"alg": "EdDSA"})), encode(&claims()));
    assert_eq!(reason(by_token(&auth, NOW, unsigned)), "bad-signature");
}

/// RFC 8725 §2.1: HS256 with a public key, in each form that somebody might take it, is no signature.
#[test]
fn key_confusion_is_refused() {
    let public = private_key(1).public();
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], &public.as_bytes()[..]].concat();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&spki);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{encoded}\n-----END PUBLIC KEY-----\n");
    let rsa = rsa_public_pem(RSA_N);
    // One that takes all four algorithms, and one that takes HS256 not at all.
    let all = World::new().issuer(&["HS256", "EdDSA", "RS256"], |issuer| {
        issuer.keys = ["secret", "ed.pem", "rsa.pem"].map(|name| format!("file:{name}")).to_vec();
    });
    all.write("secret", 0o600, SECRET);
    all.write("ed.pem", 0o644, &pem);
    all.write("rsa.pem", 0o644, &rsa);
    let (all, without) = (all.loaded(), eddsa_auth());
    let header = json!({"alg": "HS256"});
    by_token(&all, NOW, signed(&hs256(SECRET), &header, &claims())).expect("the secret itself");
    for bytes in [
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        rsa.as_bytes(),
        rsa.trim_end().as_bytes(),
        &spki,
        &public.as_bytes()[..],
    ] {
        let key = SigningKey::Secret(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, bytes));
        let token = signed(&key, &header, &claims());
        assert_eq!(reason(by_token(&all, NOW, &token)), "bad-signature");
        assert_eq!(reason(by_token(&without, NOW, &token)), "algorithm");
    }
    // Nor is one algorithm's signature tried with another's key.
    let token = signed(&ed25519(1), &json!({"alg": "RS256"}), &claims());
    assert_eq!(reason(by_token(&all, NOW, token)), "bad-signature");
}

#[test]
fn a_public_key_as_the_secret_of_hs256_is_refused_at_load() {
    let public = private_key(1).public();
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], &public.as_bytes()[..]].concat();
    for (bytes, told) in [
        (rsa_public_pem(RSA_N).into_bytes(), "found a public key; expected a secret"),
        (format!("{public}\n").into_bytes(), "found a public key; expected a secret"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKnownToEverybody somebody".to_vec(), "found a public key"),
        (br#"{"kty": "OKP", "crv": "Ed25519", "x": "everybody knows it"}"#.to_vec(), "found a public key"),
        (spki, "found a public key"),
        (b"only thirty-one bytes, not more".to_vec(), "found 31 bytes; expected a secret of HS256 of at least 32"),
        (b"\n".to_vec(), "nothing in it"),
    ] {
        let world = World::new().issuer(&["HS256"], |issuer| issuer.keys = vec!["file:key".into()]);
        world.write("key", 0o600, bytes);
        let error = world.refused();
        assert!(error.contains(told) && error.contains("issuers[0].keys[0]: file:key: "), "{error}");
    }
}

#[test]
fn a_secret_that_others_may_read_is_refused_and_a_public_key_is_not() {
    let world = World::new().issuer(&["HS256"], |issuer| issuer.keys = vec!["file:key".into()]);
    world.write("key", 0o644, SECRET);
    let error = world.refused();
    assert!(error.contains("chmod 600") && !error.contains("forty-one"), "{error}");
    world.write("key", 0o600, SECRET);
    world.loaded();
    let world = eddsa_world(|_| {});
    world.write("issuer.pub", 0o666, format!("{}\n", private_key(1).public()));
    assert!(world.refused().contains("chmod go-w"), "whoever changes it is the issuer");
}

#[test]
fn the_wrong_audience_is_refused() {
    let auth = eddsa_auth();
    for good in [json!("tidegate"), json!("other"), json!(["x", "tidegate"])] {
        by_token(&auth, NOW, eddsa(&with(json!({"aud": good})))).expect("one of ours");
    }
    for wrong in [json!("Tidegate"), json!("tidegate "), json!(""), json!([]), json!(["x", "y"]), Value::Null] {
        assert_eq!(reason(by_token(&auth, NOW, eddsa(&with(json!({"aud": wrong}))))), "wrong-audience", "{wrong}");
    }
}

#[test]
fn a_missing_expiry_is_refused() {
    let auth = eddsa_auth();
    assert_eq!(reason(by_token(&auth, NOW, eddsa(&with(json!({"exp": null}))))), "no-expiry");
    let mut null = claims();
    null["exp"] = Value::Null;
    assert_eq!(reason(by_token(&auth, NOW, eddsa(&null))), "no-expiry");
    for wrong in [json!("tomorrow"), json!(format!("{}", SECONDS + 60)), json!([]), json!({}), json!(true)] {
        assert_eq!(reason(by_token(&auth, NOW, eddsa(&with(json!({"exp": wrong}))))), "malformed", "{wrong}");
    }
}

#[test]
fn times_hold_to_the_leeway_and_not_a_millisecond_more() {
    let auth = eddsa_auth();
    let at = |seconds: u64, ms: u64, token: &str| by_token(&auth, Wall(seconds * 1_000 + ms), token);
    // It ends at NOW, with a leeway of a minute.
    let token = eddsa(&with(json!({"exp": SECONDS, "nbf": null, "iat": null})));
    at(SECONDS + 59, 999, &token).expect("the last moment");
    assert_eq!(reason(at(SECONDS + 60, 0, &token)), "expired");
    assert_eq!(reason(at(SECONDS + 1_000_000, 0, &token)), "expired");
    for (name, value) in [("nbf", SECONDS), ("iat", SECONDS)] {
        let token = eddsa(&with(json!({"nbf": null, "iat": null})));
        at(0, 0, &token).expect("neither is needed");
        let token = eddsa(&with(json!({"nbf": null, "iat": null, name: value})));
        at(SECONDS - 60, 0, &token).expect("the first moment");
        assert_eq!(reason(at(SECONDS - 61, 999, &token)), "not-yet-valid", "{name}");
    }
    for (exp, expected) in [
        (json!(-1), Err("expired")),
        (json!(0), Err("expired")),
        (json!(1.0e300), Ok(())),
        (json!(u64::MAX), Ok(())),
        (json!(SECONDS as f64 + 0.5), Ok(())),
    ] {
        let outcome = at(SECONDS, 0, &eddsa(&with(json!({"exp": exp}))));
        assert_eq!(outcome.map(|_| ()).map_err(|denied| denied.reason), expected, "{exp}");
    }
}

#[test]
fn a_mebibyte_of_claims_is_refused_before_it_is_read() {
    let auth = eddsa_auth();
    let large = eddsa(&with(json!({"more": "x".repeat(1 << 20)})));
    let denied = by_token(&auth, NOW, &large).expect_err("too large");
    assert_eq!(denied.reason, "too-large");
    assert!(denied.detail.len() < 200, "{denied}");
    // One that just fits is read, deep and wide as it may be.
    let mut fill = TOKEN_BYTES_MAX * 3 / 4;
    let token = loop {
        let token = eddsa(&with(json!({"more": "x".repeat(fill)})));
        if token.len() <= TOKEN_BYTES_MAX {
            break token;
        }
        fill -= 1;
    };
    by_token(&auth, NOW, &token).expect("8 KiB are taken");
    assert_eq!(reason(by_token(&auth, NOW, vec![b'.'; TOKEN_BYTES_MAX])), "malformed");
    let deep = format!("{}{}", "[".repeat(2_500), "]".repeat(2_500));
    let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"iss":"https://issuer.example","x":{deep}}}"#));
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
    let outcome = by_token(&auth, NOW, format!("{header}.{payload}.AAAA"));
    assert!(matches!(reason(outcome), "malformed" | "bad-signature"));
}

#[test]
fn what_stands_twice_is_refused() {
    let auth = eddsa_auth();
    let sign = |header: &str, claims: &str| {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = private_key(1).sign_bytes(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let good = claims().to_string();
    by_token(&auth, NOW, sign(r#"{"alg":"EdDSA"}"#, &good)).expect("each once");
    for header in [r#"{"alg":"none","alg":"EdDSA"}"#, r#"{"alg":"EdDSA","\u0061lg":"EdDSA"}"#, r#"["EdDSA",null,null]"#]
    {
        assert_eq!(reason(by_token(&auth, NOW, sign(header, &good))), "malformed", "{header}");
    }
    for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "roles"] {
        let value = &claims()[name];
        let twice = format!("{},\"{name}\":{value}}}", good.strip_suffix('}').expect("an object"));
        assert_eq!(reason(by_token(&auth, NOW, sign(r#"{"alg":"EdDSA"}"#, &twice))), "malformed", "{name}");
    }
    for claims in ["", "null", "[]", "{", "{}x", "7", "\"x\""] {
        assert_eq!(reason(by_token(&auth, NOW, sign(r#"{"alg":"EdDSA"}"#, claims))), "malformed", "{claims}");
    }
}

#[test]
fn extensions_that_must_be_understood_and_tokens_of_other_types_are_refused() {
    let auth = eddsa_auth();
    let token = |header: Value| signed(&ed25519(1), &header, &claims());
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        by_token(&auth, NOW, token(json!({"alg": "EdDSA", "typ": typ}))).expect(typ);
    }
    for typ in ["logout+jwt", "dpop+jwt", "JOSE", ""] {
        assert_eq!(reason(by_token(&auth, NOW, token(json!({"alg": "EdDSA", "typ": typ})))), "malformed", "{typ}");
    }
    for crit in [json!(["b64"]), json!([]), Value::Null, json!(7)] {
        let header = json!({"alg": "EdDSA", "crit": crit, "b64": true});
        assert_eq!(reason(by_token(&auth, NOW, token(header))), "extension", "{crit}");
    }
    // A key that the token brings along is not the issuer's.
    let own = ed25519(2);
    let header = json!({"alg": "EdDSA", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(private_key(2).public().as_bytes())}});
    assert_eq!(reason(by_token(&auth, NOW, signed(&own, &header, &claims()))), "bad-signature");
}

#[test]
fn forged_and_truncated_tokens_are_refused() {
    let auth = eddsa_auth();
    let token = eddsa(&claims());
    for len in 0..token.len() {
        let outcome = by_token(&auth, NOW, &token[..len]);
        assert!(matches!(reason(outcome), "malformed" | "bad-signature"), "{len} bytes");
    }
    for at in 0..token.len() {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        assert!(by_token(&auth, NOW, forged).is_err(), "byte {at}");
    }
    for wrong in ["", ".", "..", "a.b", "a.b.c.d", &format!("{token}="), &format!("{token}\n"), &format!(" {token}")] {
        assert_eq!(reason(by_token(&auth, NOW, wrong)), "malformed", "{wrong:?}");
    }
}

#[test]
fn issuers_are_told_apart_by_name_and_keys() {
    let world = eddsa_world(|_| {}).issuer(&["EdDSA"], |issuer| {
        issuer.name = "other".into();
        issuer.keys = vec!["file:other.pub".into()];
        issuer.roles = vec!["reader".into()];
    });
    world.write("other.pub", 0o644, private_key(2).public().to_string());
    let auth = world.loaded();
    let header = json!({"alg": "EdDSA"});
    by_token(&auth, NOW, signed(&ed25519(2), &header, &with(json!({"iss": "other"})))).expect("its own key");
    assert_eq!(reason(by_token(&auth, NOW, signed(&ed25519(2), &header, &claims()))), "bad-signature");
    assert_eq!(reason(by_token(&auth, NOW, eddsa(&with(json!({"iss": "other"}))))), "bad-signature");
    for iss in [json!("https://issuer.example/"), json!("evil\n"), Value::Null] {
        let denied = by_token(&auth, NOW, eddsa(&with(json!({"iss": iss})))).expect_err("nobody");
        assert!(denied.reason == "unknown-issuer" && !denied.detail.contains('\n'), "{denied}");
    }
    assert_eq!(reason(by_token(&auth, NOW, eddsa(&with(json!({"iss": ["other"]}))))), "malformed");
}

/// A subject stands for a level of a filter: it must not be able to be more.
#[test]
fn a_subject_that_is_no_name_is_refused() {
    let auth = eddsa_auth();
    for sub in
        [json!("a/b"), json!("+"), json!("#"), json!("$admin"), json!(""), json!("a b"), json!("a\u{0}"), Value::Null]
    {
        assert_eq!(reason(by_token(&auth, NOW, eddsa(&with(json!({"sub": sub}))))), "name", "{sub}");
    }
    assert_eq!(reason(by_token(&auth, NOW, eddsa(&with(json!({"sub": 7}))))), "malformed");
}

#[test]
fn the_tenant_is_the_issuers_or_that_of_the_claim_where_it_may_say() {
    let fixed = eddsa_world(|issuer| issuer.tenant = "acme".into()).loaded();
    let none = eddsa_auth();
    let claim = eddsa_world(|issuer| issuer.tenant = "{claim}".into()).loaded();
    let tenant = |auth: &Authenticator, tenant: Value| {
        by_token(auth, NOW, eddsa(&with(json!({"tenant": tenant})))).map(|principal| principal.tenant.into_string())
    };
    for said in [json!("beta"), Value::Null] {
        assert_eq!(tenant(&fixed, said.clone()).as_deref(), Ok("acme"), "whatever the token says");
        assert_eq!(tenant(&none, said).as_deref(), Ok(""));
    }
    assert_eq!(tenant(&claim, json!("beta")).as_deref(), Ok("beta"));
    for wrong in [json!("gamma"), json!(""), json!("a/b"), json!("{claim}"), Value::Null] {
        assert_eq!(tenant(&claim, wrong.clone()).expect_err("no tenant").reason, "unknown-tenant", "{wrong}");
    }
}

fn p256() -> (EcdsaKeyPair, Value) {
    let random = SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("randomness");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).expect("its own");
    let point = pair.public_key().as_ref().to_vec();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])});
    (pair, jwk)
}

fn okp(key: &Ed25519Key, kid: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": URL_SAFE_NO_PAD.encode(key.public().as_bytes())})
}

fn jwks_world(algorithms: &[&str], keys: Value) -> World {
    let world = World::new().issuer(algorithms, |issuer| issuer.jwks = Some("keys.json".into()));
    world.write("keys.json", 0o644, json!({"keys": keys}).to_string());
    world
}

#[test]
fn keys_rotate_by_id_in_a_set() {
    let header = |kid: &str| json!({"alg": "EdDSA", "kid": kid});
    let (old, new) = (signed(&ed25519(1), &header("2026"), &claims()), signed(&ed25519(2), &header("2027"), &claims()));
    let set = |keys: &[Value]| jwks_world(&["EdDSA"], json!(keys)).loaded();
    let (one, two) = (okp(&private_key(1), "2026"), okp(&private_key(2), "2027"));
    let before = set(std::slice::from_ref(&one));
    by_token(&before, NOW, &old).expect("the one key");
    assert_eq!(reason(by_token(&before, NOW, &new)), "unknown-kid");
    let between = set(&[one, two.clone()]);
    by_token(&between, NOW, &old).expect("still there");
    by_token(&between, NOW, &new).expect("there already");
    let after = set(&[two]);
    assert_eq!(reason(by_token(&after, NOW, &old)), "unknown-kid");
    by_token(&after, NOW, &new).expect("the one key");
    // The id does not stand in for the signature, and without one every key is tried.
    assert_eq!(reason(by_token(&between, NOW, signed(&ed25519(1), &header("2027"), &claims()))), "bad-signature");
    by_token(&between, NOW, signed(&ed25519(2), &json!({"alg": "EdDSA"}), &claims())).expect("one of them");
    let world = eddsa_world(|issuer| issuer.jwks = Some("keys.json".into()));
    world.write("keys.json", 0o644, json!({"keys": [okp(&private_key(2), "2027")]}).to_string());
    assert_eq!(world.loaded().files().len(), 2);
    // A key of a file has no id: it is tried for ids that nobody has.
    by_token(&world.loaded(), NOW, signed(&ed25519(1), &header("any"), &claims())).expect("the key of the file");
}

#[test]
fn several_keys_of_files_are_tried_while_they_are_rotated() {
    let world = eddsa_world(|issuer| issuer.keys.push("file:next.pub".into()));
    world.write("next.pub", 0o644, private_key(2).public().to_string());
    let auth = world.loaded();
    for key in [1, 2] {
        by_token(&auth, NOW, signed(&ed25519(key), &json!({"alg": "EdDSA"}), &claims())).expect("one of the two");
    }
    assert_eq!(reason(by_token(&auth, NOW, signed(&ed25519(3), &json!({"alg": "EdDSA"}), &claims()))), "bad-signature");
}

#[test]
fn sets_hold_keys_of_every_kind_and_what_is_not_for_us_is_left_out() {
    let (pair, ec) = p256();
    let rsa = json!({"kty": "RSA", "n": RSA_N, "e": "AQAB", "alg": "RS256", "key_ops": ["verify"]});
    let secret = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    let others = [
        json!({"kty": "PQ", "x": 7_i32.to_string()}),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "PS256"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "key_ops": ["encrypt"]}),
    ];
    let keys = [&[okp(&private_key(1), "a"), ec, rsa, secret][..], &others].concat();
    let world = jwks_world(&["HS256", "EdDSA", "ES256", "RS256"], json!(keys));
    assert!(world.refused().contains("chmod 600"), "it holds a secret");
    world.write("keys.json", 0o600, json!({"keys": keys}).to_string());
    let auth = world.loaded();
    let random = SystemRandom::new();
    let rsa = SigningKey::parse(Algorithm::Rs256, &Secret::new(rsa_private_pem().into_bytes()), &random);
    for key in [ed25519(1), SigningKey::P256(pair), rsa.expect("the RFC's"), hs256(SECRET)] {
        let audiences = ["tidegate".to_owned()];
        let roles = ["sensor".to_owned()];
        let grant = Grant {
            issuer: "https://issuer.example",
            subject: "sensor-7",
            audiences: &audiences,
            roles: &roles,
            issued: NOW,
            expires: NOW.plus_ms(1_000),
            ..Grant::default()
        };
        let principal = by_token(&auth, NOW, key.issue(&grant, &random).expect("issued"));
        assert_eq!(principal.expect("a good token").roles, ["sensor".into()], "{key:?}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_with_their_place() {
    let small = format!("f{}", &RSA_N[..RSA_N.len() / 2]);
    let mut private = okp(&private_key(1), "a");
    private["d"] = "AAAA".into();
    for (key, told) in [
        (private, "keys[0] (kid `a`): found a private key"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}), "keys[0]: found 3 bytes of an Ed25519 key; expected 32"),
        (json!({"kty": "OKP", "crv": "Ed25519"}), "found no `x`"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "!"}), "not base64url"),
        (json!({"kty": "RSA", "n": small, "e": "AQAB"}), "expected 2048 to 8192"),
        (json!({"kty": "RSA", "n": RSA_N, "e": "AQ"}), "exponent"),
        (json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}), "expected 32 bytes each"),
        (json!({"kid": 7}), "expected a JSON Web Key Set"),
    ] {
        let error = jwks_world(&["EdDSA", "RS256", "ES256"], json!([key])).refused();
        assert!(error.contains(told) && error.contains("issuers[0].jwks: "), "{error}");
    }
    let error = jwks_world(&["EdDSA", "RS256"], json!([okp(&private_key(1), "a")])).refused();
    assert!(error.contains("issuers[0].algorithms: found no key for RS256"), "{error}");
    for (text, told) in [
        (rsa_private_pem(), "found a private key"),
        (rsa_public_pem(&small), "expected 2048 to 8192"),
        (rsa_public_pem(RSA_N), "found a key for RS256; expected RS256 among algorithms"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), "openssl x509 -pubkey"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".into(), "cannot be read"),
        ("nothing of the kind".into(), "expected PEM with PUBLIC KEY"),
    ] {
        let world = eddsa_world(|_| {});
        world.write("issuer.pub", 0o644, text);
        let error = world.refused();
        assert!(error.contains(told) && error.contains("issuers[0].keys[0]: file:issuer.pub"), "{told}: {error}");
    }
}

proptest! {
    /// Any bytes as a token, and any bytes as the three parts of one.
    #[test]
    fn any_bytes_are_no_token(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        parts in proptest::array::uniform3(proptest::collection::vec(any::<u8>(), 0..60)),
        text in ".{0,80}",
    ) {
        let auth = eddsa_auth();
        prop_assert!(by_token(&auth, NOW, &bytes).is_err());
        prop_assert!(by_token(&auth, NOW, parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")).is_err());
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"iss":"https://issuer.example",{text}}}"#));
        let token = format!("{header}.{claims}.AAAA");
        prop_assert!(by_token(&auth, NOW, token).is_err());
    }
}
