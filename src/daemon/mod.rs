//! The daemon: one thread that carries bytes and effects between the world and the broker, and `serve`, which starts it.
//!
//! Tasks of the loop: the conductor (effects, notices, the timer), one a listener, one a connection, one for signals.
//! Other threads: the committer, and a reader for whatever else may block on a disk. What is ready at once is handled
//! first and its effects are carried out together afterwards, so that a burst from many sockets ends in one commit.

mod admission;
mod bridges;
mod conductor;
mod connection;
mod folder;
mod handshakes;
mod inbox;
mod machine;
mod porter;
mod reload;
mod shared;
mod start;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod web;
mod worker;

pub use bridges::{STEP_MS as DIAL_STEP_MS, Step, probe};
pub use folder::{READY_FILE, Ready, pick as pick_folder};
pub use machine::Machine;
pub use porter::{Authenticate, LoadIdentities};
pub use start::{identities, serve};

use crate::broker::Event;
use crate::config::{Listen, Settings};
use crate::model::{Now, Wall};
use crate::runtime::signals::{Asked, Listening};
use crate::runtime::{clock, disk, entropy, limits, reactor};
use crate::schedule::SteadyWall;
use crate::store::{Batch, CommitEvent, Reader, Store, StoreError, Table, schema};
use crate::transport::{Listener, MaterialError, Tls, accept_forever};
use admission::{Admission, Door};
use bridges::Bridges;
use conductor::{Conductor, Memory, Parts};
use folder::ReadyFile;
use handshakes::Handshakes;
use inbox::{Inbox, Notice};
use porter::Porter;
use shared::Shared;
use smol::LocalExecutor;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use worker::Worker;

/// Loads the settings again, or says why not.
pub type Reload = Box<dyn FnMut() -> Result<Settings, String>>;

/// Tells the loop of a commit; usable from any thread.
pub type Notify = Box<dyn Fn(CommitEvent) + Send>;

/// What `serve` is given.
pub struct Options {
    /// The settings, complete.
    pub settings: Settings,
    /// Called on SIGHUP.
    pub reload: Option<Reload>,
    /// Whether to hear TERM, INT and HUP.
    pub signals: bool,
    /// Reads who may come in.
    pub identities: LoadIdentities,
}

/// The committer as the loop sees it.
pub trait Commit {
    /// Hands over batches to be made durable, in order, answered by one [`CommitEvent::Committed`] unless a
    /// [`CommitEvent::Failed`] comes first. Does not block.
    fn submit(&mut self, batches: Vec<Batch>);
    /// [`CommitEvent::Reopened`] was heard; until then what is submitted after a failure is dropped.
    fn resume(&mut self);
    /// Writes what was handed over and ends the thread.
    fn stop(self: Box<Self>);
}

/// The stores, opened.
pub struct Stores {
    /// A reading half of the durable one.
    pub reader: Box<dyn Reader>,
    /// Its writing half.
    pub committer: Box<dyn Commit>,
    /// The one in memory.
    pub memory: Box<dyn Store>,
}

