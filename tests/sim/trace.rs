//! What happened in a run, as numbers: hashed for the proof of determinism, the last of it kept for whoever must find out.

use std::collections::VecDeque;

/// Events kept for a failure.
const KEPT: usize = 120;

/// One thing that happened.
#[derive(Clone, Copy)]
struct Note {
    at_us: u64,
    what: &'static str,
    numbers: [u64; 3],
}

/// All that happened.
pub struct Trace {
    now_us: u64,
    hash: u64,
    pub events: u64,
    last: VecDeque<Note>,
    print: bool,
}

impl Trace {
    /// `print` shows every event as it happens.
    pub fn new(print: bool) -> Self {
        Self { now_us: 0, hash: 0xcbf2_9ce4_8422_2325, events: 0, last: VecDeque::with_capacity(KEPT), print }
    }

    pub fn at(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// Notes an event.
    pub fn note(&mut self, what: &'static str, numbers: [u64; 3]) {
        let note = Note { at_us: self.now_us, what, numbers };
        self.mix(note.at_us);
        self.mix(what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 8);
        numbers.into_iter().for_each(|n| self.mix(n));
        self.events += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(note);
        if self.print {
            eprintln!("{}", show(&note));
        }
    }

    fn mix(&mut self, n: u64) {
        self.hash = (self.hash ^ n).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last events, one a line.
    pub fn tail(&self) -> String {
        self.last.iter().map(|n| show(n) + "\n").collect()
    }
}

fn show(note: &Note) -> String {
    let [a, b, c] = note.numbers;
    format!("{:>12.3} ms  {:<28} {a} {b} {c}", note.at_us as f64 / 1_000.0, note.what)
}
