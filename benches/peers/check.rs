//! The test of this program: codecs byte by byte, the tables, and every shape against a Tidegate of its own.

use crate::peer::{Seen, codec};
use crate::{Run, cost, report};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A peer, bytes as its server sends them, what the codec must see in them and what it must answer.
type Heard = (&'static str, &'static [u8], &'static [Seen<'static>], &'static [u8]);

const HEARD: &[Heard] = &[
    ("redis-stream", b"$15\r\n1763733600000-0\r\n-ERR full\r\n", &[Seen::Acks(1), Seen::Refused(1)], b""),
    (
        "redis-live",
        b"*3\r\n$7\r\nmessage\r\n$7\r\nbench:0\r\n$4\r\na\r\nb\r\n:1\r\n",
        &[Seen::Message(b"a\r\nb"), Seen::Acks(1)],
        b"",
    ),
    ("mqtt1", &[0x40, 2, 0, 1, 0x40, 2, 0, 2], &[Seen::Acks(1), Seen::Acks(1)], b""),
    ("mqtt1", &[0x32, 8, 0, 1, b'b', 9, 7, b'x', b'y', b'z'], &[Seen::Message(b"xyz")], &[0x40, 2, 9, 7]),
    ("mqtt0", &[0x30, 5, 0, 1, b'b', b'x', b'y'], &[Seen::Message(b"xy")], b""),
    ("nats", b"PING\r\nMSG bench.0 1 4\r\na\r\nb\r\n", &[Seen::Message(b"a\r\nb")], b"PONG\r\n"),
    (
        "jetstream",
        b"MSG _INBOX.1 1 26\r\n{\"stream\":\"bench\",\"seq\":1}\r\nMSG _INBOX.1 1 12\r\n{\"error\":{}}\r\n",
        &[Seen::Acks(1), Seen::Refused(1)],
        b"",
    ),
    (
        "rabbit",
        b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x03\x01\xce\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x04\0\xce",
        &[Seen::Acks(3), Seen::Acks(1)],
        b"",
    ),
];

pub fn all() {
    codecs_take_whole_units_only();
    report::check();
    assert_eq!(cost::cpu_s("12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 1 0 100"), Some(4.0));
    every_shape_runs_against_tidegate();
    println!("peers: codecs, tables and shapes are as they should be");
}

/// Whatever part of the bytes has come, the codec waits for the rest and then says the same.
fn codecs_take_whole_units_only() {
    for (peer, bytes, expected, answered) in HEARD {
        for cut in 0..=bytes.len() {
            let mut codec = codec(peer).unwrap();
            let (mut seen, mut reply, mut start) = (Vec::new(), Vec::new(), 0);
            for end in [cut, bytes.len()] {
                loop {
                    let note = &mut |s: Seen<'_>| seen.push(format!("{s:?}"));
                    let taken = codec.take(&bytes[start..end], &mut reply, note).unwrap();
                    if taken == 0 {
                        break;
                    }
                    start += taken;
                }
            }
            let expected: Vec<String> = expected.iter().map(|s| format!("{s:?}")).collect();
            assert_eq!(seen, expected, "{peer}, cut at {cut}");
            assert_eq!((start, reply.as_slice()), (bytes.len(), *answered), "{peer}, cut at {cut}");
        }
    }
}

struct Broker {
    child: Child,
    address: String,
}

impl Broker {
    fn start(folder: &Path, capture: &str) -> Self {
        std::fs::create_dir(folder).unwrap();
        let config = folder.join("tidegate.yaml");
        let text = format!("log: {{level: warn}}\nqueues: [{{name: main, capture: [\"{capture}\"]}}]\n");
        std::fs::write(&config, text).unwrap();
        let data = folder.join("data");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("serve").arg("--config").arg(&config).arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        loop {
            let ready = std::fs::read_to_string(data.join("ready.json")).unwrap_or_default();
            if let Ok(ready) = serde_json::from_str::<Value>(&ready) {
                return Self { child, address: ready["tcp"][0].as_str().unwrap().to_owned() };
            }
            assert_eq!(child.try_wait().unwrap(), None, "the broker ended");
            std::thread::yield_now();
        }
    }

    fn run(&self, shape: &str, peer: &str, options: &str) -> Value {
        let pid = format!("--pid {}", self.child.id());
        let args = format!("{shape} {peer} {} {pid} {options}", self.address);
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        Run::parse(&args).unwrap().run().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn every_shape_runs_against_tidegate() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kept = Broker::start(&folder.path().join("kept"), "#");
    let report = kept.run("publish", "tidegate", "--publishers 2 --window 10 --count 500");
    assert_eq!((report["messages"].as_u64(), report["refused"].as_u64()), (Some(500), Some(0)), "{report}");
    if cfg!(target_os = "linux") {
        assert!(report["written_bytes"].as_f64().is_some_and(|bytes| bytes > 256.0), "they are on disk: {report}");
    }
    let report = kept.run("publish", "tidegate", "--publishers 1 --window 1 --count 5 --rate 1000 --case c --who w");
    assert_eq!((report["messages"].as_u64(), report["case"].as_str()), (Some(5), Some("c")), "{report}");
    let report = kept.run("idle", "tidegate", "--connections 3 --warm 0");
    assert_eq!(report["connections"].as_u64(), Some(3), "{report}");
    assert!(kept.run("first-ack", "tidegate", "--since 1")["ms"].as_f64().is_some_and(|ms| ms > 1e12));
    drop(kept);
    let live = Broker::start(&folder.path().join("live"), "kept/#");
    for options in ["--publishers 2 --window 10 --count 200", "--publishers 1 --count 5 --rate 1000"] {
        let report = live.run("live", "tidegate-memory", options);
        let messages = if options.contains("200") { 200 } else { 5 };
        assert_eq!((report["messages"].as_u64(), report["lost"].as_u64()), (Some(messages), Some(0)), "{report}");
        assert!(report["p99_us"].as_f64().is_some_and(|us| us > 0.0), "latencies are taken: {report}");
    }
}
