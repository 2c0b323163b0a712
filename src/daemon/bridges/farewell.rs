//! The end of a connection to an upstream: its last bytes, and a little time for them.

use crate::daemon::machine::Machine;
use crate::daemon::shared::{BUFFER_BYTES, Shared};
use crate::runtime::reactor::Timer;
use crate::transport::BoxStream;
use smol::future::FutureExt as _;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use std::future::Future;
use std::io;
use std::rc::Rc;

/// A connection that is ended has this long for its last bytes, in milliseconds.
const LAST_BYTES_MS: u64 = 1_000;
/// A stop of the process waits so long for it, in milliseconds: less than the loop then has, so that an upstream that is silent is
/// nothing to complain about.
const STOP_MS: u64 = 500;

/// A stream and what is left to send.
pub(super) struct Farewell<M: Machine> {
    busy: Busy<M>,
    stream: BoxStream,
    unsent: Vec<u8>,
}

/// Counts as one that has bytes to get rid of: a stop waits for it, as long as it may take.
struct Busy<M: Machine>(Rc<Shared<M>>);

impl<M: Machine> Drop for Busy<M> {
    fn drop(&mut self) {
        self.0.count_busy(false);
    }
}

impl<M: Machine> Farewell<M> {
    pub(super) fn new(shared: &Rc<Shared<M>>, stream: BoxStream, unsent: Vec<u8>) -> Self {
        shared.count_busy(true);
        Self { busy: Busy(Rc::clone(shared)), stream, unsent }
    }

    /// Sends what is left, closes this end, and waits for the other: a socket that is closed with bytes unread resets the
    /// connection, and takes the last of ours from the peer.
    pub(super) fn run(self) -> impl Future<Output = ()> {
        let Self { busy, mut stream, unsent } = self;
        let parting = async move {
            stream.write_all(&unsent).await?;
            stream.flush().await?;
            stream.close().await?;
            let mut buffer = vec![0; BUFFER_BYTES];
            while stream.read(&mut buffer).await? > 0 {}
            io::Result::Ok(())
        };
        let late = async {
            Timer::after_ms(STOP_MS).await;
            drop(busy);
            Timer::after_ms(LAST_BYTES_MS - STOP_MS).await;
            Ok(())
        };
        async move {
            // It is over in any case.
            let _ = parting.or(late).await;
        }
    }
}
