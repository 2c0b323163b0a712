//! The identities file: what is taken, and every mistake with its line.

use super::World;
use crate::auth::identities::{Identity, Kind, Proof, parse, parse_line};
use crate::auth::password::Hashed;
use crate::auth::utc;
use proptest::prelude::*;
use std::path::Path;

const KEY: &str = "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

fn hash() -> String {
    Hashed::with(b"correct horse", &[7; 16], 16, 1).as_str().to_owned()
}

fn one(line: &str) -> Result<Identity, String> {
    parse_line(line, 1).map(|identity| identity.expect("a line of somebody"))
}

#[test]
fn each_kind_of_line_is_read() {
    let key = one(&format!("key {KEY} name=sensor-7 tenant=acme roles=sensor,reader expires=2027-01-01T00:00:00Z # x"))
        .expect("a line");
    assert_eq!((&*key.name, &*key.tenant, key.roles.len()), ("sensor-7", "acme", 2));
    assert_eq!(key.expires, utc::parse("2027-01-01"));
    assert!(matches!(&key.proof, Proof::Key(public) if public.to_string() == KEY));
    let password = one(&format!("password alice {} roles=reader", hash())).expect("a line");
    assert_eq!((&*password.name, &*password.tenant, password.proof.kind()), ("alice", "", Kind::Password));
    let certificate = one("certificate *.Sensors.example.org roles=sensor").expect("a line");
    let Proof::Certificate(pattern) = &certificate.proof else { panic!("{certificate:?}") };
    assert!(pattern.wildcard && &*pattern.name == "sensors.example.org" && certificate.name.is_empty());
    assert_eq!(&*one("certificate host.example.org roles=sensor").expect("a line").name, "host.example.org");
    let uri = one("certificate spiffe://example.org/A name=a roles=sensor").expect("a line");
    assert!(matches!(&uri.proof, Proof::Certificate(p) if &*p.name == "spiffe://example.org/A"));
    let user = one("uid 1000 name=backup roles=reader").expect("a line");
    assert_eq!(user.proof, Proof::User(1_000));
    for nothing in ["", "   ", "# key", "\t# x", "#"] {
        assert_eq!(parse_line(nothing, 1), Ok(None), "{nothing:?}");
    }
}

