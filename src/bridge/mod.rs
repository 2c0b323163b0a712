//! One bridge as a pure machine between two sessions: one at the local broker, in memory, and one at the upstream.
//!
//! Locally it is a client like others, of [`crate::session::Peer::Bridge`]: it consumes the queues it forwards and publishes what it
//! brings. Upstream it is a client that says hello with [`crate::wire::EXTENSION_BRIDGE`]. A message leaves its queue when the
//! upstream acknowledged it; what is under way when a connection ends goes back to its queue, in order, and the upstream says
//! what it has of it already. Nothing waits here that a queue could hold: while there is no upstream, nothing is consumed.
//!
//! The edge around it (`daemon/bridges.rs`, or a simulation) carries bytes both ways, dials what [`Action::Dial`] names, and
//! asks [`Bridge::poll_action`] and [`Bridge::poll_timeout`] after every call.

mod budget;
mod down;
mod events;
mod forward;
mod keep;
mod lane;
mod life;
mod local;
pub mod loops;
mod machine;
pub mod mapping;
mod pace;
mod side;
mod status;
mod up;
mod upstream;
mod window;

pub use budget::{Budget, BudgetKept};
pub use machine::{Bridge, Parts};
pub use pace::{Caps, Pace, Turns};
pub use window::{Mark, Room, SHARE_FULL, Window, WindowMax};

/// What a bridge asks of the edge around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to `urls[url]` of the settings and tell [`Bridge::handle_dialed`]; what was dialed before is given up.
    Dial {
        /// Number of the connection: what is told of an older one is of no interest.
        number: u64,
        /// Which address.
        url: usize,
    },
    /// End the connection to the upstream, once what [`Bridge::poll_upstream`] gave was sent, or a second has passed.
    HangUp {
        /// Which.
        number: u64,
    },
    /// Answer the upstream's challenge by the credentials of the settings, read now, through [`Bridge::handle_credentials`].
    Credentials {
        /// For which connection.
        number: u64,
        /// Method asked for.
        method: u8,
        /// What is to be signed, for a key.
        challenge: Vec<u8>,
    },
    /// Open a session at the local broker; its bytes follow.
    OpenLocal,
    /// End it.
    CloseLocal,
    /// Tell the broker how it is: [`Bridge::status`], and this to keep over restarts where that changed.
    Tell {
        /// Any bytes, given to the next [`Bridge::new`].
        keep: Option<Vec<u8>>,
    },
}

/// Where an attempt to reach the upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The name has no address, or no name server answers.
    Dns,
    /// Nobody listens there.
    Refused,
    /// No answer in time, at whatever step.
    Timeout,
    /// There is no route to it.
    Unreachable,
    /// The TLS handshake failed.
    Tls,
    /// The HTTP answer is no WebSocket.
    Http,
    /// Credentials were refused, or there are none to show.
    Auth,
    /// What the upstream says is not understood, or it ended the session for another reason.
    Protocol,
    /// Nothing was heard for too long.
    Heartbeat,
    /// Connected, but nothing was acknowledged for too long.
    Stalled,
    /// The connection ended.
    Closed,
    /// The local broker ended its session.
    Local,
}

impl Reason {
    /// Its name in status, logs and counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Auth => "auth",
            Self::Protocol => "protocol",
            Self::Heartbeat => "heartbeat",
            Self::Stalled => "stalled",
            Self::Closed => "closed",
            Self::Local => "local",
        }
    }
}

/// Why a connection could not be made, or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub reason: Reason,
    /// For people: one sentence, without a secret.
    pub detail: String,
}
