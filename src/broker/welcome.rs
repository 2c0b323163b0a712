//! The end of the handshake: a session opens, and is told what it may rely on.

use super::Broker;
use crate::model::ConnId;
use crate::session::{Denied, Phase, Principal};
use crate::wire::{
    ENCODING_LZ4, ENCODING_LZ4_BATCH, EXTENSION_BRIDGE, EXTENSION_ENCODINGS, Extended, Extension, FrameType,
    SourcePosition, VERSION, Welcome,
};
use std::sync::Arc;

/// What every welcome says: compressed payloads are taken, and batches compressed as a whole.
const ENCODINGS: &[u8] = &[ENCODING_LZ4, ENCODING_LZ4_BATCH];

impl Broker {
    /// Whether a principal may come in at all.
    pub(super) fn admit(&self, principal: Principal) -> Result<Principal, Denied> {
        if principal.expires.is_some_and(|at| at <= self.now.wall) {
            let detail = format!("credentials of {:?} ended", principal.name);
            return Err(Denied { reason: "expired", detail });
        }
        Ok(principal)
    }

    /// The handshake is over.
    pub(super) fn open(&mut self, conn: ConnId, principal: Principal) {
        let settings = Arc::clone(&self.settings);
        let limits = &settings.limits;
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let expires = principal.expires;
        c.session.principal = principal;
        c.login.finish();
        if let Err(fault) = self.enter(conn) {
            return self.fail(conn, fault.code, &fault.detail);
        }
        self.take_over(conn);
        let kept = self.kept_of(conn);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let principal = &c.session.principal;
        c.session.phase = Phase::Open;
        if std::mem::take(&mut c.greeting) {
            self.logins.know(&c.peer);
        }
        log::debug!(
            "session {} of {:?} from {:?} is open as {:?} by {}",
            conn.0,
            c.session.client,
            c.peer,
            principal.name,
            principal.method.name()
        );
        let welcome = Welcome {
            version: VERSION,
            server: &settings.name,
            session: conn.0,
            heartbeat_ms: c.session.heartbeat_ms,
            frame_bytes_max: limits.frame_bytes_max,
            message_bytes_max: limits.message_bytes_max,
            window_messages: limits.window_messages,
            window_bytes: limits.window_bytes,
            time_ms: self.now.wall.0,
        };
        self.grant(conn);
        let mut extensions = vec![Extension { tag: EXTENSION_ENCODINGS, value: ENCODINGS }];
        extensions.extend(kept.iter().map(|value| Extension { tag: EXTENSION_BRIDGE, value }));
        self.control(conn, 0, FrameType::Welcome, &Extended { head: welcome, extensions: &extensions });
        self.watch_expiry(conn, expires);
        self.arm_session(conn);
    }

    /// What a bridge hears of its sources: nothing that is not durable. `None` for a session that is no bridge's.
    fn kept_of(&self, conn: ConnId) -> Option<Vec<u8>> {
        let c = self.conns.get(&conn)?;
        let told = self.mounts[c.mount].sources.told(c.source_owner()?, self.disk.durable);
        Some(SourcePosition::write_all(told))
    }
}
