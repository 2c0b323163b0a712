//! Keys, passwords, certificates and users of this machine against an identities file.

use super::{NOW, World, answer, attempt, by_key, password_data, peer, private_key, reason};
use crate::auth::Authenticator;
use crate::auth::password::Hashed;
use crate::config::SignatureSettings;
use crate::model::Wall;
use crate::session::{AUTH_CONTEXT, Attempt, Certificate, Denied, Method, Peer, Principal, REAUTH_CONTEXT, Via};
use proptest::prelude::*;
use std::sync::Arc;

fn by_password(auth: &Authenticator, name: &str, password: &str) -> Result<Principal, Denied> {
    auth.check(NOW, &attempt(Method::Password, password_data(name.as_bytes(), password.as_bytes())))
}

fn by_certificate(auth: &Authenticator, now: Wall, names: &[&str]) -> Result<Principal, Denied> {
    let certificate = Certificate {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        fingerprint: [0; 32],
        expires: NOW.plus_ms(1_000),
    };
    let address = "192.0.2.1:1".parse().expect("an address");
    let peer = Peer::Ip { address, via: Via::Tls, certificate: Some(Arc::new(certificate)) };
    auth.check(now, &Attempt { peer, ..attempt(Method::Transport, []) })
}

fn by_user(auth: &Authenticator, uid: u32, admin: bool) -> Result<Principal, Denied> {
    let peer = Peer::Unix { uid, pid: 1, admin };
    auth.check(NOW, &Attempt { peer, ..attempt(Method::Transport, []) })
}

fn hash(password: &str, passes: u32) -> String {
    Hashed::with(password.as_bytes(), &[7; 16], 16, passes).as_str().to_owned()
}

fn keys() -> World {
    World::new().identities(&format!(
        "key {} name=sensor-7 tenant=acme roles=sensor,reader\nkey {} name=old roles=sensor expires=2027-01-15T08:00:00Z\n\
         key {} name=new roles=sensor expires=2027-01-15T08:00:01Z\n",
        private_key(1).public(),
        private_key(2).public(),
        private_key(3).public(),
    ))
}

#[test]
fn a_key_that_signed_the_challenge_is_its_line() {
    let auth = keys().loaded();
    let principal = by_key(&auth, &private_key(1)).expect("a good key");
    let roles: Vec<&str> = principal.roles.iter().map(|role| &**role).collect();
    assert_eq!((&*principal.name, &*principal.tenant, roles), ("sensor-7", "acme", vec!["sensor", "reader"]));
    assert_eq!((principal.method, principal.expires, principal.admin), (Method::Key, None, false));
    assert_eq!(by_key(&auth, &private_key(3)).expect("still valid").expires, Some(Wall(NOW.0 + 1_000)));
    assert_eq!(reason(by_key(&auth, &private_key(2))), "expired");
    assert_eq!(reason(by_key(&auth, &private_key(4))), "unknown-key");
}

/// An answer that was recorded is of another challenge.
#[test]
fn replayed_challenges_are_refused() {
    let auth = keys().loaded();
    let recorded = answer(&private_key(1), AUTH_CONTEXT, &[9; 32]);
    auth.check(NOW, &attempt(Method::Key, recorded.clone())).expect("the first time, on its own connection");
    let mut replayed = attempt(Method::Key, recorded.clone());
    replayed.nonce = [8; 32];
    assert_eq!(reason(auth.check(NOW, &replayed)), "bad-signature");
    // Nor does one of a login renew a session, or the other way round.
    let mut again = attempt(Method::Key, recorded);
    again.again = true;
    assert_eq!(reason(auth.check(NOW, &again)), "bad-signature");
    let renewal = answer(&private_key(1), REAUTH_CONTEXT, &[9; 32]);
    assert_eq!(reason(auth.check(NOW, &attempt(Method::Key, renewal.clone()))), "bad-signature");
    let mut again = attempt(Method::Key, renewal);
    again.again = true;
    auth.check(NOW, &again).expect("its own context");
}

