//! The one thread for what may block on a disk and is not a commit: reads, free space, the reserve file.

use super::inbox::{Inbox, Notice};
use super::tls::Watched;
use crate::config::TlsSettings;
use crate::runtime::disk;
use crate::store::{ReadRequest, Reader, StoreError, perform};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

/// Name of the reserve file in the data folder.
pub(super) const RESERVE_FILE: &str = "reserve";

/// Something to do, in order.
pub(super) enum Job {
    /// Perform a read and tell its result.
    Read { token: u64, request: ReadRequest },
    /// Read from this from now on; `None` lets go of the old store so that it can be opened again.
    Reader(Option<Box<dyn Reader>>),
    /// Tell the free space.
    Space,
    /// Look whether the files of TLS changed, and read them again if they did.
    LookTls,
    /// Read them again: perhaps others.
    RenewTls(TlsSettings),
    /// Make a reserve of so many bytes, or remove it.
    Reserve(Option<u64>),
}

/// The thread; dropping it waits for the end of the job under way.
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it.
    #[expect(clippy::disallowed_methods, reason = "reads block, and the loop must not")]
    pub(super) fn spawn(
        folder: PathBuf,
        reader: Box<dyn Reader>,
        tls: Option<Watched>,
        inbox: Inbox,
    ) -> io::Result<Self> {
        let (jobs, todo) = channel();
        let body = move || work(&folder, Some(reader), tls, &inbox, &todo);
        let thread = Builder::new().name("reader".into()).spawn(body)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Queues a job. Reads are bounded by the broker, all others by time.
    pub(super) fn send(&self, job: Job) {
        // The thread ends only when this half is dropped.
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        debug_assert!(sent, "the reader thread outlives the loop");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the reader thread panicked");
        }
    }
}

fn work(
    folder: &Path,
    mut reader: Option<Box<dyn Reader>>,
    mut tls: Option<Watched>,
    inbox: &Inbox,
    todo: &Receiver<Job>,
) {
    while let Ok(job) = todo.recv() {
        match job {
            Job::Read { token, request } => {
                let result = match &reader {
                    Some(reader) => perform(&**reader, &request),
                    None => Err(StoreError::Io("it is being opened again".into())),
                };
                inbox.put(Notice::Read { token, result });
            }
            Job::Reader(new) => reader = new,
            Job::Space => match disk::free_bytes(folder) {
                Ok(free_bytes) => inbox.put(Notice::Space { free_bytes }),
                Err(error) => log::warn!("free space of {} is unknown: {error}", folder.display()),
            },
            Job::LookTls => {
                if let Some(result) = tls.as_mut().and_then(Watched::look) {
                    inbox.put(Notice::Tls(result.map(Box::new)));
                }
            }
            Job::RenewTls(settings) => {
                if let Some(tls) = &mut tls {
                    inbox.put(Notice::Tls(tls.renew(settings).map(Box::new)));
                }
            }
            Job::Reserve(bytes) => {
                let path = folder.join(RESERVE_FILE);
                let (verb, done) = match bytes {
                    Some(bytes) => ("made", disk::reserve(&path, bytes)),
                    None => ("given up", disk::release(&path)),
                };
                match done {
                    Ok(()) => log::info!("the disk reserve is {verb}"),
                    Err(error) => log::warn!("the disk reserve could not be {verb}: {error}"),
                }
            }
        }
    }
}
