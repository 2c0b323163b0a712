//! `keys`, `passwd` and `token` as a script and a person at a terminal see them: output, files and exit codes.
#![cfg(feature = "daemon")]

use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder in which commands run.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn write(&self, name: &str, mode: u32, text: &str) {
        fs::write(self.path(name), text).expect("written");
        self.set_mode(name, mode);
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).expect(name).permissions().mode() & 0o777
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).expect("its mode");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Runs a command that must end with this code, with an input, and gives standard output and error.
    #[track_caller]
    fn run_with(&self, code: i32, arguments: &[&str], input: &str) -> (String, String) {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        // A command that needs no input may have ended.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        expect(child.wait_with_output().expect("it ends"), code)
    }

    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> (String, String) {
        expect(self.command(arguments).output().expect("it can be started"), code)
    }

    /// One that must succeed, and its output.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(0, arguments).0
    }

    /// One that must fail, and the one sentence that it says.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let (out, err) = self.run(code, arguments);
        assert!(out.is_empty() && err.lines().count() == 1 && err.starts_with("tidegate: "), "{out}{err}");
        err
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

#[track_caller]
fn expect(output: Output, code: i32) -> (String, String) {
    let out = String::from_utf8(output.stdout).expect("text");
    let err = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out, err)
}

#[test]
fn a_new_key_is_its_owners_alone_and_shows_its_public_half() {
    let place = Place::new();
    let public = place.ok(&["keys", "new", "a.key"]);
    assert!(public.starts_with("ed25519:"), "{public}");
    assert_eq!(place.mode("a.key"), 0o600);
    let text = place.read("a.key");
    let private = text.lines().find(|line| line.starts_with("ed25519-private:")).expect("a private key");
    assert!(!public.contains(&private[16..]));
    assert_eq!(place.ok(&["keys", "show", "a.key"]), public);
    let shown = place.json(&["keys", "show", "a.key"]);
    assert!(public.starts_with(shown["public"].as_str().expect("text")) && shown["kind"] == "ed25519");
    // Never over another.
    assert!(place.fails(1, &["keys", "new", "a.key"]).contains("never overwritten"));
    assert_eq!(place.read("a.key"), text);
    assert_ne!(place.ok(&["keys", "new", "b.key"]), public);
    // Of what others can read nobody knows who has it.
    place.set_mode("a.key", 0o644);
    assert!(place.fails(1, &["keys", "show", "a.key"]).contains("chmod 600"));
    place.write("a.pub", 0o644, &public);
    assert_eq!(place.ok(&["keys", "show", "a.pub"]), public);
    assert!(place.fails(1, &["keys", "new", "none/a.key"]).contains("cannot be made"));
    place.write("other", 0o600, "hunter2\n");
    let told = place.fails(1, &["keys", "show", "other"]);
    assert!(told.contains("expected an Ed25519 private key") && !told.contains("hunter2"), "{told}");
}

#[test]
fn a_sealing_key_is_never_shown() {
    let place = Place::new();
    let made = place.ok(&["keys", "new", "--sealing", "site.seal"]);
    let text = place.read("site.seal");
    let key = text.lines().find_map(|line| line.strip_prefix("seal:")).expect("a key");
    let shown = place.ok(&["keys", "show", "site.seal"]);
    assert!(made == shown && shown.starts_with("sealing key ") && !shown.contains(key), "{shown}");
    assert_eq!(place.mode("site.seal"), 0o600);
    let told = place.fails(1, &["keys", "authorize", "identities", "site.seal", "--name", "a", "--role", "r"]);
    assert!(told.contains("no public half"), "{told}");
}

