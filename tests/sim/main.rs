//! Deterministic simulation: the real broker, store and client core in a world that one seed decides.
//!
//! `cargo test --test sim` runs 200 seeds. `TIDEGATE_SIM_SEEDS=10000` runs so many, from `TIDEGATE_SIM_FIRST` on; `TIDEGATE_SEED=n` replays one and
//! prints what happens. A failure says which promise was broken, the command that replays it and the last events.
//!
//! - `plan` draws a world from a seed: settings, queues, clients, workload, faults.
//! - `world` is the executor: one queue of events, one clock, connections (`net`).
//! - `host` runs a broker as the daemon does, on a disk that loses power, fills up and fails.
//! - `edge` runs a bridge between its host's broker and another's, on a way that fails (`bridged` draws such worlds, `across` judges
//!   them).
//! - `clients` publish, consume and subscribe with the real core.
//! - `scenarios` are worlds with a name, among them the controls that must fail; `crossings` those with a bridge.
//! - `tap` reads what a broker sends at the moment it leaves; `ledger` knows what was promised and judges it.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "tests")]

mod across;
mod bridged;
mod clients;
mod contents;
mod crossings;
mod edge;
mod host;
mod ledger;
mod net;
mod plan;
mod scenarios;
mod tap;
mod trace;
mod world;

use ledger::Broken;
use plan::Plan;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use trace::Trace;
use world::World;

/// Seeds of a normal run.
const SEEDS: u64 = 200;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs a plan; what was broken, and the trace.
fn run(plan: &Plan, print: bool) -> (Option<Broken>, Trace) {
    let mut trace = Trace::new(print);
    let done = catch_unwind(AssertUnwindSafe(|| World::new(plan, &mut trace).run()));
    let broken = done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Some(Broken { promise: "nothing panics", detail: text.unwrap_or_default() })
    });
    (broken, trace)
}

/// What a failure says.
fn report(seed: u64, broken: &Broken, trace: &Trace) -> String {
    format!(
        "\nseed {seed}: {}: {}\nreplay: TIDEGATE_SEED={seed} cargo test --test sim seeds_keep_every_promise -- --nocapture\nthe last events:\n{}",
        broken.promise,
        broken.detail,
        trace.tail()
    )
}

#[test]
fn seeds_keep_every_promise() {
    if let Some(seed) = variable("TIDEGATE_SEED") {
        let plan = Plan::random(seed);
        println!("{plan:#?}");
        let (broken, trace) = run(&plan, true);
        if let Some(broken) = broken {
            panic!("{}", report(seed, &broken, &trace));
        }
        return;
    }
    let seeds = variable("TIDEGATE_SIM_SEEDS").unwrap_or(SEEDS);
    let first = variable("TIDEGATE_SIM_FIRST").unwrap_or(0);
    let next = AtomicU64::new(first);
    let work = || {
        let mut failures = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return failures;
            }
            let (broken, trace) = run(&Plan::random(seed), false);
            if let Some(broken) = broken {
                failures.push((seed, format!("{}: {}", broken.promise, broken.detail), report(seed, &broken, &trace)));
            }
        }
    };
    let mut failures = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut failures = work();
        failures.extend(other.join().unwrap());
        failures
    });
    failures.sort();
    for (_, _, text) in failures.iter().take(3) {
        eprintln!("{text}");
    }
    let all: Vec<_> = failures.iter().map(|(seed, what, _)| format!("{seed}: {what}")).collect();
    assert!(failures.is_empty(), "{} of {seeds} seeds failed:\n{}", failures.len(), all.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        let plan = Plan::random(seed);
        let (first, second) = (run(&plan, false).1, run(&plan, false).1);
        assert_eq!((first.events, first.hash()), (second.events, second.hash()), "seed {seed}");
        assert!(first.events > 20, "seed {seed} does something");
    }
}
