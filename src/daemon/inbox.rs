//! What other threads and the signals tell the run loop. Bounded by what the loop has asked for and by signals.

use crate::broker::NamedKeys;
use crate::model::ConnId;
use crate::session::{Denied, Principal};
use crate::store::{CommitEvent, ReadResult, StoreError};
use crate::transport::{Material, MaterialError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

/// One thing told.
pub(super) enum Notice {
    Commit(CommitEvent),
    Read {
        token: u64,
        result: Result<ReadResult, StoreError>,
    },
    Space {
        free_bytes: u64,
    },
    Authenticated {
        conn: ConnId,
        outcome: Result<Principal, Denied>,
    },
    /// Keys that rules of signatures call by name.
    NamedKeys(NamedKeys),
    /// The files of TLS were read again.
    Tls(Result<Box<Material>, MaterialError>),
    /// Once: stop in order. Twice: stop now.
    Stop,
    Reload,
}

/// Any thread may put in; the loop takes out.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    waker: Option<Waker>,
}

impl Inbox {
    /// Tells the loop and wakes it.
    pub(super) fn put(&self, notice: Notice) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.notices.push_back(notice);
        // The loop leaves its waker again when it has taken these: one wake-up for a burst.
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes all there is into `into`, which must be empty, and leaves the waker for what comes next.
    pub(super) fn take(&self, cx: &Context<'_>, into: &mut VecDeque<Notice>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.notices, into);
        if waiting.waker.is_none() {
            waiting.waker = Some(cx.waker().clone());
        }
    }
}
