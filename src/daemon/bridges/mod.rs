//! The bridges of this process: a task each on the loop, and what they share.
//!
//! `dial` is the way to an upstream, `task` carries bytes between it, the machine and the broker. A bridge that hangs,
//! whatever it hangs on, is a future that nobody polls: neither the loop nor another bridge waits for it.

mod dial;
mod farewell;
mod files;
mod probe;
mod task;

pub use dial::STEP_MS;
pub use probe::{Step, probe};

use super::machine::Machine;
use super::shared::Shared;
use crate::bridge::{Bridge, Parts};
use crate::config::{BridgeSettings, Settings};
use crate::model::limits::NAME_BYTES_MAX;
use crate::runtime::errands::Errands;
use crate::runtime::{entropy, identity};
use dial::Dialer;
use farewell::Farewell;
use ring::digest::{SHA256, digest};
use smol::LocalExecutor;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use task::{Order, Orders, Task};

/// Bytes of a name that tells this broker from others, as hexadecimal digits and a hyphen.
const SUFFIX_BYTES: usize = 9;

/// What all bridges share.
struct Office {
    dialer: Dialer,
    /// The executor owns the tasks that own this.
    executor: Weak<LocalExecutor<'static>>,
}

impl Office {
    /// Ends a connection, beside everything else.
    fn say_goodbye<M: Machine + 'static>(&self, farewell: Farewell<M>) {
        if let Some(executor) = self.executor.upgrade() {
            executor.spawn(farewell.run()).detach();
        }
    }
}

/// All of them.
pub(super) struct Bridges<M: Machine> {
    shared: Rc<Shared<M>>,
    office: Rc<Office>,
    /// Name of this edge, once there was a bridge.
    edge: Option<String>,
    running: BTreeMap<String, Running>,
}

struct Running {
    settings: Arc<BridgeSettings>,
    orders: Rc<Orders>,
}

impl<M: Machine + 'static> Bridges<M> {
    /// Starts those of the settings in force.
    pub(super) fn new(shared: &Rc<Shared<M>>, executor: &Rc<LocalExecutor<'static>>) -> Self {
        let settings = shared.machine.borrow().settings().clone();
        let folder = settings.data.clone().unwrap_or_default();
        let dialer = Dialer::new(folder, &Errands::default());
        let office = Rc::new(Office { dialer, executor: Rc::downgrade(executor) });
        let mut this = Self { shared: Rc::clone(shared), office, edge: None, running: BTreeMap::new() };
        this.reload(&settings);
        this
    }

    /// Starts, changes and ends bridges so that they are those of these settings.
    pub(super) fn reload(&mut self, settings: &Settings) {
        let wanted = |name: &str| settings.bridges.iter().find(|bridge| bridge.name == *name);
        self.running.retain(|name, running| {
            // In another tenant it is another one.
            let stays = wanted(name).is_some_and(|bridge| bridge.tenant == running.settings.tenant);
            if !stays {
                running.orders.give(Order::End { stop: false });
            }
            stays
        });
        for bridge in &settings.bridges {
            match self.running.get_mut(&bridge.name) {
                Some(running) if *running.settings == *bridge => {}
                Some(running) => {
                    running.settings = Arc::new(bridge.clone());
                    running.orders.give(Order::Settings(Arc::clone(&running.settings)));
                }
                None => self.start(settings, bridge),
            }
        }
    }

    fn start(&mut self, settings: &Settings, bridge: &BridgeSettings) {
        let Some(executor) = self.office.executor.upgrade() else { return };
        let folder = settings.data.clone().unwrap_or_default();
        let edge = self.edge.get_or_insert_with(|| edge_name(&settings.name, &folder)).clone();
        let bridge = Arc::new(bridge.clone());
        let parts = Parts {
            settings: Arc::clone(&bridge),
            name: settings.name.clone(),
            edge,
            kept: self.shared.machine.borrow().bridge_kept(&bridge.name),
            // Without randomness it only waits as others do.
            seed: entropy::seed().unwrap_or_default(),
        };
        log::info!("bridge {} to {}", bridge.name, bridge.urls.join(", "));
        let orders = Rc::<Orders>::default();
        let machine = Bridge::new(self.shared.now(), parts);
        let task = Task::new(&self.shared, &self.office, &orders, Arc::clone(&bridge), machine);
        executor.spawn(task).detach();
        self.running.insert(bridge.name.clone(), Running { settings: bridge, orders });
    }

    /// Files may have changed: those whose did connect anew.
    pub(super) fn look_at_files(&self) {
        self.running.values().for_each(|running| running.orders.give(Order::Files));
    }

    /// Pauses one, or has it go on.
    pub(super) fn pause(&self, name: &str, pause: bool) {
        if let Some(running) = self.running.get(name) {
            running.orders.give(Order::Pause(pause));
        }
    }

    /// The process ends.
    pub(super) fn stop(&mut self) {
        for running in std::mem::take(&mut self.running).into_values() {
            running.orders.give(Order::End { stop: true });
        }
    }
}

/// A name that no other broker has: the configured one, and a digest of the machine's id and the data folder's. Boxes made of
/// one image have the one or the other of their own.
fn edge_name(name: &str, folder: &Path) -> String {
    let machine = identity::machine().unwrap_or_default();
    let own = identity::folder(folder).unwrap_or_else(|error| {
        log::error!("the data folder has no identity, the machine's must do: {error}");
        String::new()
    });
    join_name(name, &machine, &own)
}

fn join_name(name: &str, machine: &str, own: &str) -> String {
    let hash = digest(&SHA256, format!("{machine}\n{own}").as_bytes());
    let suffix: String = hash.as_ref().iter().take(SUFFIX_BYTES / 2).map(|byte| format!("{byte:02x}")).collect();
    let mut end = name.len().min(NAME_BYTES_MAX - SUFFIX_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{suffix}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_of_a_cloned_image_or_of_a_second_folder_has_another_name() {
        let name = join_name("pump-7", "a", "b");
        assert_eq!(name, join_name("pump-7", "a", "b"));
        assert!(name.starts_with("pump-7-") && name.len() == "pump-7-".len() + 8, "{name}");
        for (machine, own) in [("", "b"), ("a", ""), ("c", "b"), ("a", "c"), ("ab", "")] {
            assert_ne!(join_name("pump-7", machine, own), name);
        }
        let long = join_name(&"ä".repeat(100), "a", "b");
        assert!(long.len() <= NAME_BYTES_MAX && long.len() > NAME_BYTES_MAX - 3, "{long}");
    }
}
