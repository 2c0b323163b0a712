//! `serve`: the broker on a store in a folder.

use super::{Commit, LoadIdentities, Notify, Options, Ready, ServeError, Stopper, Stores, serve_with};
use crate::auth::Authenticator;
use crate::broker::Broker;
use crate::config::Settings;
use crate::runtime::{clock, entropy};
use crate::store::{Batch, Committer, MemoryStore, OpenOptions, Store, StoreError, open};
use std::path::{Path, PathBuf};

/// Runs the broker until it is stopped; `ready` is called once it listens.
///
/// # Errors
/// [`ServeError`] when it cannot start, or when its store breaks for good.
pub fn serve(options: Options, ready: impl FnOnce(&Ready, Stopper)) -> Result<(), ServeError> {
    serve_with(options, open_stores, Broker::new, ready)
}

/// Who may come in, as the files say that the settings name.
#[must_use]
pub fn identities() -> LoadIdentities {
    Box::new(|settings| {
        let folder = settings.data.clone().unwrap_or_default();
        let found = Authenticator::load(settings, &folder).map_err(|error| error.to_string())?;
        Ok(Box::new(found))
    })
}

/// Opens the durable store of a folder and an empty one in memory.
pub(super) fn open_stores(folder: &Path, settings: &Settings, notify: Notify) -> Result<Stores, StoreError> {
    let store = open_disk(folder, settings)?;
    let reader = store.reader();
    let (folder, settings): (PathBuf, Settings) = (folder.into(), settings.clone());
    let reopen = Box::new(move || open_disk(&folder, &settings));
    let committer = Box::new(Thread(Committer::spawn(store, reopen, notify)));
    Ok(Stores { reader, committer, memory: Box::new(MemoryStore::new()) })
}

fn open_disk(folder: &Path, settings: &Settings) -> Result<Box<dyn Store>, StoreError> {
    let mut random = [0; 16];
    entropy::fill(&mut random).map_err(|e| StoreError::Io(format!("no random bits for the store: {e}")))?;
    let random = u128::from_le_bytes(random);
    let options = OpenOptions {
        cache_bytes: settings.store.cache_bytes as usize,
        now: clock::now().wall,
        journal_bytes: settings.store.journal_bytes,
        random,
        ..OpenOptions::default()
    };
    Ok(Box::new(open(folder, &options)?.store))
}

struct Thread(Committer);

impl Commit for Thread {
    fn submit(&mut self, batches: Vec<Batch>) {
        self.0.submit(batches);
    }

    fn resume(&mut self) {
        self.0.resume();
    }

    fn stop(self: Box<Self>) {
        self.0.stop();
    }
}