/// Why the daemon could not start or go on.
#[derive(Debug)]
pub enum ServeError {
    /// Neither the settings nor the environment name a data folder.
    NoFolder,
    /// The data folder cannot be used.
    Folder(PathBuf, io::Error),
    /// The store cannot be opened, or broke for good.
    Store(StoreError),
    /// An address cannot be listened on.
    Listen(String, io::Error),
    /// The settings name no address.
    NoAddress,
    /// Who may come in cannot be read: why.
    Identities(String),
    /// A certificate, a key or a list of the TLS listeners cannot be used.
    Tls(MaterialError),
    /// The system refused something else: what, and why.
    System(&'static str, io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFolder => f.write_str("no data folder: set `data` in the configuration, or $HOME"),
            Self::Folder(path, error) => {
                write!(f, "the data folder {} cannot be used: {error}{}", path.display(), advice(error))
            }
            Self::Store(error) => error.fmt(f),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::NoAddress => f.write_str("no address to listen on: set `listen.tcp` or `listen.unix`"),
            Self::Identities(why) => write!(f, "who may come in cannot be read:\n{why}"),
            Self::Tls(error) => write!(f, "TLS cannot be used: {error}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<StoreError> for ServeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What to do about a folder that cannot be used.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": the broker's user must be able to read and write it",
        io::ErrorKind::ReadOnlyFilesystem => ": its file system is mounted read-only, and it must be writable",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => ": a file is in the way",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": free some space",
        _ => "",
    }
}

/// Runs a machine on stores until it is stopped. `open` opens the stores in the data folder, `build` makes the machine
/// from what is in them, `ready` is called once it listens.
///
/// # Errors
/// [`ServeError`] when it cannot start, or when a store breaks that cannot be opened again.
pub fn serve_with<M: Machine + 'static>(
    options: Options,
    open: impl FnOnce(&Path, &Settings, Notify) -> Result<Stores, StoreError>,
    build: impl FnOnce(Now, Arc<Settings>, &dyn Reader, u64) -> Result<M, StoreError>,
    ready: impl FnOnce(&Ready, Stopper),
) -> Result<(), ServeError> {
    let Options { mut settings, reload, signals, identities } = options;
    let files_max = limits::raise_open_files();
    if files_max.is_some_and(|max| max < u64::from(settings.limits.connections_max) + 64) {
        log::warn!(
            "the system allows {} open files, fewer than limits.connections_max = {} need",
            files_max.unwrap_or(0),
            settings.limits.connections_max
        );
    }
    let folder = folder::pick(&settings, |name| std::env::var_os(name)).ok_or(ServeError::NoFolder)?;
    settings.data = Some(folder.clone());
    let settings = Arc::new(settings);
    folder::make(&folder).map_err(|error| ServeError::Folder(folder.clone(), error))?;

    let inbox = Inbox::default();
    let told = inbox.clone();
    let notify: Notify = Box::new(move |news| told.put(Notice::Commit(news)));
    let stores = open(&folder, &settings, notify)?;
    // From here on the folder is ours: the store is locked.
    ReadyFile::remove_stale(&folder);
    let mut steady = SteadyWall::new(floor(&*stores.reader)?);
    let raw = clock::now();
    let now = Now { wall: steady.at(raw.mono, raw.wall), ..raw };
    if steady.lead_ms(raw.wall) > 1_000 {
        log::warn!("the machine's clock is {} s behind the last time known here", steady.lead_ms(raw.wall) / 1_000);
    }
    let seed = entropy::seed().map_err(|error| ServeError::System("no randomness", error))?;
    let machine = build(now, Arc::clone(&settings), &*stores.reader, seed)?;
    // The store's row of the clock is written seldom; messages may be of later.
    steady.raise(machine.clock_floor());

    let tls = load_tls(&settings, &folder, now.wall)?;
    let listeners = bind(&settings.listen, &folder)?;
    let bound = |scheme| {
        let of = listeners.iter().filter(move |(_, listener)| listener.scheme() == scheme);
        of.filter_map(|(_, listener)| listener.tcp_address()).collect()
    };
    let listening = Ready {
        folder: folder.clone(),
        tcp: bound("tcp"),
        tls: bound("tls"),
        http: bound("http"),
        https: bound("https"),
        unix: listeners.iter().find_map(|(_, listener)| listener.unix_path()).map(Path::to_path_buf),
    };
    let signals = if signals {
        Some(Listening::start().map_err(|error| ServeError::System("signals cannot be heard", error))?)
    } else {
        None
    };

    let shared = Rc::new(Shared::new(machine, steady));
    match disk::free_bytes(&folder) {
        Ok(free_bytes) => shared.handle(Event::Disk { free_bytes }),
        Err(error) => return Err(ServeError::Folder(folder, error)),
    }
    let watched = tls.as_ref().map(|_| tls::Watched::new(settings.tls.clone(), &folder));
    let worker = Worker::spawn(folder.clone(), stores.reader, watched, inbox.clone())
        .map_err(|error| ServeError::System("the reader thread cannot start", error))?;

    let porter = Porter::spawn(Arc::clone(&settings), identities, inbox.clone()).map_err(ServeError::Identities)?;

    let executor = Rc::new(LocalExecutor::new());
    let counted = Rc::clone(&shared);
    let tell = move |reason| counted.handle(Event::NoTls { reason });
    let handshakes = tls.clone().map(|tls| Handshakes::new(tls, &executor, tell));
    let admission = Admission::new(&shared, &executor, handshakes);
    let acceptors = listeners
        .into_iter()
        .map(|(door, listener)| {
            log::info!("listening on {listener}");
            let admission = Rc::clone(&admission);
            executor.spawn(accept_forever(listener, move |stream, peer| admission.arrived(door, stream, peer)))
        })
        .collect();
    drop(admission);
    if let Some(signals) = signals {
        executor.spawn(hear(signals, inbox.clone())).detach();
    }
    let ready_file = ReadyFile::write(&listening).map_err(|error| ServeError::Folder(folder, error))?;
    ready(&listening, Stopper(inbox.clone()));

    let bridges = Bridges::new(&shared, &executor);
    let parts = Parts {
        shared,
        inbox,
        committer: stores.committer,
        memory: Memory::new(stores.memory),
        worker,
        porter,
        reload,
        acceptors,
        bridges,
        tls: tls.map(|tls| tls::Keeper::new(tls, clock::mono())),
    };
    let conductor = executor.spawn(Conductor::new(parts).run());
    let ended = reactor::block_on(executor.run(conductor));
    drop(executor);
    let ended = ended.map_err(|error| ServeError::System("the kernel tells no events", error))?;
    ended.committer.stop();
    drop(ready_file);
    match &ended.result {
        Ok(()) => log::info!("stopped"),
        Err(error) => log::error!("ended without being asked to, to be started anew: {error}"),
    }
    ended.result.map_err(ServeError::Store)
}

