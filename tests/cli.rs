//! The command line as a script sees it: output, files and exit codes, against brokers of the same program.
#![cfg(feature = "daemon")]
#![allow(clippy::disallowed_methods, reason = "a test waits for a condition, but not for ever")]

use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = r##"
listen:
  tcp: ["127.0.0.1:0"]
queues:
  - name: main
    capture: ["#"]
    consumer:
      attempts: 3
      backoff: 10ms
  - name: tiny
    capture: ["tiny/#"]
    limits:
      messages: 2
log:
  level: warn
"##;

struct Broker {
    child: Child,
    folder: tempfile::TempDir,
    tcp: String,
}

impl Broker {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("config.yaml"), CONFIG).expect("config");
        let mut broker = Self { child: serve(folder.path()), folder, tcp: String::new() };
        broker.await_ready();
        broker
    }

    /// Kills it hard and starts it again on what is left.
    fn restart(&mut self) {
        self.kill();
        self.child = serve(self.folder.path());
        self.await_ready();
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("killed");
    }

    fn await_ready(&mut self) {
        let pid = u64::from(self.child.id());
        self.tcp = wait_for(|| {
            let text = fs::read_to_string(self.data().join("ready.json")).ok()?;
            let ready: Value = serde_json::from_str(&text).ok()?;
            (ready["pid"] == pid).then(|| ready["tcp"][0].as_str().expect("an address").to_owned())
        });
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidegate(arguments);
        command.env("TIDEGATE_URL", format!("unix://{}", self.data().join("tidegate.sock").display()));
        command
    }

    /// Runs a command that must end with this code, and gives its standard output.
    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> String {
        expect(self.command(arguments).output().expect("it can be started"), code)
    }

    /// As `run`, for commands that print JSON.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(0, &[arguments, &["--json"]].concat());
        serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_remove("TIDEGATE_URL").stdin(Stdio::null());
    command
}

fn serve(folder: &Path) -> Child {
    let mut command = tidegate(&["serve", "--config"]);
    command.arg(folder.join("config.yaml")).arg("--data").arg(folder.join("data"));
    command.stderr(fs::File::create(folder.join("log.txt")).expect("log"));
    command.spawn().expect("it can be started")
}

fn wait_for<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "it did not come in time");
        std::thread::yield_now();
    }
}

#[track_caller]
fn expect(output: Output, code: i32) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    out.into_owned()
}

#[track_caller]
fn run(code: i32, arguments: &[&str]) -> String {
    expect(tidegate(arguments).output().expect("it can be started"), code)
}

