//! What the tasks of the run loop share: the machine, the clock, two buffers and who is to be woken. One thread, no lock.

use super::machine::Machine;
use crate::broker::{Event, Transmit};
use crate::model::{ConnId, Now};
use crate::runtime::clock;
use crate::schedule::SteadyWall;
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

/// Most read at once, and about the most asked of [`Machine::poll_transmit`] at once, in bytes.
pub(super) const BUFFER_BYTES: usize = 64 * 1_024;

/// Shared by all tasks of the loop. Nothing is borrowed across a wake-up or a call that may come back here.
pub(super) struct Shared<M> {
    pub(super) machine: RefCell<M>,
    pub(super) read_buffer: RefCell<Vec<u8>>,
    pub(super) write_buffer: RefCell<Vec<u8>>,
    steady: Cell<SteadyWall>,
    slots: RefCell<HashMap<ConnId, Rc<Slot>>>,
    last_conn: Cell<u64>,
    /// Connections that have bytes to get rid of.
    busy: Cell<usize>,
    /// The machine was called since its effects were last drained.
    dirty: Cell<bool>,
    conductor: RefCell<Option<Waker>>,
}

/// Where a connection is woken.
#[derive(Default)]
pub(super) struct Slot {
    waker: RefCell<Option<Waker>>,
    /// The machine has something for it.
    look: Cell<bool>,
}

impl Slot {
    /// Keeps the waker of the connection's task: the same one for its whole life.
    pub(super) fn remember(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if kept.is_none() {
            *kept = Some(waker.clone());
        }
    }

    /// Whether the machine asked for a look since the last one.
    pub(super) fn take_look(&self) -> bool {
        self.look.replace(false)
    }
}

impl<M: Machine> Shared<M> {
    /// `steady` gives the wall clock the machine sees.
    pub(super) fn new(machine: M, steady: SteadyWall) -> Self {
        Self {
            machine: RefCell::new(machine),
            read_buffer: RefCell::new(vec![0; BUFFER_BYTES]),
            write_buffer: RefCell::new(Vec::new()),
            steady: Cell::new(steady),
            slots: RefCell::default(),
            last_conn: Cell::new(0),
            busy: Cell::new(0),
            dirty: Cell::new(true),
            conductor: RefCell::default(),
        }
    }

    /// The time as the machine sees it.
    pub(super) fn now(&self) -> Now {
        let now = clock::now();
        let mut steady = self.steady.get();
        let wall = steady.at(now.mono, now.wall);
        self.steady.set(steady);
        Now { wall, ..now }
    }

    /// Tells the machine; its effects follow after the tasks that are ready now.
    pub(super) fn handle(&self, event: Event<'_>) {
        self.machine.borrow_mut().handle(self.now(), event);
        self.touch();
    }

    /// Asks the machine for bytes to send.
    pub(super) fn transmit(&self, conn: ConnId, out: &mut Vec<u8>) -> Transmit {
        let said = self.machine.borrow_mut().poll_transmit(self.now(), conn, out, BUFFER_BYTES);
        self.touch();
        said
    }

    /// Has the conductor run once more. It is queued behind all tasks that are ready now, so that what they bring ends in
    /// one commit; when none is, it runs at once.
    pub(super) fn touch(&self) {
        if !self.dirty.replace(true)
            && let Some(waker) = &*self.conductor.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// The conductor begins to drain.
    pub(super) fn begin_turn(&self) {
        self.dirty.set(false);
    }

    /// Who drains.
    pub(super) fn set_conductor(&self, waker: &Waker) {
        let mut conductor = self.conductor.borrow_mut();
        if conductor.is_none() {
            *conductor = Some(waker.clone());
        }
    }

    /// A number for a new connection.
    pub(super) fn number(&self) -> ConnId {
        self.last_conn.set(self.last_conn.get() + 1);
        ConnId(self.last_conn.get())
    }

    /// Connections that are not gone.
    pub(super) fn connections(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Has the connection's task look at what the machine has for it.
    pub(super) fn wake(&self, conn: ConnId) {
        if let Some(slot) = self.slots.borrow().get(&conn)
            && !slot.look.replace(true)
            && let Some(waker) = &*slot.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    pub(super) fn enter(&self, conn: ConnId) -> Rc<Slot> {
        let slot = Rc::<Slot>::default();
        self.slots.borrow_mut().insert(conn, Rc::clone(&slot));
        slot
    }

    pub(super) fn leave(&self, conn: ConnId) {
        let mut slots = self.slots.borrow_mut();
        slots.remove(&conn);
        // Ten thousand connections that came and went should not be remembered.
        if slots.capacity() > 1_024 && slots.len() < slots.capacity() / 8 {
            slots.shrink_to_fit();
        }
    }

    pub(super) fn count_busy(&self, more: bool) {
        let busy = self.busy.get();
        self.busy.set(if more { busy + 1 } else { busy - 1 });
        self.touch();
    }

    /// Whether every connection has got rid of its bytes.
    pub(super) fn is_flushed(&self) -> bool {
        self.busy.get() == 0
    }
}