/// Stops a running daemon from any thread: the first call in order, a second at once.
#[derive(Clone)]
pub struct Stopper(Inbox);

impl Stopper {
    /// As SIGTERM.
    pub fn stop(&self) {
        self.0.put(Notice::Stop);
    }

    /// As SIGHUP.
    pub fn reload(&self) {
        self.0.put(Notice::Reload);
    }
}

/// The last time the store knows of.
fn floor(reader: &dyn Reader) -> Result<Wall, StoreError> {
    let row = reader.get(Table::Meta, schema::META_CLOCK)?;
    let row = row.and_then(|row| row.first_chunk::<8>().copied());
    Ok(Wall(row.map_or(0, u64::from_be_bytes)))
}

/// What the TLS listeners show and trust, if there are any. What is out of date is taken at a start: the other doors must
/// open, and a clock that is not yet set must not keep a box from coming up.
fn load_tls(settings: &Settings, folder: &Path, now: Wall) -> Result<Option<Tls>, ServeError> {
    if settings.listen.tls.is_empty() && settings.listen.https.is_empty() {
        return Ok(None);
    }
    tls::load(&settings.tls, folder, now).map(|material| Some(Tls::new(material))).map_err(ServeError::Tls)
}

fn bind(listen: &Listen, folder: &Path) -> Result<Vec<(Door, Listener)>, ServeError> {
    let mut listeners = Vec::new();
    for (door, scheme, addresses) in [
        (Door::Frames, "tcp", &listen.tcp),
        (Door::Tls, "tls", &listen.tls),
        (Door::Http, "http", &listen.http),
        (Door::Https, "https", &listen.https),
    ] {
        for address in addresses {
            let bound = Listener::ip(*address, scheme);
            listeners.push((door, bound.map_err(|error| ServeError::Listen(address.to_string(), error))?));
        }
    }
    if let Some(path) = &listen.unix {
        let path = folder.join(path);
        let bound = Listener::unix(&path, listen.unix_mode);
        let bound = bound.map_err(|error| ServeError::Listen(path.display().to_string(), error))?;
        listeners.push((Door::Frames, bound));
    }
    if listeners.is_empty() { Err(ServeError::NoAddress) } else { Ok(listeners) }
}

async fn hear(mut signals: Listening, inbox: Inbox) {
    loop {
        match signals.next().await {
            Ok(Asked::Stop) => inbox.put(Notice::Stop),
            Ok(Asked::Reload) => inbox.put(Notice::Reload),
            Err(error) => {
                log::error!("signals are not heard any more: {error}");
                return;
            }
        }
    }
}