#[test]
fn exit_codes_are_listed_and_wrong_arguments_are_2() {
    let help = run(0, &["--help"]);
    for code in ["0    done", "3    cannot connect", "130  interrupted"] {
        assert!(help.contains(code), "{help}");
    }
    for wrong in [
        &["frobnicate"][..],
        &["pub"],
        &["pub", "a/+", "x"],
        &["sub", "a/#/b"],
        &["pub", "a", "x", "--priority", "10"],
        &["pub", "a", "x", "--ttl", "5"],
        &["pub", "a", "x", "--ttl", "0s"],
        &["request", "a", "--timeout", "0s"],
        &["status", "--watch", "0s"],
        &["pub", "a", "x", "--id", "short"],
        &["queue", "purge", "main"],
        &["status", "--url", "http://box"],
    ] {
        run(2, wrong);
    }
    let output = tidegate(&["pub", "a", "x", "--url", "127.0.0.1:1"]).output().expect("it can be started");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3));
    assert!(told.contains("127.0.0.1:1") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_reader_that_goes_ends_a_command_quietly() {
    let mut child = tidegate(&["check-config", "--print-default"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn configurations_are_checked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (good, bad) = (folder.path().join("good.yaml"), folder.path().join("bad.yaml"));
    fs::write(&good, run(0, &["check-config", "--print-default"])).expect("written");
    fs::write(&bad, "stoer:\n  linger: 5\n").expect("written");
    run(0, &["check-config", &good.to_string_lossy()]);
    let output = tidegate(&["check-config", &bad.to_string_lossy()]).output().expect("it can be started");
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.yaml:1"), "{output:?}");
    let answer: Value =
        serde_json::from_str(&run(6, &["check-config", "--json", &bad.to_string_lossy()])).expect("JSON");
    assert_eq!(answer["valid"], false);
    run(6, &["serve", "--config", &bad.to_string_lossy()]);
}

#[test]
fn completions_and_manual_pages_are_made() {
    assert!(run(0, &["completions", "bash"]).contains("tidegate"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    run(0, &["man", "--out", &folder.path().to_string_lossy()]);
    for page in ["tidegate.1", "tidegate-queue-ls.1", "tidegate-bench.1"] {
        assert!(fs::read_to_string(folder.path().join(page)).expect(page).contains(".TH"), "{page}");
    }
}

#[test]
fn messages_are_published_deduplicated_refused_and_consumed() {
    let broker = Broker::start();
    assert_eq!(broker.json(&["pub", "a/b", "one", "--id", "01J9ZK3V5N8Q4W7X2Y6T0R1P3M"])["outcome"], "stored");
    assert_eq!(broker.json(&["pub", "a/b", "one", "--id", "01J9ZK3V5N8Q4W7X2Y6T0R1P3M"])["outcome"], "duplicate");
    broker.run(0, &["pub", "tiny/x", "1"]);
    broker.run(0, &["pub", "tiny/x", "2"]);
    broker.run(4, &["pub", "tiny/x", "3"]);
    broker.run(5, &["pub", "tiny/x", "3", "--timeout", "200ms"]);
    broker.run(0, &["pub", "a/c", "urgent", "--priority", "9", "--property", "k=v", "--content-type", "text/plain"]);
    let first = broker.json(&["consume", "main", "--as", "me", "--count", "1"]);
    assert_eq!((&first["text"], &first["properties"]["k"]), (&Value::from("urgent"), &Value::from("v")), "{first}");
    let rest = broker.run(0, &["consume", "main", "--as", "me", "--raw", "--until-empty"]);
    assert_eq!(rest, "one\n1\n2\n");
    assert_eq!(broker.run(0, &["consume", "main", "--as", "me", "--raw", "--idle", "200ms"]), "");
    broker.run(4, &["consume", "nowhere", "--as", "me"]);
}

#[test]
fn a_command_takes_messages_and_what_it_fails_on_becomes_a_dead_letter() {
    let broker = Broker::start();
    let out = broker.path("out.txt").to_string_lossy().into_owned();
    for text in ["good", "bad", "fine"] {
        broker.run(0, &["pub", "job/x", text]);
    }
    let command = format!("read -r m || :; [ \"$m\" != bad ] && echo \"$TIDEGATE_CHANNEL $m\" >> {out}");
    broker.run(0, &["consume", "main", "--as", "worker", "--exec", &command, "--idle", "2s"]);
    let mut done: Vec<String> = fs::read_to_string(&out).expect("out").lines().map(str::to_owned).collect();
    done.sort();
    assert_eq!(done, ["job/x fine", "job/x good"]);
    let dead = broker.json(&["queue", "dead", "main"]);
    assert_eq!(dead["text"], "bad", "{dead}");
    assert_eq!(broker.json(&["queue", "show", "main"])["dead"], 1);
    assert_eq!(broker.json(&["queue", "replay", "main"])["count"], 1);
    assert_eq!(broker.run(0, &["consume", "main", "--as", "worker", "--raw", "--count", "1"]), "bad\n");
}

#[test]
fn a_message_larger_than_an_environment_is_handed_to_a_command_whole() {
    let broker = Broker::start();
    let (large, out) = (broker.path("large.txt"), broker.path("sizes.txt").to_string_lossy().into_owned());
    fs::write(&large, "x".repeat(900 * 1_024)).expect("large");
    broker.run(0, &["pub", "job/large", "--file", &large.to_string_lossy()]);
    broker.run(0, &["pub", "job/small", "text"]);
    let command = format!("echo $(wc -c) ${{#TIDEGATE_MESSAGE}} >> {out}");
    broker.run(0, &["consume", "main", "--as", "worker", "--exec", &command, "--count", "2"]);
    let sizes = fs::read_to_string(&out).expect("sizes");
    let lines: Vec<&str> = sizes.lines().collect();
    assert!(lines[0] == "921600 0" && lines[1].starts_with("4 ") && lines[1] != "4 0", "{sizes}");
}

#[test]
fn administration_needs_the_socket_and_looks_without_consuming() {
    let broker = Broker::start();
    for text in ["one", "two"] {
        broker.run(0, &["pub", "a", text]);
    }
    expect(tidegate(&["status", "--url", &broker.tcp]).output().expect("it can be started"), 4);
    let status = broker.json(&["status"]);
    assert_eq!((&status["state"], &status["counters"]["published"]), (&Value::from("ok"), &Value::from(2)));
    let peeked = broker.run(0, &["queue", "peek", "main"]);
    assert_eq!(peeked.lines().count(), 2, "{peeked}");
    assert!(peeked.contains("a one") && broker.run(0, &["queue", "ls"]).contains("main"));
    broker.run(4, &["queue", "show", "nowhere"]);
    broker.run(4, &["queue", "peek", "nowhere"]);
    broker.run(2, &["queue", "peek", "main", "--count", "0"]);
    broker.run(2, &["queue", "replay", "main", "--count", "0"]);
    broker.run(0, &["pub", "a", "alarm", "--priority", "9"]);
    let all = broker.run(0, &["queue", "peek", "main"]);
    let texts: Vec<&str> = all.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(texts, ["alarm", "one", "two"], "messages of all priorities, as they will be delivered");
    assert_eq!(broker.run(0, &["queue", "peek", "main", "--count", "2"]).lines().count(), 2);
    assert_eq!(broker.json(&["queue", "peek", "main", "--lane", "9"])["text"], "alarm");
    assert_eq!(broker.json(&["queue", "purge", "main", "--yes"])["count"], 3);
    assert_eq!(broker.json(&["queue", "show", "main"])["messages"], 0);
}

#[test]
fn live_messages_retained_values_requests_and_answers_pass() {
    let broker = Broker::start();
    broker.run(0, &["pub", "config/x", "kept", "--retain"]);
    let heard = broker.run(0, &["sub", "config/#", "--retained", "--count", "1"]);
    assert_eq!(heard, "config/x kept\n");
    broker.run(4, &["request", "svc/none", "?"]);
    let mut reply = broker.command(&["reply", "svc/+", "--exec", "tr a-z A-Z", "--count", "1"]).spawn().expect("start");
    let answer = wait_for(|| {
        let output = broker.command(&["request", "svc/up", "hello"]).output().expect("it can be started");
        output.status.success().then_some(output.stdout)
    });
    assert_eq!(answer, b"HELLO");
    assert!(reply.wait().expect("it ends after one").success());
}

#[test]
fn commands_that_outlive_their_broker_say_once_that_it_is_gone_and_that_it_is_back() {
    let mut broker = Broker::start();
    let commands: [&[&str]; 3] = [&["sub", "a"], &["consume", "main", "--as", "r"], &["reply", "svc", "--echo"]];
    let mut running: Vec<_> = commands
        .iter()
        .map(|arguments| {
            let mut child =
                broker.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
            let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
            (child, lines, arguments)
        })
        .collect();
    let connected = || broker.json(&["status"])["connections"].as_u64();
    // The one that asks is the fourth.
    wait_for(|| (connected() == Some(4)).then_some(()));
    for _ in 0..2 {
        broker.restart();
        for (_, lines, arguments) in &mut running {
            let mut told = lines.by_ref().map(|line| line.expect("text")).filter(|line| line.contains("the broker is"));
            let gone = told.next().expect("it goes on");
            assert!(gone.contains("the broker is gone"), "{arguments:?}: {gone}");
            assert_eq!(told.next().as_deref(), Some("the broker is back"), "{arguments:?}");
        }
    }
    for (mut child, ..) in running {
        child.kill().expect("it runs");
        child.wait().expect("killed");
    }
}

#[test]
fn every_line_of_a_file_survives_kills_in_the_middle() {
    let mut broker = Broker::start();
    let input: String = (0..60_000).map(|i| format!("line {i} of the file\n")).collect();
    let (from, to) = (broker.path("in.txt"), broker.path("out.txt"));
    fs::File::create(&from).and_then(|mut f| f.write_all(input.as_bytes())).expect("written");
    let mut consume = broker
        .command(&["consume", "main", "--as", "copy", "--idle", "2s", "--out"])
        .arg(&to)
        .spawn()
        .expect("it can be started");
    let mut publish =
        broker.command(&["pub", "log", "--lines", "--quiet", "--file"]).arg(&from).spawn().expect("it can be started");
    let length = || fs::metadata(&to).map_or(0, |m| m.len());
    for part in [1, 2] {
        wait_for(|| (length() > input.len() as u64 * part / 4).then_some(()));
        broker.restart();
    }
    assert!(publish.wait().expect("ended").success());
    assert!(consume.wait().expect("ended").success());
    assert!(fs::read_to_string(&to).expect("out") == input, "the copy differs from the file");
}

#[test]
fn a_store_is_checked_and_compacted_when_no_broker_has_it() {
    let mut broker = Broker::start();
    broker.run(0, &["pub", "a", "x"]);
    let data = broker.data().to_string_lossy().into_owned();
    broker.run(7, &["store", "check", "--data", &data]);
    broker.run(7, &["serve", "--data", &data, "--listen", "127.0.0.1:0"]);
    broker.kill();
    let checked = broker.json(&["store", "check", "--data", &data]);
    assert_eq!((&checked["whole"], &checked["closed"]), (&Value::from(true), &Value::from(false)), "{checked}");
    broker.run(0, &["store", "compact", "--data", &data]);
    assert_eq!(broker.json(&["store", "check", "--data", &data])["closed"], true);
    let file = broker.data().join("store.redb");
    let mut bytes = fs::read(&file).expect("the store");
    bytes[4_096..8_192].fill(0x55);
    bytes[..64].fill(0);
    fs::write(&file, bytes).expect("damaged");
    broker.run(7, &["store", "check", "--data", &data]);
    broker.run(1, &["store", "check", "--data", "/nonexistent"]);
}

#[test]
fn smoke_passes_on_this_machine() {
    let out = run(0, &["smoke", "--timeout", "60s"]);
    assert!(out.lines().last().is_some_and(|l| l.starts_with("all ")) && !out.contains("FAIL"), "{out}");
}

#[test]
fn bench_measures_with_small_inputs() {
    let text = run(
        0,
        &[
            "bench",
            "--spawn",
            "--count",
            "2000",
            "--publishers",
            "2",
            "--subscribers",
            "2",
            "--consumers",
            "1",
            "--json",
        ],
    );
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&report["messages"], &report["deliveries"]["received"]), (&Value::from(2_000), &Value::from(6_000)));
    assert!(report["messages_per_second"].as_u64().is_some_and(|n| n > 0));
    assert!(report["publish_latency_us"]["p99"].as_u64().is_some_and(|us| us > 0));
    assert!(report["commit_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let paced = run(0, &["bench", "--spawn", "--count", "50", "--rate", "500", "--publishers", "1", "--json"]);
    let report: Value = serde_json::from_str(&paced).expect("JSON");
    // Fifty at 500 a second begin over 98 ms at the least.
    assert!(report["elapsed_s"].as_f64().is_some_and(|s| s > 0.097), "{report}");
}

#[test]
fn certificates_are_made_explained_and_revoked() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_tidegate")).current_dir(dir.path()).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = run(&["tls", "init", "--name", "broker.example", "--client", "bob"]);
    assert_eq!(code, 0);
    assert!(said.contains("certificates: [") && said.contains("--url tls://broker.example:8434 --ca"), "{said}");
    for key in ["ca.key", "server.key", "bob.key"] {
        let mode = std::fs::metadata(dir.path().join("tls").join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let before = std::fs::read(dir.path().join("tls/bob.pem")).unwrap();
    let (code, _, said) = run(&["tls", "init", "--client", "bob"]);
    assert!(code == 1 && said.contains("--force"), "{code} {said}");
    assert_eq!(std::fs::read(dir.path().join("tls/bob.pem")).unwrap(), before);
    assert_eq!(run(&["tls", "init", "--client", "bob", "--force"]).0, 0);
    assert_ne!(std::fs::read(dir.path().join("tls/bob.pem")).unwrap(), before);
    assert_eq!(run(&["tls", "init", "--client", "../bob"]).0, 2);

    let (code, said, _) = run(&["tls", "show", "tls/server.pem", "--fits", "tls/server.key"]);
    assert_eq!(code, 0, "{said}");
    for words in ["localhost", "days left", "ECDSA", "fingerprint", "the key fits"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said, _) = run(&["tls", "show", "tls/server.pem", "--fits", "tls/bob.key"]);
    assert!(code == 1 && said.contains("NOT fit"), "{said}");
    assert!(run(&["tls", "show", "tls/ca.pem"]).1.contains("authority: "));
    assert!(run(&["tls", "show", "tls/bob.key"]).1.contains("private key: ECDSA"));

    let serial = run(&["tls", "show", "tls/bob.pem", "--json"]).1;
    let serial: serde_json::Value = serde_json::from_str(&serial).unwrap();
    assert_eq!(run(&["tls", "revoke", "tls/bob.pem"]).0, 0);
    assert_eq!(run(&["tls", "revoke", "tls/bob.pem"]).0, 0, "twice is once");
    let list: serde_json::Value = serde_json::from_str(&run(&["tls", "show", "tls/crl.pem", "--json"]).1).unwrap();
    assert_eq!(list["serials"], serde_json::json!([serial["serial"]]));
}
