//! A daemon in this process on a thread of its own, for tests.

use super::{LoadIdentities, Machine, Notify, Options, Ready, Reload, ServeError, Stopper, Stores, serve_with};
use crate::config::Settings;
use crate::model::Now;
use crate::store::{Reader, StoreError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// A daemon that listens. Dropping it stops it.
pub struct Running {
    /// Where and on what.
    pub ready: Ready,
    /// Stops and reloads.
    pub stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Running {
    /// The first TCP address.
    ///
    /// # Panics
    /// When the settings name none.
    #[must_use]
    pub fn tcp(&self) -> SocketAddr {
        self.ready.tcp[0]
    }

    /// The first TLS address.
    ///
    /// # Panics
    /// When the settings name none.
    #[must_use]
    pub fn tls(&self) -> SocketAddr {
        self.ready.tls[0]
    }

    /// The first HTTP address.
    ///
    /// # Panics
    /// When the settings name none.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.ready.http[0]
    }

    /// The first address of HTTP over TLS.
    ///
    /// # Panics
    /// When the settings name none.
    #[must_use]
    pub fn https(&self) -> SocketAddr {
        self.ready.https[0]
    }

    /// The Unix socket.
    ///
    /// # Panics
    /// When the settings name none.
    #[must_use]
    pub fn unix(&self) -> PathBuf {
        self.ready.unix.clone().expect("the settings of this test name a Unix socket")
    }

    /// Stops it in order and waits for the end.
    ///
    /// # Errors
    /// What it ended with.
    pub fn stop(mut self) -> Result<(), ServeError> {
        self.stopper.stop();
        self.wait()
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// What it ended with.
    ///
    /// # Panics
    /// When it panicked.
    pub fn wait(&mut self) -> Result<(), ServeError> {
        match self.thread.take() {
            Some(thread) => thread.join().expect("the daemon's thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stopper.stop();
            self.stopper.stop();
            // A panic there was seen by its own message; a second one here would abort the test.
            let _ = thread.join();
        }
    }
}

/// The default settings with free ports and everything inside `folder`.
#[must_use]
pub fn settings(folder: &Path) -> Settings {
    let mut settings = Settings { data: Some(folder.into()), ..Settings::default() };
    settings.listen.tcp = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    settings
}

/// Starts the broker on a store in the settings' folder; returns when it listens.
///
/// # Errors
/// What it could not start with.
pub fn spawn(settings: Settings) -> Result<Running, ServeError> {
    spawn_with(settings, None, super::start::open_stores, crate::broker::Broker::new)
}

/// Starts the broker on a store in the settings' folder, with the caller's word for who is who; returns when it listens.
///
/// # Errors
/// What it could not start with.
pub fn spawn_behind(settings: Settings, identities: LoadIdentities) -> Result<Running, ServeError> {
    spawn_all(settings, None, identities, super::start::open_stores, crate::broker::Broker::new)
}

/// Starts any machine on any stores; returns when it listens.
///
/// # Errors
/// What it could not start with.
///
/// # Panics
/// When the thread cannot be started, or panicked before it listened.
pub fn spawn_with<M: Machine + 'static>(
    settings: Settings,
    reload: Option<Box<dyn FnMut() -> Result<Settings, String> + Send>>,
    open: impl FnOnce(&Path, &Settings, Notify) -> Result<Stores, StoreError> + Send + 'static,
    build: impl FnOnce(Now, Arc<Settings>, &dyn Reader, u64) -> Result<M, StoreError> + Send + 'static,
) -> Result<Running, ServeError> {
    spawn_all(settings, reload, super::start::identities(), open, build)
}

#[expect(clippy::disallowed_methods, reason = "tests need a daemon beside them")]
fn spawn_all<M: Machine + 'static>(
    settings: Settings,
    reload: Option<Box<dyn FnMut() -> Result<Settings, String> + Send>>,
    identities: LoadIdentities,
    open: impl FnOnce(&Path, &Settings, Notify) -> Result<Stores, StoreError> + Send + 'static,
    build: impl FnOnce(Now, Arc<Settings>, &dyn Reader, u64) -> Result<M, StoreError> + Send + 'static,
) -> Result<Running, ServeError> {
    let (tell, told): (Sender<(Ready, Stopper)>, _) = channel();
    let body = move || {
        let reload = reload.map(|load| -> Reload { load });
        let options = Options { settings, reload, signals: false, identities };
        // The other end waits for this or for our end.
        serve_with(options, open, build, move |ready, stopper| drop(tell.send((ready.clone(), stopper))))
    };
    let thread = std::thread::Builder::new().name("tidegate".into()).spawn(body).expect("a thread can be started");
    match told.recv() {
        Ok((ready, stopper)) => Ok(Running { ready, stopper, thread: Some(thread) }),
        Err(_) => match thread.join().expect("the daemon's thread panicked") {
            Err(error) => Err(error),
            Ok(()) => unreachable!("it ends well only after it was ready"),
        },
    }
}
