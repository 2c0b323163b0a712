//! What no single value is wrong about: contradictions between keys, and settings that deserve a warning.

use super::error::Problem;
use super::read::Reading;
use super::settings::{Keep, Overflow, QueueSettings, Storage};
use super::units::Unit;
use crate::model::limits::CAPTURES_MAX;
use crate::wire::Contract;
use std::collections::HashMap;
use std::net::SocketAddr;

/// Appends contradictions to the problems of a reading and returns its warnings.
pub(super) fn check(reading: &mut Reading) -> Vec<Problem> {
    let mut found = Found { reading, problems: Vec::new(), warnings: Vec::new() };
    found.sizes();
    found.listeners();
    found.queues();
    let Found { problems, warnings, .. } = found;
    reading.problems.extend(problems);
    warnings
}

struct Found<'a> {
    reading: &'a Reading,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// A key and its value, as one side of a comparison.
type Side<'a> = (&'a str, u64);

impl Found<'_> {
    /// Tells a problem at the first of `keys` that was set by someone; silent when one of them was refused already.
    fn problem(&mut self, keys: &[&str], message: String) {
        if let Some(problem) = self.at(keys, message) {
            self.problems.push(problem);
        }
    }

    fn warn(&mut self, keys: &[&str], message: String) {
        if let Some(problem) = self.at(keys, message) {
            self.warnings.push(problem);
        }
    }

    fn at(&self, keys: &[&str], message: String) -> Option<Problem> {
        if keys.iter().any(|key| self.reading.failed(key)) {
            return None;
        }
        let key = keys.iter().find(|key| self.reading.place(key).is_some()).or(keys.first())?;
        Some(Problem { place: self.reading.place(key).cloned(), key: (*key).into(), message })
    }

    /// `small` must not be above `large`.
    fn at_most(&mut self, unit: Unit, small: Side<'_>, large: Side<'_>) {
        if small.1 <= large.1 {
            return;
        }
        let (small_text, large_text) = (unit.show(small.1), unit.show(large.1));
        let message = if self.reading.place(small.0).is_some() {
            format!("found {small_text}; expected at most {large_text}, which is {}", large.0)
        } else {
            format!("found {large_text}; expected at least {small_text}, which is {}", small.0)
        };
        self.problem(&[small.0, large.0], message);
    }

    fn sizes(&mut self) {
        let (limits, store) = (&self.reading.settings.limits, &self.reading.settings.store);
        let message = ("limits.message", u64::from(limits.message_bytes_max));
        let reassembly = ("limits.reassembly", u64::from(limits.reassembly_bytes_max));
        let window = ("limits.window.bytes", u64::from(limits.window_bytes));
        let outbox = ("limits.outbox", u64::from(limits.outbox_bytes_max));
        let pending = ("store.pending", u64::from(store.pending_bytes_max));
        let batch = ("store.batch", u64::from(store.batch_bytes));
        let cache = u64::from(store.cache_bytes);
        let (low, high) = (store.free_low_bytes, store.free_high_bytes);
        let (ids, retained, values) = (store.dedupe.ids_max, limits.retained_bytes_max, limits.retained_max);

        for large in [reassembly, window, outbox, pending] {
            self.at_most(Unit::Bytes, message, large);
        }
        self.at_most(Unit::Bytes, batch, pending);
        if low >= high {
            let (low, high) = (Unit::Bytes.show(low), Unit::Bytes.show(high));
            let message = if self.reading.place("store.free_low").is_some() {
                format!("found {low}; expected less than {high}, which is store.free_high")
            } else {
                format!("found {high}; expected more than {low}, which is store.free_low")
            };
            self.problem(&["store.free_low", "store.free_high"], message);
        }
        if batch.1 > cache / 2 {
            let message = format!(
                "{} is more than half of store.cache ({}): a commit will write pages early",
                Unit::Bytes.show(batch.1),
                Unit::Bytes.show(cache)
            );
            self.warn(&["store.batch", "store.cache"], message);
        }
        if ids == 0 {
            self.warn(&["store.dedupe.ids"], "dedupe is off: a publish sent twice is stored twice".into());
        }
        if (retained == 0) != (values == 0) {
            let message = "one of limits.retained.values and limits.retained.bytes is 0: nothing is retained".into();
            self.warn(&["limits.retained.values", "limits.retained.bytes"], message);
        }
    }

    fn listeners(&mut self) {
        let listen = &self.reading.settings.listen;
        if listen.tcp.is_empty() && listen.unix.is_none() {
            let message = "found no address and no listen.unix; expected at least one of them".into();
            return self.problem(&["listen.tcp", "listen.unix"], message);
        }
        for (i, second) in listen.tcp.iter().enumerate() {
            if let Some(first) = listen.tcp[..i].iter().find(|first| collide(**first, *second)) {
                let message = if first == second {
                    format!("found {second} twice; expected each address once")
                } else {
                    format!("found {first} and {second}, of which one includes the other; expected one of them")
                };
                self.problem(&["listen.tcp"], message);
            }
            if !second.ip().is_loopback() {
                let message =
                    format!("{second} can be reached from outside this machine, and nobody is asked who he is");
                self.warn(&["listen.tcp"], message);
            }
        }
    }

    fn queues(&mut self) {
        let reading = self.reading;
        let queues = &reading.settings.queues;
        if queues.is_empty() {
            self.warn(&["queues"], "there is no queue: every message is live only, and none is kept".into());
        }
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut captures: HashMap<&str, usize> = HashMap::new();
        for (index, queue) in queues.iter().enumerate() {
            let name_key = format!("queues[{index}].name");
            let first = *names.entry(&queue.name).or_insert(index);
            if first != index {
                let message = format!("found `{}`, the name of queues[{first}] too; expected another", queue.name);
                self.problem(&[&name_key], message);
            }
            self.queue(&format!("queues[{index}]."), queue);
            let mut filters: Vec<&str> = queue.capture.iter().map(String::as_str).collect();
            filters.sort_unstable();
            filters.dedup();
            let capture_key = format!("queues[{index}].capture");
            if filters.len() < queue.capture.len() {
                self.warn(&[&capture_key], "a filter is written twice".into());
            }
            for filter in filters {
                let count = captures.entry(filter).or_insert(0);
                *count += 1;
                if *count > CAPTURES_MAX {
                    let message = format!("found `{filter}` in queue number {count}; expected at most {CAPTURES_MAX}");
                    self.problem(&[&capture_key], message);
                }
            }
        }
    }

    fn queue(&mut self, prefix: &str, queue: &QueueSettings) {
        let key = |name: &str| format!("{prefix}{name}");
        let (capture, contract, storage) = (key("capture"), key("contract"), key("storage"));
        if queue.capture.is_empty() {
            self.problem(&[&capture], "found no filter; expected at least one, such as #".into());
        }
        if queue.storage == Storage::Memory && queue.contract == Contract::Disk {
            let message = "found disk; expected memory, because the queue's storage is memory".into();
            self.problem(&[&contract, &storage], message);
        }
        let (keep, overflow, age) = (key("keep"), key("overflow"), key("limits.age"));
        if queue.keep == Keep::Limits && queue.overflow == Overflow::Reject && queue.age_ms_max == 0 {
            let message = "found limits with overflow reject and no limits.age; expected an age, drop-oldest or \
                           drop-newest: full once, this queue would refuse for ever"
                .into();
            self.problem(&[&keep, &overflow, &age], message);
        }
        let consumers = key("limits.consumers");
        if queue.keep == Keep::Work && queue.consumers_max > 1 && self.reading.place(&consumers).is_some() {
            let message = format!("found {}; expected 1, because a queue with keep work has one", queue.consumers_max);
            self.problem(&[&consumers, &keep], message);
        }
        let (backoff, backoff_max) = (key("consumer.backoff"), key("consumer.backoff_max"));
        let first = (backoff.as_str(), u64::from(queue.backoff_ms));
        self.at_most(Unit::Millis, first, (&backoff_max, u64::from(queue.backoff_ms_max)));
        let bytes = key("limits.bytes");
        let message_bytes_max = u64::from(self.reading.settings.limits.message_bytes_max);
        if queue.bytes_max < message_bytes_max {
            let message = format!(
                "{} is less than limits.message ({}): larger messages never fit this queue",
                Unit::Bytes.show(queue.bytes_max),
                Unit::Bytes.show(message_bytes_max)
            );
            self.warn(&[&bytes, "limits.message"], message);
        }
    }
}

/// Whether binding both must fail: the same port on the same address, or on one and all addresses of its family.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
