//! What a seed stands for: settings, queues, clients, what they do, and what goes wrong when.

use crate::bridged::{BridgePlan, WayFault};
use fastrand::Rng;
use tidegate::config::{Keep, Overflow, QueueSettings, Settings, Storage, TenantSettings};
use tidegate::model::MessageId;
use tidegate::store::testing::Lost;
use tidegate::wire::Contract;

/// Everything a run needs to know beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Settings of each broker.
    pub hosts: Vec<Settings>,
    pub messages: Vec<Message>,
    pub clients: Vec<ClientPlan>,
    pub faults: Vec<(u64, Fault)>,
    /// From here on nothing goes wrong any more, in microseconds.
    pub heal_us: u64,
    /// The machine's clock at the start.
    pub wall_ms: u64,
    /// Commit latency: least, most, in microseconds.
    pub commit_us: (u64, u64),
    /// Whether ids stay in the dedupe window for the whole run.
    pub window_holds: bool,
    /// The control: syncs of these hosts do nothing.
    pub disks_lie: Vec<usize>,
    /// What joins an edge with its hub.
    pub bridge: Option<BridgePlan>,
}

/// A message and what is asked for it.
#[derive(Clone, Debug)]
pub struct Message {
    pub publisher: usize,
    pub host: usize,
    /// Its publisher's; empty for none.
    pub tenant: String,
    pub channel: String,
    pub id: MessageId,
    pub contract: Contract,
    pub priority: u8,
    pub ttl_ms: u32,
    pub delay_ms: u32,
    pub retain: bool,
    pub size: usize,
    /// When its publisher has it, in microseconds.
    pub at_us: u64,
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub host: usize,
    /// Empty for none.
    pub tenant: String,
    pub heartbeat_ms: u32,
    pub role: RolePlan,
    /// Bytes of the sockets' buffers, each way.
    pub capacity: usize,
    pub delay_us: (u64, u64),
    pub rate: usize,
}

#[derive(Clone, Debug)]
pub enum RolePlan {
    Publisher,
    Consumer(ConsumerPlan),
    Subscriber { filter: String, history: bool, retained: bool, slow: bool },
}

#[derive(Clone, Debug)]
pub struct ConsumerPlan {
    pub queue: String,
    pub name: String,
    pub filters: Vec<String>,
    pub window: u32,
    pub attempts_max: u32,
    pub ack_timeout_ms: u32,
    pub credit: u32,
    /// Of 100 deliveries so many are refused, given up, ignored.
    pub nack: u32,
    pub give_up: u32,
    pub ignore: u32,
    pub work_us: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The power goes: now, at the n-th write or sync from now, or right after the n-th acknowledgement from now.
    Power(usize, Cut, Lost),
    /// The process is killed; the machine goes on.
    Kill(usize),
    /// The broker is stopped in order and started again.
    Stop(usize),
    /// So many bytes of space are left, for so long.
    Full(usize, u64, u64),
    /// Writes (or reads) fail, for so long.
    Broken(usize, bool, u64),
    /// Commits take so much longer from now on, for so long.
    Stall(usize, u64),
    /// The machine's clock jumps.
    Wall(usize, i64),
    /// Of a bridge's way.
    Way(WayFault),
    /// A client's connection is lost after so many bytes from the broker, or to it.
    Lose(usize, bool, usize),
    /// A client's connection falls silent.
    Silence(usize),
    /// The client ends its connection.
    Leave(usize),
}

#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Now,
    AtWrite(u64),
    AtSync(u64),
    AfterAck(u32),
}

/// The name of the one tenant there may be.
pub const TENANT: &str = "red";
const MS: u64 = 1_000;
const HOUR_MS: i64 = 3_600_000;

pub fn one<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

pub fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(..100) < percent
}

fn channel(rng: &mut Rng) -> String {
    format!("c/{}/{}", rng.u8(..3), rng.u8(..2))
}

