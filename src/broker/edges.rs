//! Sessions of bridges: who says so in hello, that of two of one bridge the newer one stays, and that none hears its own echo.

use super::conn::Conn;
use super::{Broker, ConnId};
use crate::model::{Record, tag};
use crate::protocols::Fault;
use crate::store::schema::SourceOwner;
use crate::wire::{BridgeHello, Code, EXTENSION_BRIDGE, Extensions};
use std::rc::Rc;

/// The session of a bridge, and how many it took over from since the first that was open beside another.
pub(super) struct BridgeSession {
    conn: ConnId,
    takeovers: u32,
}

impl Conn {
    /// Whose sources it may name; `None` for a session that is no bridge's.
    pub(super) fn source_owner(&self) -> Option<&Rc<SourceOwner>> {
        self.bridge.as_ref()
    }

    /// Whether it is a bridge's session: of one of this process, or of one of another broker.
    pub(super) fn is_of_bridge(&self) -> bool {
        self.peer.is_bridge() || self.bridge.is_some()
    }

    /// Whether it is the session of a bridge whose edge this record began at: it is not sent back there.
    pub(super) fn is_echo(&self, record: &[u8]) -> bool {
        self.bridge.as_ref().is_some_and(|owner| began_at(record, &owner.edge))
    }
}

/// Whether a record says that it began at this edge.
pub(super) fn began_at(record: &[u8], edge: &str) -> bool {
    let Ok(record) = Record::decode(record) else { return false };
    record.properties.iter().any(|p| p.tag == tag::ORIGIN && p.value == edge.as_bytes())
}

impl Broker {
    /// Notes that a hello makes its session a bridge's.
    ///
    /// # Errors
    /// What it says of itself is malformed.
    pub(super) fn note_bridge(&mut self, conn: ConnId, extensions: Extensions<'_>) -> Result<(), Fault> {
        let Some(bytes) = extensions.get(EXTENSION_BRIDGE) else { return Ok(()) };
        let Ok((hello, [])) = postcard::take_from_bytes::<BridgeHello<'_>>(bytes) else {
            return Err(Fault::new(Code::BadHead, "what hello says of a bridge is malformed"));
        };
        if !hello.is_valid() {
            return Err(Fault::new(Code::BadName, "the names of an edge and of its bridge have 1 to 128 bytes"));
        }
        if let Some(c) = self.conns.get_mut(&conn) {
            let (edge, bridge) = (hello.edge.into(), hello.bridge.into());
            // Whose it is shows when the session is open.
            let owner = SourceOwner { here: c.peer.is_bridge(), principal: "".into(), edge, bridge };
            c.bridge = Some(Rc::new(owner));
        }
        Ok(())
    }

    /// A bridge's session is about to be open, its principal known: an older one of the same bridge ends.
    pub(super) fn take_over(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let Some(owner) = &mut c.bridge else { return };
        Rc::make_mut(owner).principal.clone_from(&c.session.principal.name);
        let owner = Rc::clone(owner);
        let session = BridgeSession { conn, takeovers: 0 };
        let mount = c.mount;
        let Some(older) = self.mounts[mount].bridges.insert(Rc::clone(&owner), session) else { return };
        if !self.conns.get(&older.conn).is_some_and(|c| c.session.is_open()) {
            // It said goodbye, and its connection is not gone yet.
            return;
        }
        let takeovers = older.takeovers.saturating_add(1);
        if let Some(session) = self.mounts[mount].bridges.get_mut(&owner) {
            session.takeovers = takeovers;
        }
        self.counters.bridge_takeovers += 1;
        let SourceOwner { edge, bridge, .. } = &*owner;
        log::warn!(
            "session {} of bridge {bridge:?} of edge {edge:?} takes over from session {}, {takeovers} in a row: either its \
             connection was lost, or two edges have one name",
            conn.0,
            older.conn.0
        );
        let detail = format!(
            "a newer session of bridge {bridge:?} of edge {edge:?} took over: if that is no reconnect, two edges have one name"
        );
        self.fail(older.conn, Code::Conflict, &detail);
    }

    /// A session is gone, or ends: it is its bridge's no longer.
    pub(super) fn leave_bridge(&mut self, mount: usize, conn: ConnId, owner: &Rc<SourceOwner>) {
        let bridges = &mut self.mounts[mount].bridges;
        if bridges.get(owner).is_some_and(|session| session.conn == conn) {
            bridges.remove(owner);
        }
    }
}