#[test]
fn forged_and_truncated_signatures_are_refused() {
    let auth = keys().loaded();
    let good = answer(&private_key(1), AUTH_CONTEXT, &[9; 32]);
    for len in 0..good.len() {
        assert_eq!(reason(auth.check(NOW, &attempt(Method::Key, &good[..len]))), "malformed", "{len} bytes");
    }
    assert_eq!(reason(auth.check(NOW, &attempt(Method::Key, [&good[..], &[0]].concat()))), "malformed");
    for at in 0..good.len() {
        let mut forged = good.clone();
        forged[at] ^= 1;
        let expected = if at < 32 { "unknown-key" } else { "bad-signature" };
        assert_eq!(reason(auth.check(NOW, &attempt(Method::Key, forged))), expected, "byte {at}");
    }
    // Somebody else's signature under a known key.
    let mut other = answer(&private_key(5), AUTH_CONTEXT, &[9; 32]);
    other[..32].copy_from_slice(private_key(1).public().as_bytes());
    assert_eq!(reason(auth.check(NOW, &attempt(Method::Key, other))), "bad-signature");
}

#[test]
fn a_password_is_taken_with_its_name_and_tenant_alone() {
    let auth = World::new()
        .identities(&format!(
            "password alice {} roles=reader\npassword alice {} tenant=acme roles=sensor\n",
            hash("correct horse", 1),
            hash("battery staple", 1)
        ))
        .loaded();
    let alice = by_password(&auth, "alice", "correct horse").expect("her password");
    assert_eq!((&*alice.name, &*alice.tenant, alice.method), ("alice", "", Method::Password));
    let acme = by_password(&auth, "acme/alice", "battery staple").expect("her password");
    assert_eq!((&*acme.name, &*acme.tenant, &*acme.roles[0]), ("alice", "acme", "sensor"));
    for (name, password, expected) in [
        ("alice", "correct horsE", "wrong-password"),
        ("alice", "", "wrong-password"),
        ("alice", "battery staple", "wrong-password"),
        ("acme/alice", "correct horse", "wrong-password"),
        ("beta/alice", "correct horse", "unknown-user"),
        ("/alice", "correct horse", "unknown-user"),
        ("bob", "correct horse", "unknown-user"),
        ("", "", "unknown-user"),
    ] {
        let denied = by_password(&auth, name, password).expect_err("refused");
        assert_eq!(denied.reason, expected, "{name} {password}");
        assert!(password.is_empty() || !denied.detail.contains(password), "{denied}");
    }
}

#[test]
fn what_is_no_name_and_password_is_malformed() {
    let auth = World::new().identities(&format!("password alice {} roles=reader\n", hash("x", 1))).loaded();
    let good = password_data(b"alice", b"x");
    let long = vec![b'x'; 1_025];
    for data in [
        vec![],
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        password_data(b"ali\xffce", b"x"),
        password_data(b"alice", &long),
        password_data(&long, b"x"),
        // A length of 4 GiB.
        vec![0xff, 0xff, 0xff, 0xff, 0x0f, b'a'],
        vec![0xff; 20],
    ] {
        assert_eq!(reason(auth.check(NOW, &attempt(Method::Password, data.clone()))), "malformed", "{data:?}");
    }
}

/// The time does not tell who is there: an unknown name is tried with a hash that costs what the costliest does.
#[test]
fn unknown_users_cost_what_known_ones_do() {
    let world = World::new().identities(&format!(
        "password alice {} roles=reader\npassword bob {} roles=reader\n",
        hash("a", 1),
        hash("b", 3)
    ));
    let auth = world.loaded();
    let dummy = auth.dummy.as_ref().expect("there are passwords");
    assert_eq!(dummy.work(), 16 * 3);
    assert!(!dummy.fits(b"a") && !dummy.fits(b"b") && !dummy.fits(b""));
}

#[test]
fn a_certificate_is_the_first_line_that_one_of_its_names_fits() {
    let auth = World::new()
        .identities(
            "certificate gw.example.org name=gateway tenant=acme roles=reader\n\
             certificate *.sensors.example.org roles=sensor\n\
             certificate special.sensors.example.org name=special roles=reader\n\
             certificate spiffe://example.org/App name=app roles=reader\n\
             certificate ops@example.org roles=reader expires=2027-01-15T08:00:00Z\n",
        )
        .loaded();
    for (names, name, tenant) in [
        (&["gw.example.org"][..], "gateway", "acme"),
        (&["GW.Example.ORG"], "gateway", "acme"),
        (&["unknown.example.org", "gw.example.org"], "gateway", "acme"),
        (&["S7.sensors.example.org"], "s7.sensors.example.org", ""),
        // The file's order decides, neither the certificate's nor how exactly a line fits.
        (&["special.sensors.example.org"], "special.sensors.example.org", ""),
        (&["s7.sensors.example.org", "gw.example.org"], "gateway", "acme"),
        (&["spiffe://example.org/App"], "app", ""),
    ] {
        let principal = by_certificate(&auth, NOW, names).unwrap_or_else(|denied| panic!("{names:?}: {denied}"));
        assert_eq!((&*principal.name, &*principal.tenant, principal.method), (name, tenant, Method::Transport));
        // A session does not outlive what it was let in with.
        assert_eq!(principal.expires, Some(NOW.plus_ms(1_000)));
    }
    for names in [
        &[][..],
        &["example.org"],
        &["sensors.example.org"],
        &["a.b.sensors.example.org"],
        &[".sensors.example.org"],
        &["*.sensors.example.org"],
        &["spiffe://example.org/app"],
        &["gw.example.org.evil.org"],
        &["x/y.sensors.example.org"],
    ] {
        assert_eq!(reason(by_certificate(&auth, NOW, names)), "unknown-certificate", "{names:?}");
    }
    assert_eq!(reason(by_certificate(&auth, NOW, &["ops@example.org"])), "expired");
    assert_eq!(reason(by_certificate(&auth, NOW.plus_ms(1_000), &["gw.example.org"])), "expired");
    // A label that would be a wildcard in a filter.
    assert_eq!(reason(by_certificate(&auth, NOW, &["+.sensors.example.org"])), "name");
    assert_eq!(reason(by_certificate(&auth, NOW, &["#.sensors.example.org"])), "name");
}