impl Plan {
    /// The plan of a seed.
    pub fn random(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed ^ 0x7469_6465);
        let mut queues = Vec::new();
        let (history, ttl) = (chance(rng, 60), chance(rng, 25));
        for n in 0..rng.usize(1..=3) {
            queues.push(queue(rng, n, history));
        }
        let settings = settings(rng, queues.clone());
        let heal_us = 4_000 * MS;
        let mut plan = Self {
            seed,
            hosts: vec![settings],
            messages: Vec::new(),
            clients: Vec::new(),
            faults: Vec::new(),
            heal_us,
            wall_ms: one(rng, &[1_700_000_000_000, 1_700_000_000_000, 0, 4_102_444_800_000]),
            commit_us: one(rng, &[(50, 400), (100, 3_000), (1_000, 20_000)]),
            window_holds: true,
            disks_lie: Vec::new(),
            bridge: None,
        };
        for _ in 0..rng.usize(1..=3) {
            plan.add_publisher(rng, ttl);
        }
        for q in &queues {
            plan.add_consumers(rng, q);
        }
        for _ in 0..rng.usize(0..=2) {
            let wild = !history || chance(rng, 30);
            let filter = if wild { one(rng, &["c/#", "c/+/1", "#"]).into() } else { channel(rng) };
            let role = RolePlan::Subscriber {
                filter,
                history: history && !wild,
                retained: chance(rng, 20),
                slow: chance(rng, 20),
            };
            plan.add_client(rng, role);
        }
        plan.add_tenant(&mut Rng::with_seed(seed ^ 0x7465_6e61), history, ttl);
        for _ in 0..one(rng, &[0, 1, 1, 2, 3, 4]) {
            let at = rng.u64(300 * MS..heal_us);
            let fault = fault(rng, 0);
            plan.faults.push((at, fault));
        }
        for _ in 0..rng.usize(0..=4) {
            let at = rng.u64(300 * MS..heal_us);
            let client = rng.usize(..plan.clients.len());
            let bytes = rng.usize(..[40, 4_000][at as usize % 2]);
            let fault = match rng.u8(..6) {
                0 => Fault::Silence(client),
                1 => Fault::Leave(client),
                n => Fault::Lose(client, n % 2 == 0, bytes),
            };
            plan.faults.push((at, fault));
        }
        plan.add_bridge(&mut Rng::with_seed(seed ^ 0x6272_6964), history);
        plan.faults.sort_by_key(|(at, _)| *at);
        let dedupe = &plan.hosts[0].store.dedupe;
        let jumps = plan.faults.iter().any(|(_, f)| matches!(f, Fault::Wall(_, ms) if *ms > 0));
        plan.window_holds = !jumps && dedupe.ids_max as usize > plan.messages.len() && dedupe.window_ms > 100_000;
        plan
    }

    /// In some worlds a tenant has queues of the same names, and publishes under the same ids.
    fn add_tenant(&mut self, rng: &mut Rng, history: bool, ttl: bool) {
        if !chance(rng, 40) {
            return;
        }
        let (clients, messages) = (self.clients.len(), self.messages.len());
        let own = |q: QueueSettings| QueueSettings { tenant: TENANT.into(), ..q };
        let queues: Vec<_> = (0..rng.usize(1..=2)).map(|n| own(queue(rng, n, history))).collect();
        for _ in 0..rng.usize(1..=2) {
            self.add_publisher(rng, ttl);
        }
        queues.iter().for_each(|q| self.add_consumers(rng, q));
        let role = RolePlan::Subscriber { filter: "#".into(), history: false, retained: chance(rng, 50), slow: false };
        self.add_client(rng, role);
        self.clients[clients..].iter_mut().for_each(|c| c.tenant = TENANT.into());
        for (n, m) in self.messages[messages..].iter_mut().enumerate() {
            m.tenant = TENANT.into();
            if !m.id.is_none() {
                m.id = MessageId::from_parts(1 + n as u64, [n as u8; 10]);
            }
        }
        // A log keeps what nobody needs any more: only where there is none, room comes by itself.
        let drains = queues.iter().all(|q| q.keep != Keep::Limits);
        let tenant = TenantSettings {
            name: TENANT.into(),
            messages_per_second: one(rng, &[0, 0, 50]),
            stored_bytes_max: if drains { one(rng, &[0, 0, 60_000]) } else { 0 },
            ..TenantSettings::default()
        };
        let host = &mut self.hosts[0];
        host.queues.extend(queues);
        host.tenants.push(tenant);
        // Whom the transport knows is looked up there.
        host.auth.identities = Some("identities".into());
    }

    pub fn add_client(&mut self, rng: &mut Rng, role: RolePlan) {
        self.clients.push(ClientPlan {
            host: 0,
            tenant: String::new(),
            heartbeat_ms: one(rng, &[300, 1_000, 5_000]),
            role,
            capacity: one(rng, &[512, 4_096, 65_536, 65_536]),
            delay_us: one(rng, &[(10, 100), (200, 3_000), (2_000, 40_000)]),
            rate: one(rng, &[100_000, 100_000, 2_000, 60]),
        });
    }

    fn add_publisher(&mut self, rng: &mut Rng, ttl: bool) {
        let publisher = self.clients.len();
        self.add_client(rng, RolePlan::Publisher);
        let ids = chance(rng, 80);
        let contract = one(rng, &[Contract::Disk, Contract::Queue, Contract::Memory]);
        let pace = one(rng, &[0, 100, 5_000, 60_000]);
        let (priorities, delays, retains) = (chance(rng, 40), chance(rng, 20), chance(rng, 20));
        let few = chance(rng, 50).then(|| channel(rng));
        let mut at_us = 200 * MS + rng.u64(..500 * MS);
        for n in 0..rng.u64(4..=40) {
            at_us += if chance(rng, 20) { rng.u64(..200 * MS) } else { rng.u64(..=pace) };
            let uid = self.messages.len() as u64;
            let size = match rng.u8(..20) {
                0..14 => rng.usize(8..200),
                14..19 => rng.usize(1_500..4_000),
                _ => rng.usize(8_000..12_000),
            };
            self.messages.push(Message {
                publisher,
                host: 0,
                tenant: String::new(),
                channel: few.clone().unwrap_or_else(|| channel(rng)),
                id: if ids { MessageId::from_parts(1 + uid, [n as u8; 10]) } else { MessageId::NONE },
                contract,
                priority: if priorities && chance(rng, 30) { rng.u8(..10) } else { 0 },
                ttl_ms: if ttl && chance(rng, 20) { rng.u32(1..3_000) } else { 0 },
                delay_ms: if delays && chance(rng, 20) { rng.u32(1..800) } else { 0 },
                retain: retains && chance(rng, 30),
                size,
                at_us: at_us.min(self.heal_us),
            });
        }
    }

    pub fn add_consumers(&mut self, rng: &mut Rng, q: &QueueSettings) {
        let names = if q.keep == Keep::Work { 1 } else { rng.usize(1..=2) };
        for n in 0..names {
            let some = chance(rng, 20) && q.keep != Keep::Work;
            let dies = chance(rng, 30);
            let consumer = ConsumerPlan {
                queue: q.name.clone(),
                name: format!("k{n}"),
                filters: if some { vec![channel(rng), "c/+/1".into()] } else { Vec::new() },
                window: one(rng, &[0, 1, 3, 20]),
                attempts_max: if dies { rng.u32(1..4) } else { 1_000 },
                ack_timeout_ms: one(rng, &[0, 0, 150, 1_000]),
                credit: one(rng, &[1, 4, 50]),
                nack: one(rng, &[0, 0, 10, 40]),
                give_up: one(rng, &[0, 0, 5]),
                ignore: one(rng, &[0, 0, 5]),
                work_us: one(rng, &[0, 500, 20_000]),
            };
            for _ in 0..rng.usize(1..=2) {
                self.add_client(rng, RolePlan::Consumer(consumer.clone()));
            }
        }
        self.add_undertaker(rng, q);
    }

    /// Somebody who takes a queue's dead letters.
    pub fn add_undertaker(&mut self, rng: &mut Rng, q: &QueueSettings) {
        let undertaker = ConsumerPlan {
            queue: format!("$dead/{}", q.name),
            name: "undertaker".into(),
            filters: Vec::new(),
            window: 0,
            attempts_max: 1_000,
            ack_timeout_ms: 0,
            credit: 50,
            nack: 0,
            give_up: 0,
            ignore: 0,
            work_us: 0,
        };
        self.add_client(rng, RolePlan::Consumer(undertaker));
    }
}