#[test]
fn mistakes_say_what_was_found_and_what_was_expected() {
    let hash = hash();
    for (line, told) in [
        ("keys x", "found `keys`; expected key, password, certificate or uid"),
        ("key", "found nothing behind `key`; expected ed25519:"),
        ("key AAAA name=a roles=r", "something else behind `key`: a key here begins with `ed25519:`"),
        ("key ed25519:AAAA name=a roles=r", "a key has 32 bytes"),
        ("key ed25519:!! name=a roles=r", "not base64"),
        (&format!("key {KEY} roles=r"), "found no name="),
        (&format!("key {KEY} name=a"), "found no roles="),
        (&format!("key {KEY} name=a roles="), "found `` in roles="),
        (&format!("key {KEY} name=a roles=r,r"), "role `r` twice"),
        (&format!("key {KEY} name=a/b roles=r"), "found the name `a/b`"),
        (&format!("key {KEY} name=+ roles=r"), "found the name `+`"),
        (&format!("key {KEY} name=$sys roles=r"), "found the name `$sys`"),
        (&format!("key {KEY} name=a name=b roles=r"), "name= twice"),
        (&format!("key {KEY} name=a roles=r tenant=a/b"), "found the name `a/b`"),
        (&format!("key {KEY} name=a roles=r colour=red"), "found `colour=`; expected name="),
        (&format!("key {KEY} name=a roles=r red"), "found `red`; expected name="),
        (&format!("key {KEY} name=a roles=r expires=tomorrow"), "found `tomorrow`; expected a time in UTC"),
        ("password alice", "found no hash behind the name"),
        ("password alice hunter2 roles=r", "no hash of a password"),
        ("key ed25519-private:hunter2 name=a roles=r", "something else behind `key`"),
        ("ed25519-private:hunter2", "found something else; expected key, password"),
        (&format!("key {KEY} name=a roles=r seal:hunter2"), "found something else; expected name="),
        (&format!("password {hash} roles=r"), "found nothing behind `password`"),
        (&format!("password alice {hash} name=bob roles=r"), "a password has its name in front"),
        (
            "password alice $argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc roles=r",
            "at most m=65536",
        ),
        ("certificate roles=r", "found nothing behind `certificate`"),
        ("certificate a.*.example.org roles=r", "a `*` elsewhere"),
        ("certificate * roles=r", "a `*` elsewhere"),
        ("certificate *.* roles=r", "a `*` elsewhere"),
        ("certificate *.a@example.org roles=r", "no host name"),
        ("certificate spiffe://example.org/A roles=r", "without name="),
        ("uid root name=a roles=r", "found `root`; expected the number"),
        ("uid -1 name=a roles=r", "found `-1`; expected the number"),
        ("uid 0 name=a roles=r", "found uid 0"),
    ] {
        let error = one(line).expect_err(line);
        assert!(error.contains(told), "{line}: {error}");
        assert!(!error.contains("hunter2") && !error.contains(&hash), "{error}");
    }
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_line() {
    let world = World::new().identities(&format!(
        "# who may come in\nkey {KEY} name=a tenant=acme roles=sensor\n\nkey {KEY} name=b roles=sensor\n\
         uid 1000 name=c roles=boss\nuid 1001 name=c tenant=gamma roles=sensor\nuid 1002 name=c roles=sensor\nfrob\n"
    ));
    let told = world.refused();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    for (line, (number, told)) in lines.iter().zip([
        (4, "which is in line 2; expected each once"),
        (5, "found role `boss`; expected one of: admin, open, reader, sensor"),
        (6, "found tenant `gamma`"),
        (7, "found uid of `c`, who has one in line 5"),
        (8, "found `frob`"),
    ]) {
        assert!(line.contains(&format!("identities:{number}: ")) && line.contains(told), "{line}");
    }
}

#[test]
fn names_are_unique_within_tenant_and_kind_and_roles_may_be_built_in() {
    let world = World::new().identities(&format!(
        "key {KEY} name=a roles=open\nuid 1000 name=a roles=admin\nuid 1001 name=a tenant=acme roles=sensor\n\
         password a {} roles=reader\ncertificate a roles=reader\n",
        hash()
    ));
    world.loaded();
}

#[test]
fn others_may_not_write_the_file_nor_read_hashes_in_it() {
    let plain = format!("key {KEY} name=a roles=sensor\n");
    let hashes = format!("password a {} roles=sensor\n", hash());
    for (text, mode, told) in [
        (&plain, 0o600, None),
        (&plain, 0o644, None),
        (&plain, 0o664, Some("chmod go-w")),
        (&plain, 0o606, Some("chmod go-w")),
        (&hashes, 0o600, None),
        (&hashes, 0o640, None),
        (&hashes, 0o644, Some("chmod 600")),
        (&hashes, 0o662, Some("chmod go-w")),
    ] {
        let world = World::new().identities(text);
        world.write("identities", mode, text);
        match (world.load(), told) {
            (Ok(_), None) => {}
            (Err(error), Some(told)) => {
                let error = error.to_string();
                assert!(error.contains(told) && error.contains("identities: "), "{error}");
            }
            (result, _) => panic!("{mode:o}: {result:?}"),
        }
    }
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_refused() {
    let mut world = World::new();
    world.settings.auth.identities = Some("missing".into());
    assert!(world.refused().contains("missing: found no such file"));
    world.write("missing", 0o600, b"# fine\nuid 1 name=\xff roles=sensor\n");
    assert!(world.refused().contains("missing:2: found a byte that is not UTF-8"));
    world.write("missing", 0o600, format!("# {}\n", "x".repeat(5_000)));
    assert!(world.refused().contains("missing:1: found a line of 5002 bytes; expected at most 4096"));
    let many: String = (0..200).map(|_| "frob\n").collect();
    world.write("missing", 0o600, many);
    assert_eq!(world.refused().lines().count(), 100);
}

proptest! {
    /// Any bytes are identities or mistakes, and nothing else happens.
    #[test]
    fn any_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, Path::new("x"), None);
    }

    /// As above, of words that are nearly right.
    #[test]
    fn any_line_of_words_is_read_or_refused(words in proptest::collection::vec(
        prop_oneof![
            Just("key"), Just("password"), Just("certificate"), Just("uid"), Just(KEY), Just("1000"), Just("name=a"),
            Just("tenant=b"), Just("roles=c,d"), Just("expires=2027-01-01"), Just("*.a.b"), Just("="), Just("#"),
            Just("$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"),
        ], 0..7)
    ) {
        if let Ok(Some(identity)) = parse_line(&words.join(" "), 3) {
            prop_assert!(!identity.roles.is_empty() && identity.line == 3);
        }
    }
}