#[test]
fn users_of_this_machine_are_their_line_and_its_administrator_is_one() {
    let auth = World::new().identities("uid 1000 name=backup tenant=acme roles=reader\n").loaded();
    let backup = by_user(&auth, 1_000, false).expect("it has a line");
    assert_eq!((&*backup.name, &*backup.tenant, backup.admin), ("backup", "acme", false));
    assert_eq!(reason(by_user(&auth, 1_001, false)), "unknown-user");
    assert_eq!(by_user(&auth, 0, true), Ok(Principal::local_admin()));
    // A network peer is nobody by its transport.
    assert_eq!(reason(auth.check(NOW, &attempt(Method::Transport, []))), "no-credentials");
}

#[test]
fn what_is_taken_is_what_somebody_could_come_in_by() {
    let auth = keys().loaded();
    let takes = |auth: &Authenticator| {
        [Method::None, Method::Token, Method::Password, Method::Key, Method::Transport].map(|m| auth.takes(m))
    };
    assert_eq!(takes(&auth), [false, false, false, true, false]);
    assert_eq!(takes(&World::new().loaded()), [false; 5]);
    let users = World::new().identities("uid 1000 name=a roles=reader\n").loaded();
    assert_eq!(takes(&users), [false, false, false, false, true]);
    assert_eq!(reason(auth.check(NOW, &attempt(Method::None, []))), "no-credentials");
    assert_eq!(reason(auth.check(NOW, &attempt(Method::Token, b"x".to_vec()))), "not-configured");
    assert_eq!(reason(auth.check(NOW, &attempt(Method::Password, b"x".to_vec()))), "not-configured");
}

#[test]
fn rules_of_signatures_name_keys_of_their_tenant() {
    let mut world = keys();
    let rule = |tenant: &str, key: &str| SignatureSettings {
        channels: vec!["#".into()],
        keys: vec![key.into()],
        tenant: tenant.into(),
    };
    let auth = world.loaded();
    assert_eq!(auth.signers(&rule("acme", "sensor-7")), Ok(vec![private_key(1).public()]));
    let inline = private_key(9).public();
    assert_eq!(auth.signers(&rule("", &inline.to_string())), Ok(vec![inline]));
    let private = private_key(9).to_text();
    let error = auth.signers(&rule("", &private)).expect_err("a private key");
    assert!(!error.contains(&private[..30]) && error.contains("something else"), "{error}");
    world.settings.signatures = vec![rule("", "sensor-7")];
    assert!(world.refused().contains("signatures[0].keys: found `sensor-7`"), "it is of another tenant");
}

#[test]
fn files_are_listed_so_that_they_can_be_watched() {
    let world = keys();
    assert_eq!(world.loaded().files(), [world.folder.path().join("identities")]);
}

#[test]
fn one_judge_serves_all_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Authenticator>();
}

proptest! {
    /// Whatever the bytes of whatever method: a principal or a reason.
    #[test]
    fn any_bytes_of_any_method_are_judged(
        method in 0u8..5, again: bool, nonce: [u8; 32], bytes in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let auth = keys().loaded();
        let method = Method::from_u8(method).expect("it is one");
        let attempt = Attempt { method, data: bytes, nonce, again, peer: peer() };
        // Nobody guesses a signature.
        prop_assert!(auth.check(NOW, &attempt).is_err());
    }
}
