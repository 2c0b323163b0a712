//! The one thread that checks credentials, one after another: a costly password holds up neither the loop nor the disk.

use super::inbox::{Inbox, Notice};
use crate::auth::{Authenticator, files};
use crate::broker::NamedKeys;
use crate::config::{Settings, SignatureSettings};
use crate::model::{ConnId, Now, Wall};
use crate::runtime::clock;
use crate::session::{Attempt, Denied, Principal};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime};
use zeroize::Zeroize as _;

/// Files of keys and identities are looked at this often for changes, in milliseconds.
const LOOK_EVERY_MS: u64 = 2_000;
/// Whoever tells who somebody is by what they show.
pub trait Authenticate: Send {
    /// Judges what somebody shows. May take its time; `now` is the machine's clock.
    ///
    /// # Errors
    /// Why they are not let in.
    fn check(&self, now: Wall, attempt: &Attempt) -> Result<Principal, Denied>;

    /// The keys that the settings' rules of signatures call by name.
    fn named_keys(&self, _settings: &Settings) -> NamedKeys {
        NamedKeys::new()
    }
}

impl Authenticate for Authenticator {
    fn check(&self, now: Wall, attempt: &Attempt) -> Result<Principal, Denied> {
        Self::check(self, now, attempt)
    }

    fn named_keys(&self, settings: &Settings) -> NamedKeys {
        let mut named = NamedKeys::new();
        for rule in &settings.signatures {
            // What is no name stands for itself; a name that nobody has was refused when the files were read.
            for name in &rule.keys {
                let alone = SignatureSettings { keys: vec![name.clone()], ..rule.clone() };
                for key in self.signers(&alone).unwrap_or_default() {
                    named.insert((rule.tenant.as_str().into(), name.as_str().into()), key);
                }
            }
        }
        named
    }
}

/// Reads what the settings name, or says why it cannot be used.
pub type LoadIdentities = Box<dyn FnMut(&Settings) -> Result<Box<dyn Authenticate>, String> + Send>;

/// Something to do, in order.
enum Job {
    Check { conn: ConnId, now: Now, attempt: Attempt },
    Settings(Arc<Settings>),
}

/// The thread; dropping it waits for the end of the check under way.
pub(super) struct Porter {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Porter {
    /// Reads the files once and starts the thread.
    ///
    /// # Errors
    /// Why the files cannot be used, or that no thread could be started.
    #[expect(clippy::disallowed_methods, reason = "a password takes tens of milliseconds, and the loop must not")]
    pub(super) fn spawn(settings: Arc<Settings>, mut load: LoadIdentities, inbox: Inbox) -> Result<Self, String> {
        let authenticate = load(&settings)?;
        inbox.put(Notice::NamedKeys(authenticate.named_keys(&settings)));
        let (jobs, todo) = channel();
        let mut room = Room { seen: stamps(&settings), settings, load, authenticate };
        let thread = Builder::new()
            .name("porter".into())
            .spawn(move || room.work(&inbox, &todo))
            .map_err(|error: io::Error| format!("its thread cannot start: {error}"))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Checks credentials; the broker bounds how many wait here. `now` is the time as the broker has it.
    pub(super) fn check(&self, conn: ConnId, now: Now, attempt: Attempt) {
        self.send(Job::Check { conn, now, attempt });
    }

    /// New settings are in force: everything is read again.
    pub(super) fn reload(&self, settings: Arc<Settings>) {
        self.send(Job::Settings(settings));
    }

    fn send(&self, job: Job) {
        // The thread ends only when this half is dropped.
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        debug_assert!(sent, "the porter's thread outlives the loop");
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the porter's thread panicked");
        }
    }
}

/// What tells one version of a file from the next.
type Stamp = Option<(SystemTime, u64, u64)>;

struct Room {
    settings: Arc<Settings>,
    load: LoadIdentities,
    authenticate: Box<dyn Authenticate>,
    seen: Vec<(PathBuf, Stamp)>,
}

impl Room {
    fn work(&mut self, inbox: &Inbox, todo: &Receiver<Job>) {
        let mut look_at = clock::mono().plus_ms(LOOK_EVERY_MS);
        loop {
            // Also while logins leave no pause.
            let until = look_at.0.saturating_sub(clock::mono().0);
            if until == 0 && !self.seen.is_empty() {
                look_at = clock::mono().plus_ms(LOOK_EVERY_MS);
                if stamps(&self.settings) != self.seen {
                    self.read(inbox);
                }
            }
            let job = if self.seen.is_empty() {
                todo.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                todo.recv_timeout(Duration::from_micros(until))
            };
            match job {
                Ok(Job::Check { conn, now, mut attempt }) => {
                    let machine = clock::now().wall;
                    let mut outcome = self.authenticate.check(machine, &attempt);
                    attempt.data.zeroize();
                    // The broker's clock may be ahead of the machine's: what lasts an hour lasts an hour there, too.
                    if let Ok(Principal { expires: Some(at), .. }) = &mut outcome {
                        *at = now.wall.plus_ms(at.ms_since(machine));
                    }
                    inbox.put(Notice::Authenticated { conn, outcome });
                }
                Ok(Job::Settings(settings)) => {
                    self.settings = settings;
                    self.read(inbox);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn read(&mut self, inbox: &Inbox) {
        // Taken before the files are read: what changes meanwhile is found at the next look.
        self.seen = stamps(&self.settings);
        match (self.load)(&self.settings) {
            Ok(authenticate) => {
                self.authenticate = authenticate;
                inbox.put(Notice::NamedKeys(self.authenticate.named_keys(&self.settings)));
                log::info!("identities and keys were read again");
            }
            Err(error) => log::error!("identities and keys were not read again, the old ones stay in force: {error}"),
        }
    }
}

/// The files that say who may come in, as they are now.
fn stamps(settings: &Settings) -> Vec<(PathBuf, Stamp)> {
    let folder = settings.data.clone().unwrap_or_default();
    let stamp = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len(), meta.ino()))
    };
    let files = files(settings, &folder, &|name| std::env::var_os(name));
    files.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}