/// Something that goes wrong with a host.
pub fn fault(rng: &mut Rng, h: usize) -> Fault {
    let lost = match rng.u8(..6) {
        0..3 => Lost::All,
        3 => Lost::None,
        4 => Lost::Some(rng.u64(..)),
        _ => Lost::Torn(rng.u64(..)),
    };
    let cut = match rng.u8(..8) {
        0 => Cut::Now,
        1..3 => Cut::AtWrite(rng.u64(..200)),
        3..5 => Cut::AtSync(rng.u64(..40)),
        _ => Cut::AfterAck(rng.u32(..30)),
    };
    let ms = rng.u64(1..1_500) * MS;
    match rng.u8(..16) {
        0..6 => Fault::Power(h, cut, lost),
        6..8 => Fault::Kill(h),
        8 | 9 => Fault::Stop(h),
        10 => Fault::Full(h, rng.u64(..200_000), ms),
        11 => Fault::Broken(h, true, ms),
        12 => Fault::Broken(h, false, ms),
        13 => Fault::Stall(h, ms),
        _ => Fault::Wall(h, one(rng, &[HOUR_MS, -HOUR_MS, 24 * HOUR_MS, -50 * 8_766 * HOUR_MS, 50 * 8_766 * HOUR_MS])),
    }
}