#[test]
fn keys_are_authorized_replaced_and_removed_and_the_rest_of_the_file_stays() {
    let place = Place::new();
    place.write("identities", 0o640, "# the site's\n\nuid 1000 name=backup roles=reader # daily\n");
    let public = place.ok(&["keys", "new", "a.key"]);
    let public = public.split(' ').next().expect("a key");
    let other = place.ok(&["keys", "new", "b.key"]);
    let other = other.split(' ').next().expect("a key");
    fn authorize<'a>(rest: &[&'a str]) -> Vec<&'a str> {
        [&["keys", "authorize", "identities"], rest].concat()
    }
    let told = place.ok(&authorize(&[
        "a.key",
        "--name",
        "sensor-7",
        "--tenant",
        "acme",
        "--role",
        "sensor",
        "--role",
        "reader",
        "--expires",
        "2099-01-01",
    ]));
    assert_eq!(told, "added: key of sensor-7 in identities\n");
    let first = "# the site's\n\nuid 1000 name=backup roles=reader # daily\n";
    let line = format!("key {public} name=sensor-7 tenant=acme roles=sensor,reader expires=2099-01-01\n");
    assert_eq!(place.read("identities"), format!("{first}{line}"));
    assert_eq!(place.mode("identities"), 0o640);
    // Twice the key, twice the name.
    let told = place.fails(1, &authorize(&[public, "--name", "other", "--role", "sensor"]));
    assert!(told.contains("which is in line 4"), "{told}");
    let told = place.fails(1, &authorize(&[other, "--name", "sensor-7", "--tenant", "acme", "--role", "sensor"]));
    assert!(told.contains("has a key in line 4") && told.contains("--replace"), "{told}");
    // The same name elsewhere is another.
    place.ok(&authorize(&[other, "--name", "sensor-7", "--role", "sensor"]));
    place.ok(&authorize(&["--name", "sensor-7", "--remove"]));
    assert_eq!(place.read("identities"), format!("{first}{line}"));
    // A rotation keeps roles and end.
    let done = place.json(&authorize(&["b.key", "--name", "sensor-7", "--tenant", "acme", "--replace"]));
    assert_eq!((&done["done"], &done["roles"][1]), (&"replaced".into(), &"reader".into()));
    let line = format!("key {other} name=sensor-7 tenant=acme roles=sensor,reader expires=2099-01-01T00:00:00Z\n");
    assert_eq!(place.read("identities"), format!("{first}{line}"));
    place.ok(&authorize(&[other, "--remove"]));
    assert_eq!(place.read("identities"), first);
    assert!(place.fails(1, &authorize(&[other, "--remove"])).contains("no such key"));
    for wrong in [
        &["--name", "a", "--role", "b"][..],
        &["ed25519:AAAA", "--name", "a", "--role", "b"],
        &[other, "--role", "b"],
        &[other, "--name", "a"],
        &[other, "--name", "a/b", "--role", "b"],
        &[other, "--name", "a", "--role", "b c"],
        &[other, "--name", "a", "--role", "b", "--expires", "tomorrow"],
        &["--remove"],
        &[other, "--remove", "--role", "b"],
    ] {
        place.run(2, &authorize(wrong));
    }
    assert_eq!(place.read("identities"), first);
    // One that others may change is not made theirs by our hand.
    place.set_mode("identities", 0o666);
    assert!(place.fails(1, &authorize(&[other, "--name", "a", "--role", "b"])).contains("chmod go-w"));
    place.write("identities", 0o600, "# fine\nfrob\n");
    assert!(place.fails(1, &authorize(&[other, "--name", "a", "--role", "b"])).contains("identities:2: found `frob`"));
}

