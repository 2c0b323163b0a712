//! The bridges of this process: a task each on the loop, and what they share.
//!
//! `dial` is the way to an upstream, `task` carries bytes between it, the machine and the broker. A bridge that hangs,
//! whatever it hangs on, is a future that nobody polls: neither the loop nor another bridge waits for it.

mod dial;
mod edge;
mod farewell;
mod files;
mod probe;
mod task;

pub use dial::STEP_MS;
pub use probe::{Step, probe};

use super::machine::Machine;
use super::shared::Shared;
use crate::bridge::{Bridge, Parts};
use crate::broker::Event;
use crate::config::{BridgeSettings, Settings};
use crate::model::admin::{BridgeState, BridgeStatus};
use crate::runtime::entropy;
use crate::runtime::errands::Errands;
use dial::Dialer;
use edge::Edge;
use farewell::Farewell;
use smol::LocalExecutor;
use smol::future::FutureExt as _;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use task::{Order, Orders, Task};

/// What all bridges share.
struct Office {
    dialer: Dialer,
    /// Who this broker is to upstreams.
    edge: Edge,
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
        let errands = Errands::default();
        let (edge, dialer) = (Edge::new(&folder, &errands), Dialer::new(folder, &errands));
        let office = Rc::new(Office { dialer, edge, executor: Rc::downgrade(executor) });
        let mut this = Self { shared: Rc::clone(shared), office, running: BTreeMap::new() };
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
        let bridge = Arc::new(bridge.clone());
        log::info!("bridge {} to {}", bridge.name, bridge.urls.join(", "));
        let orders = Rc::<Orders>::default();
        let (shared, office) = (Rc::clone(&self.shared), Rc::clone(&self.office));
        let life = live(shared, office, Rc::clone(&orders), settings.name.clone(), Arc::clone(&bridge));
        executor.spawn(life).detach();
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

/// A bridge's life: it begins once it is known who this broker is. Orders wait until then, but for that of its end.
async fn live<M: Machine + 'static>(
    shared: Rc<Shared<M>>,
    office: Rc<Office>,
    orders: Rc<Orders>,
    name: String,
    bridge: Arc<BridgeSettings>,
) {
    let tell = |why: &str, retry_ms: u64| {
        let status = BridgeStatus {
            name: bridge.name.clone(),
            tenant: bridge.tenant.clone(),
            url: bridge.urls.first().cloned().unwrap_or_default(),
            state: BridgeState::Waiting,
            last_error: "local".into(),
            last_error_detail: why.into(),
            last_error_age_ms: 1,
            retry_ms,
            ..BridgeStatus::default()
        };
        shared.handle(Event::Bridge { status: Box::new(status), keep: None });
    };
    let known = async { Some(office.edge.name(&name, &tell).await) };
    let ended = async {
        orders.ended().await;
        None
    };
    let Some(edge) = known.or(ended).await else { return };
    let parts = Parts {
        settings: Arc::clone(&bridge),
        name,
        edge,
        kept: shared.machine.borrow().bridge_kept(&bridge.name),
        // Without randomness it only waits as others do.
        seed: entropy::seed().unwrap_or_default(),
    };
    let machine = Bridge::new(shared.now(), parts);
    Task::new(&shared, &office, &orders, bridge, machine).await;
}