pub fn queue(rng: &mut Rng, n: usize, history: bool) -> QueueSettings {
    let keep = one(rng, &[Keep::Work, Keep::Interest, Keep::Interest, Keep::Limits]);
    let small = chance(rng, 40);
    let overflow = match keep {
        // Nothing ever leaves a log that rejects.
        Keep::Limits => Overflow::DropOldest,
        _ if small => one(rng, &[Overflow::Reject, Overflow::Reject, Overflow::DropOldest, Overflow::DropNewest]),
        _ => Overflow::Reject,
    };
    let memory = n > 0 && chance(rng, 30);
    let capture = match n {
        0 => "c/#".to_owned(),
        _ => one(rng, &["c/#", "c/0/+", "c/+/1", "c/1/0"]).to_owned(),
    };
    QueueSettings {
        capture: vec![capture],
        keep,
        overflow,
        storage: if memory { Storage::Memory } else { Storage::Disk },
        contract: if memory || chance(rng, 20) { Contract::Memory } else { Contract::Disk },
        messages_max: if small { rng.u64(3..20) } else { 100_000 },
        bytes_max: if small && chance(rng, 30) { rng.u64(13_000..40_000) } else { 100_000_000 },
        history: history && chance(rng, 70),
        window: one(rng, &[1, 4, 64]),
        attempts_max: 0,
        backoff_ms: one(rng, &[5, 100]),
        backoff_ms_max: 500,
        ..QueueSettings::new(&format!("q{n}"))
    }
}

pub fn settings(rng: &mut Rng, queues: Vec<QueueSettings>) -> Settings {
    let mut s = Settings { queues, ..Settings::default() };
    s.store.linger_us = one(rng, &[0, 500, 2_000, 20_000]);
    s.store.batch_bytes = one(rng, &[2_000, 64_000, 256_000]);
    s.store.pending_bytes_max = one(rng, &[4_000, 30_000, 8_000_000]);
    s.store.tail_bytes = one(rng, &[0, 3_000, 2_000_000]);
    s.store.cache_bytes = 1_000_000;
    s.store.ack_linger_ms = one(rng, &[1, 50, 200]);
    s.store.free_low_bytes = 64_000;
    s.store.free_high_bytes = 96_000;
    s.store.reserve_bytes = one(rng, &[0, 400_000]);
    s.store.dedupe.ids_max = one(rng, &[100_000, 100_000, 100_000, 10]);
    s.limits.window_messages = one(rng, &[2, 16, 4_096]);
    s.limits.window_bytes = one(rng, &[4_000, 4_000_000]);
    s.limits.outbox_bytes_max = one(rng, &[2_000, 30_000, 2_000_000]);
    s.limits.heartbeat_ms = 1_000;
    s.limits.handshake_ms = 2_000;
    s.limits.frame_timeout_ms = 5_000;
    s.limits.message_bytes_max = 65_536;
    s.limits.frame_bytes_max = 65_536;
    s
}