#[test]
fn passwords_come_from_a_line_of_standard_input_and_only_their_hash_is_kept() {
    let place = Place::new();
    let alice = ["passwd", "identities", "alice"];
    let with = |rest: &[&'static str]| [&alice[..], rest].concat();
    let (told, _) = place.run_with(0, &with(&["--role", "operator"]), "correct horse\n");
    assert_eq!(told, "added: password of alice in identities\n");
    let first = place.read("identities");
    assert!(
        first.starts_with("password alice $argon2id$v=19$m=9216,t=4,p=1$") && first.ends_with(" roles=operator\n"),
        "{first}"
    );
    assert!(!first.contains("correct") && place.mode("identities") == 0o600);
    // Another password keeps the roles; the salt is another.
    place.run_with(0, &alice, "correct horse\n");
    let second = place.read("identities");
    assert!(second != first && second.ends_with(" roles=operator\n") && second.lines().count() == 1, "{second}");
    place.run_with(0, &with(&["--tenant", "acme", "--role", "reader"]), "battery staple");
    assert!(place.read("identities").lines().nth(1).is_some_and(|line| line.ends_with(" tenant=acme roles=reader")));
    let unchanged = place.read("identities");
    for (input, code, told) in [
        ("seven77\n", 1, "at least 8 are needed"),
        ("éééé\n", 1, "has 4 characters"),
        ("\n", 1, "has 0 characters"),
        ("", 2, "standard input is empty"),
        (&"x".repeat(1_025), 1, "longer than 1024 bytes"),
        (&"x".repeat(5_000), 1, "longer than 4096 bytes"),
    ] {
        let (_, err) = place.run_with(code, &alice, input);
        assert!(err.contains(told) && !err.contains("seven77"), "{err}");
    }
    let (_, err) = place.run_with(2, &["passwd", "identities", "bob"], "correct horse\n");
    assert!(err.contains("`bob` is new: which roles?"), "{err}");
    assert_eq!(place.read("identities"), unchanged);
    place.ok(&with(&["--remove"]));
    assert_eq!(place.read("identities").lines().count(), 1);
    assert!(place.fails(1, &with(&["--remove"])).contains("has no password"));
    // Hashes that others can read are told about before anything is asked.
    place.set_mode("identities", 0o646);
    assert!(place.fails(1, &alice).contains("chmod go-w"));
}

/// A person: types when asked, and sees nothing of what is typed.
#[test]
fn at_a_terminal_the_password_is_asked_twice_and_not_shown() {
    for (typed, code, told) in [
        (["correct horse\r", "correct horse\r"], 0, ""),
        // A character back, and a line taken back.
        (["correcx\x7ft horse\r", "wrong\x15correct horse\r"], 0, ""),
        (["correct horse\r", "correct house\r"], 1, "not the same"),
        (["correct h\x03", ""], 130, ""),
        (["short\r", ""], 1, "at least 8"),
    ] {
        let place = Place::new();
        let terminal =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).expect("a pty");
        rustix::pty::grantpt(&terminal).expect("granted");
        rustix::pty::unlockpt(&terminal).expect("unlocked");
        let name = rustix::pty::ptsname(&terminal, Vec::new()).expect("a name");
        let seat =
            fs::File::options().read(true).write(true).open(name.to_str().expect("text")).expect("the other end");
        let before = rustix::termios::tcgetattr(&seat).expect("a terminal").local_modes;
        let mut command = place.command(&["passwd", "identities", "alice", "--role", "operator"]);
        command.stdin(seat.try_clone().expect("cloned")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let mut err = child.stderr.take().expect("a pipe");
        let mut said = String::new();
        // What is typed before the question is asked is thrown away.
        for (question, answer) in ["New password of alice: ", "The same again: "].iter().zip(typed) {
            while !said.ends_with(question) {
                let mut byte = [0];
                if err.read(&mut byte).expect("read") == 0 {
                    break;
                }
                said.push(char::from(byte[0]));
            }
            if !answer.is_empty() {
                rustix::io::write(&terminal, answer.as_bytes()).expect("typed");
            }
        }
        let output = child.wait_with_output().expect("it ends");
        err.read_to_string(&mut said).expect("read");
        assert_eq!(output.status.code(), Some(code), "{typed:?}: {said}");
        assert!(said.contains(told) && !said.contains("correct"), "{said}");
        // The terminal is as it was, and showed nothing.
        assert_eq!(rustix::termios::tcgetattr(&seat).expect("a terminal").local_modes, before);
        rustix::io::ioctl_fionbio(&terminal, true).expect("not waiting");
        let mut shown = [0; 256];
        let shown = rustix::io::read(&terminal, &mut shown).map_or(0, |len| len);
        assert_eq!(shown, 0, "{typed:?}");
        assert_eq!(place.path("identities").exists(), code == 0);
    }
}

fn configuration(place: &Place, issuer: &str) {
    place.write(
        "tidegate.yaml",
        0o644,
        &format!("issuers:\n  - name: site\n    audiences: [tidegate]\n    roles: [open]\n{issuer}"),
    );
}

#[test]
fn a_token_is_issued_inspected_and_verified() {
    let place = Place::new();
    let public = place.ok(&["keys", "new", "issuer.key"]);
    place.write("issuer.pub", 0o644, public.split(' ').next().expect("a key"));
    configuration(&place, "    algorithms: [EdDSA]\n    keys: [\"file:issuer.pub\"]\n");
    let issue = |rest: &[&str]| {
        let first = ["token", "issue", "--issuer", "site", "--sign-with", "file:issuer.key", "--subject", "sensor-7"];
        place.ok(&[&first, rest].concat())
    };
    let token = issue(&["--audience", "tidegate", "--role", "open", "--role", "admin", "--for", "2h", "--kid", "k"]);
    let verify = ["token", "verify", "--config", "tidegate.yaml", "--data", "."];
    let (said, _) = place.run_with(0, &verify, &token);
    assert!(said.starts_with("valid: sensor-7, roles open, until 20"), "{said}");
    place.write("token", 0o600, &token);
    let answer = place.json(&[&verify[..], &["token"]].concat());
    assert_eq!(
        (&answer["valid"], &answer["name"], &answer["roles"][0]),
        (&true.into(), &"sensor-7".into(), &"open".into())
    );
    let (said, _) = place.run_with(0, &["token", "inspect"], &token);
    for piece in
        ["\"alg\": \"EdDSA\"", "\"kid\": \"k\"", "\"sub\": \"sensor-7\"", "ends 20", "in 119 minutes", "not verified"]
    {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    let looked = place.json(&["token", "inspect", "token"]);
    assert_eq!((&looked["verified"], &looked["claims"]["aud"]), (&false.into(), &"tidegate".into()));
    // What is refused says why, in one sentence, and ends with 4.
    for (token, told) in [
        (issue(&["--audience", "others"]), "wrong-audience"),
        (format!("{}AAAA", token.trim()), "bad-signature"),
        ("nothing".into(), "malformed"),
        ("x".repeat(1 << 20), "too-large"),
    ] {
        let (out, err) = place.run_with(4, &verify, &token);
        assert!(out.is_empty() && err.contains(told) && err.lines().count() == 1, "{err}");
        let (out, _) = place.run_with(4, &[&verify[..], &["--json"]].concat(), &token);
        let answer: Value = serde_json::from_str(&out).expect("JSON");
        assert!(answer["valid"] == false && answer["reason"] == told, "{answer}");
    }
    let (_, err) = place.run_with(1, &["token", "inspect"], "a.b");
    assert!(err.contains("three parts"), "{err}");
    place.run_with(1, &verify, "");
    configuration(&place, "    algorithms: [EdDSA]\n    keys: [\"file:missing.pub\"]\n");
    let (_, err) = place.run_with(6, &verify, &token);
    assert!(err.contains("issuers[0].keys[0]: file:missing.pub: found no such file"), "{err}");
}

#[test]
fn a_secret_of_tokens_comes_from_a_source_and_never_from_the_command_line() {
    let place = Place::new();
    let secret = "a secret of more than thirty-two bytes";
    place.write("secret", 0o600, &format!("{secret}\n"));
    configuration(&place, "    algorithms: [HS256]\n    keys: [\"env:TOKEN_SECRET\"]\n");
    let issue = |key: &'static str| {
        [
            "token",
            "issue",
            "--issuer",
            "site",
            "--algorithm",
            "HS256",
            "--subject",
            "a",
            "--audience",
            "tidegate",
            "--sign-with",
            key,
        ]
    };
    let token = place.ok(&issue("file:secret"));
    let mut verify = place.command(&["token", "verify", "--config", "tidegate.yaml", "--data", "."]);
    place.write("token", 0o600, &token);
    verify.stdin(fs::File::open(place.path("token")).expect("there")).env("TOKEN_SECRET", secret);
    let (said, _) = expect(verify.output().expect("it can be started"), 0);
    assert!(said.starts_with("valid: a, roles none"), "{said}");
    let told = place.fails(1, &issue("a secret of more than thirty-two bytes"));
    assert!(told.contains("file:PATH") && !told.contains("thirty-two"), "{told}");
    place.set_mode("secret", 0o604);
    assert!(place.fails(1, &issue("file:secret")).contains("chmod 600"));
    place.write("secret", 0o600, "too short\n");
    assert!(place.fails(1, &issue("file:secret")).contains("at least 32"));
    assert!(place.fails(1, &issue("env:NOBODY_SETS_THIS")).contains("no such variable"));
    for wrong in [&["--for", "0s"][..], &["--for", "40000d"], &["--algorithm", "none"], &["--subject", "a/b"]] {
        place.run(2, &[&issue("file:secret")[..], wrong].concat());
    }
}

/// Configuration has sources of secrets and no place for a secret itself.
#[test]
fn a_secret_in_the_configuration_is_refused_and_not_repeated() {
    let place = Place::new();
    let secret = "hunter2hunter2hunter2hunter2hunter2";
    for line in [
        format!("issuers:\n  - name: site\n    audiences: [a]\n    algorithms: [HS256]\n    keys: [\"{secret}\"]\n"),
        format!("tls:\n  keys: [\"{secret}\"]\n"),
    ] {
        place.write("tidegate.yaml", 0o644, &line);
        let (_, err) = place.run(6, &["check-config", "tidegate.yaml"]);
        assert!(err.contains("expected file:PATH, credential:NAME"), "{err}");
        assert!(!err.contains("hunter2"), "{err}");
    }
}

#[test]
fn the_help_teaches() {
    let place = Place::new();
    let help = place.ok(&["help", "keys"]);
    for piece in ["key ed25519:", "password alice", "certificate ", "uid 1000"] {
        assert!(help.contains(piece), "{help}");
    }
    assert!(place.ok(&["help", "passwd"]).contains("at least 8 characters"));
    assert!(place.ok(&["help", "token", "issue"]).contains("file:PATH, credential:NAME or env:NAME"));
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/identities.md").exists());
}

#[test]
fn what_keys_show_prints_is_what_keys_authorize_takes() {
    let place = Place::new();
    let printed = place.ok(&["keys", "new", "a.key"]);
    assert_eq!(place.ok(&["keys", "show", "a.key"]), printed);
    place.ok(&["keys", "authorize", "identities", printed.trim(), "--name", "a", "--role", "open"]);
    assert!(place.read("identities").contains(printed.split_whitespace().next().expect("a key")));
}
