//! Any sequence of what can happen to a broker: frames whole, torn and mangled, commits and reads that come late or fail,
//! readers that stop, time, reloads, power cuts. `session/world.rs` carries it out, `session/client.rs` holds the
//! broker to its promises.
#![no_main]

#[path = "session/client.rs"]
mod client;
#[path = "session/op.rs"]
mod op;
#[path = "session/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;
use op::Op;
use world::World;

fuzz_target!(|ops: Vec<Op>| {
    let mut world = World::new();
    for op in ops.iter().take(400) {
        world.apply(op);
    }
    world.finish();
});
