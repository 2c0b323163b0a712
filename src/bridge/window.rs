//! How much may be under way to the upstream: a window in messages and bytes that follows what the link moves.

use crate::model::Mono;

/// Messages that may be under way before anything is known of the link.
const MESSAGES_START: u32 = 64;
/// Bytes that may be.
const BYTES_START: u64 = 16 * 1_024;
/// Fewest messages and bytes the window shrinks to. One message may go whenever nothing is under way, whatever its size.
const MESSAGES_MIN: u32 = 8;
const BYTES_MIN: u64 = 2 * 1_024;
/// Round trips' worth of what the link moves that may be under way, beside a batch. Two and not one: the second one is what
/// shows that the link could move more, so that the window grows again by itself.
const ROUND_TRIPS: u64 = 2;
/// The least time, in microseconds, whose worth may be under way: an upstream on the same machine makes more durable in
/// one go the more it has, which a round trip of a millisecond does not tell.
const SPAN_US_MIN: u64 = 250_000;
/// The longest round trip believed, in microseconds: what takes longer waited in somebody's queue.
const ROUND_TRIP_US_MAX: u64 = 2_000_000;
/// Bytes and messages that may always be under way, whatever was measured: see [`Window::least_room`].
const BYTES_ALWAYS: u64 = 128 * 1_024;
const MESSAGES_ALWAYS: u32 = 512;
/// Fewest and most bytes of a batch.
const BATCH_BYTES_MIN: u64 = 1_024;
const BATCH_BYTES_MAX: u64 = 64 * 1_024;
/// A batch is what the link moves in this part of a second.
const BATCHES_A_SECOND: u64 = 2;
/// An acknowledgement that took longer than this and so many shortest round trips, in microseconds, is late: what was
/// measured before it holds no more.
const LATE_US: u64 = 2_000_000;
const LATE_ROUND_TRIPS: u64 = 4;
/// Rounds the best rate of which is believed.
const ROUNDS: usize = 8;
/// Microseconds after which the shortest round trip is measured anew, with less under way.
const SHORTEST_US_MAX: u64 = 30_000_000;
/// A share of the window that is all of it: see [`Window::room`].
pub const SHARE_FULL: u32 = 1_000;

/// Most that may ever be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowMax {
    /// Messages; at least 1 is taken.
    pub messages: u32,
    /// Bytes of records; at least 2 KiB are taken.
    pub bytes: u32,
}

/// The window of one connection.
///
/// All bytes are bytes of records, as they are before a batch is compressed: a link with compression is a faster link. It
/// keeps nothing a message: what it needs to know of one it gives away as a [`Mark`].
#[derive(Clone, Debug)]
pub struct Window {
    max: WindowMax,
    /// What may be under way.
    messages: u32,
    bytes: u64,
    /// What is.
    messages_out: u32,
    bytes_out: u64,
    /// Bytes ever acknowledged, and when the last of them were.
    acked: u64,
    acked_at: Mono,
    /// When at least half of the window was last in use: only then do acknowledgements tell what the link can do.
    used_at: Option<Mono>,
    /// Best rates, in bytes a second, of the last rounds; the round under way is `rates[0]`.
    rates: [u64; ROUNDS],
    /// The round ends with the acknowledgement of something sent when so many bytes were acknowledged.
    round: u64,
    /// The shortest round trip of late in microseconds, and when it was last as short.
    shortest: Option<(u64, Mono)>,
    /// The last round trip, in microseconds.
    last_us: u64,
    /// The shortest round trip is measured anew.
    probing: bool,
}

/// What is to be told again when what was sent then is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    at: Mono,
    acked: u64,
    acked_at: Mono,
    /// Sent with little under way, while the shortest round trip is measured.
    probe: bool,
}

/// What may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub messages: u32,
    /// Bytes of records. While nothing is under way one message may go even if it is larger.
    pub bytes: u64,
}

impl Window {
    /// The window of a connection that begins.
    #[must_use]
    pub fn new(max: WindowMax) -> Self {
        let mut window = Self {
            max,
            messages: MESSAGES_START,
            bytes: BYTES_START,
            messages_out: 0,
            bytes_out: 0,
            acked: 0,
            acked_at: Mono(0),
            used_at: None,
            rates: [0; ROUNDS],
            round: 0,
            shortest: None,
            last_us: 0,
            probing: false,
        };
        window.set_max(max);
        window
    }

    /// Other settings. What is under way already may exceed them.
    pub fn set_max(&mut self, max: WindowMax) {
        self.max = WindowMax { messages: max.messages.max(1), bytes: max.bytes.max(BYTES_MIN as u32) };
        self.messages = self.messages.min(self.max.messages);
        self.bytes = self.bytes.min(u64::from(self.max.bytes));
    }

    /// So much goes now; the mark is to be told with its acknowledgements.
    pub fn sent(&mut self, now: Mono, messages: u32, bytes: u64) -> Mark {
        if self.messages_out == 0 {
            self.acked_at = now;
        }
        self.messages_out = self.messages_out.saturating_add(messages);
        self.bytes_out = self.bytes_out.saturating_add(bytes);
        if self.bytes_out.saturating_mul(2) >= self.bytes || self.messages_out.saturating_mul(2) >= self.messages {
            self.used_at = Some(now);
        }
        let shortest = self.shortest.map_or(now, |(_, at)| at);
        self.probing |= now.0.saturating_sub(shortest.0) > SHORTEST_US_MAX;
        let probe = self.probing && (self.messages_out == messages || self.bytes_out <= self.limits().1);
        Mark { at: now, acked: self.acked, acked_at: self.acked_at, probe }
    }

    /// So much of what was sent at `mark` was acknowledged, all at once or a part of it.
    pub fn acked(&mut self, now: Mono, mark: &Mark, messages: u32, bytes: u64) {
        self.gone(messages, bytes);
        self.acked = self.acked.saturating_add(bytes);
        self.acked_at = self.acked_at.max(now);
        let took = now.0.saturating_sub(mark.at.0).max(1);
        let late = took > LATE_US.saturating_add(self.shortest_us().saturating_mul(LATE_ROUND_TRIPS));
        self.round_trip(now, took);
        if mark.probe && self.probing {
            (self.shortest, self.probing) = (Some((took, now)), false);
        }
        let used = self.used_at.is_some_and(|at| at >= mark.at);
        if used && mark.acked >= self.round {
            self.round = self.acked;
            self.rates.rotate_right(1);
            self.rates[0] = 0;
        }
        let span = now.0.saturating_sub(mark.acked_at.0).max(1);
        let moved = self.acked.saturating_sub(mark.acked);
        let rate = u64::try_from(u128::from(moved) * 1_000_000 / u128::from(span)).unwrap_or(u64::MAX);
        if late {
            self.rates = [0; ROUNDS];
            self.messages = (self.messages / 2).max(MESSAGES_MIN);
        }
        self.rates[0] = self.rates[0].max(rate);
        if used {
            self.messages = self.messages.saturating_add(if late { 0 } else { messages });
            self.bytes = self.bytes.saturating_add(bytes).min(self.target());
        }
        self.messages = self.messages.min(self.max.messages);
        self.bytes = self.bytes.clamp(BYTES_MIN, u64::from(self.max.bytes));
    }

    /// So much of what was sent is under way no more, without having been acknowledged: refused, or to be sent again.
    pub fn gone(&mut self, messages: u32, bytes: u64) {
        self.messages_out = self.messages_out.saturating_sub(messages);
        self.bytes_out = self.bytes_out.saturating_sub(bytes);
    }

    /// A round trip was measured otherwise: a ping's, in microseconds.
    pub fn round_trip(&mut self, now: Mono, us: u64) {
        let us = us.max(1);
        self.last_us = us;
        if self.shortest.is_none_or(|(shortest, _)| us <= shortest) {
            (self.shortest, self.probing) = (Some((us, now)), false);
        }
    }

    /// What may go now, where only `share` of [`SHARE_FULL`] parts of the window may be used (0 is as good as 1). There is
    /// room for one message whenever nothing is under way.
    #[must_use]
    pub fn room(&self, share: u32) -> Room {
        let (messages, bytes) = self.limits();
        let part = |of: u64| of * u64::from(share.min(SHARE_FULL)) / u64::from(SHARE_FULL);
        let messages = part(u64::from(messages)).saturating_sub(u64::from(self.messages_out)) as u32;
        let bytes = part(bytes).saturating_sub(self.bytes_out);
        match self.messages_out {
            0 => Room { messages: messages.max(1), bytes: bytes.max(1) },
            _ => Room { messages, bytes },
        }
    }

    /// The same, and never less than lets TCP be what limits a thin link. One that loses packets stalls for seconds and then
    /// moves a lot, which a window that follows what moved takes for a slower link, and TCP takes a sender that pauses for
    /// one, too: at 50 kbit/s, 600 ms and 2 % of loss a fifth of the link stays unused. What is not on the wire yet waits
    /// with the lanes all the same, where an alarm passes it: the transport takes little that it cannot send.
    #[must_use]
    pub fn least_room(&self, share: u32) -> Room {
        let (room, share) = (self.room(share), u64::from(share.min(SHARE_FULL)));
        let messages = u64::from(MESSAGES_ALWAYS.min(self.max.messages)) * share / u64::from(SHARE_FULL);
        let bytes = BYTES_ALWAYS.min(u64::from(self.max.bytes)) * share / u64::from(SHARE_FULL);
        Room {
            messages: room.messages.max((messages as u32).saturating_sub(self.messages_out)),
            bytes: room.bytes.max(bytes.saturating_sub(self.bytes_out)),
        }
    }

    /// Messages and bytes that are under way.
    #[must_use]
    pub const fn under_way(&self) -> (u32, u64) {
        (self.messages_out, self.bytes_out)
    }

    /// The window in force, in messages and bytes, for the status.
    #[must_use]
    pub fn limits(&self) -> (u32, u64) {
        if !self.probing {
            return (self.messages, self.bytes);
        }
        // Half of what fills the link: what is still on its way then waits for nothing.
        let fill = moved(self.rate(), self.shortest_us());
        (self.messages, (fill / 2).clamp(BYTES_MIN.min(self.bytes), self.bytes))
    }

    /// Bytes a batch should have at most: what the link moves in half a second, 1 KiB to 64 KiB. A message that is larger
    /// goes alone.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        (self.rate() / BATCHES_A_SECOND).clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX)
    }

    /// Milliseconds of the last round trip, rounded up; 0 before the first.
    #[must_use]
    pub const fn round_trip_ms(&self) -> u64 {
        self.last_us.div_ceil(1_000)
    }

    /// Bytes of records a second that the link moved lately at its best; 0 before the first acknowledgement.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    fn shortest_us(&self) -> u64 {
        self.shortest.map_or(0, |(us, _)| us)
    }

    /// Where the bytes are to settle.
    fn target(&self) -> u64 {
        let round_trip = self.shortest_us().min(ROUND_TRIP_US_MAX);
        let span = round_trip.saturating_mul(ROUND_TRIPS).max(SPAN_US_MIN);
        moved(self.rate(), span).saturating_add(self.batch_bytes())
    }
}

/// Bytes that so many a second are in so many microseconds.
fn moved(rate: u64, us: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(us) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const MAX: WindowMax = WindowMax { messages: 4_096, bytes: 1 << 20 };

    /// A link that moves so many bytes a second one after another and takes `delay` there and back, filled as far as the
    /// window allows.
    struct Pipe {
        window: Window,
        now: Mono,
        rate: u64,
        delay: u64,
        free_at: Mono,
        out: VecDeque<(Mono, Mark, u32, u64)>,
        acked: u64,
        most: u64,
    }

    impl Pipe {
        fn new(rate: u64, delay: u64) -> Self {
            let window = Window::new(MAX);
            Self { window, now: Mono(7), rate, delay, free_at: Mono(0), out: VecDeque::new(), acked: 0, most: 0 }
        }

        fn send(&mut self, messages: u32, bytes: u64) {
            let mark = self.window.sent(self.now, messages, bytes);
            self.free_at = self.free_at.max(self.now).plus_us(bytes * 1_000_000 / self.rate);
            self.out.push_back((self.free_at.plus_us(self.delay), mark, messages, bytes));
            self.most = self.most.max(self.window.under_way().1);
        }

        /// Sends batches of messages of `size` bytes while there is room, for so long.
        fn run(&mut self, us: u64, size: u64) {
            let end = self.now.plus_us(us);
            loop {
                loop {
                    let (room, batch) = (self.window.room(SHARE_FULL), self.window.batch_bytes());
                    let messages = (batch.min(room.bytes) / size).max(1).min(u64::from(room.messages));
                    if messages == 0 || (messages * size > room.bytes && self.window.under_way().0 > 0) {
                        break;
                    }
                    self.send(messages as u32, messages * size);
                }
                let Some(&(at, mark, messages, bytes)) = self.out.front() else { panic!("nothing is under way") };
                if at > end {
                    self.now = end;
                    return;
                }
                self.out.pop_front();
                self.now = self.now.max(at);
                self.window.acked(self.now, &mark, messages, bytes);
                self.acked += bytes;
            }
        }

        /// Bytes a second that were acknowledged in the next so many microseconds.
        fn measure(&mut self, us: u64, size: u64) -> u64 {
            let before = self.acked;
            self.run(us, size);
            (self.acked - before) * 1_000_000 / us
        }
    }

    #[test]
    fn it_starts_small_and_doubles_each_round_trip() {
        // A fat link with a long way: nothing but the window limits it.
        let mut pipe = Pipe::new(1 << 30, 100_000);
        assert_eq!(pipe.window.limits(), (64, 16 << 10));
        let mut sizes = Vec::new();
        for _ in 0..5 {
            pipe.run(101_000, 256);
            sizes.push(pipe.window.limits().1);
        }
        assert!(sizes.windows(2).all(|pair| pair[1] >= pair[0] * 3 / 2 && pair[1] <= pair[0] * 5 / 2), "{sizes:?}");
        pipe.run(2_000_000, 256);
        assert_eq!(pipe.window.limits(), (4_096, 1 << 20), "up to what the settings say");
    }

    #[test]
    fn on_a_slow_and_long_link_it_holds_two_round_trips_and_a_batch_and_fills_it() {
        // 50 kbit/s and 600 ms: 3,750 bytes fill it.
        let mut pipe = Pipe::new(6_250, 600_000);
        pipe.run(30_000_000, 200);
        pipe.most = 0;
        let rate = pipe.measure(300_000_000, 200);
        assert!(rate >= 6_250 * 95 / 100, "{rate} bytes a second");
        assert!((2 * 3_750..20_000).contains(&pipe.window.bytes), "{:?}", pipe.window);
        assert!(pipe.most < 20_000, "{} bytes were under way", pipe.most);
        assert!((1_024..=4_096).contains(&pipe.window.batch_bytes()), "{}", pipe.window.batch_bytes());
        assert!((5_000..=8_000).contains(&pipe.window.rate()), "{}", pipe.window.rate());
        assert!((600..4_000).contains(&pipe.window.round_trip_ms()), "{}", pipe.window.round_trip_ms());
    }

    #[test]
    fn on_loopback_it_is_as_large_as_the_settings_allow() {
        let mut pipe = Pipe::new(40_000_000, 1_000);
        pipe.run(1_000_000, 256);
        assert_eq!(pipe.window.limits(), (4_096, 1 << 20));
        assert_eq!(pipe.window.batch_bytes(), 64 << 10);
    }

    #[test]
    fn a_link_that_gets_slower_makes_it_smaller_and_one_that_gets_faster_larger() {
        let mut pipe = Pipe::new(1_000_000, 50_000);
        pipe.run(10_000_000, 256);
        let fast = pipe.window.limits().1;
        assert!(fast > 200_000, "{fast}");
        pipe.rate = 10_000;
        pipe.run(60_000_000, 256);
        let slow = pipe.window.limits().1;
        assert!(slow < 20_000, "{slow}");
        pipe.rate = 1_000_000;
        pipe.run(20_000_000, 256);
        assert!(pipe.window.limits().1 > 200_000, "{:?}", pipe.window);
    }

    #[test]
    fn a_way_that_gets_longer_is_noticed_and_filled_again() {
        let mut pipe = Pipe::new(1_000_000, 20_000);
        pipe.run(5_000_000, 256);
        pipe.delay = 600_000;
        pipe.run(120_000_000, 256);
        let rate = pipe.measure(60_000_000, 256);
        assert!(rate > 900_000, "{rate} bytes a second");
    }

    #[test]
    fn a_late_acknowledgement_shrinks_it() {
        let mut pipe = Pipe::new(1_000_000, 20_000);
        pipe.run(5_000_000, 256);
        let (messages, bytes) = pipe.window.limits();
        let late = pipe.window.sent(pipe.now, 1, bytes);
        pipe.window.acked(pipe.now.plus_ms(10_000), &late, 1, bytes);
        let (after_messages, after_bytes) = pipe.window.limits();
        assert!(after_bytes <= bytes / 2 && after_messages <= messages / 2 + 1, "{:?}", pipe.window);
    }

    #[test]
    fn who_sends_little_neither_grows_nor_shrinks_it() {
        let mut pipe = Pipe::new(1_000_000, 20_000);
        for _ in 0..10_000 {
            pipe.send(1, 100);
            let (at, mark, messages, bytes) = pipe.out.pop_front().unwrap();
            pipe.now = at.plus_ms(50);
            pipe.window.acked(at, &mark, messages, bytes);
            assert_eq!(pipe.window.bytes, BYTES_START);
        }
        assert_eq!(pipe.window.limits().0, MESSAGES_START);
    }

    #[test]
    fn one_message_of_any_size_may_go_when_nothing_is_under_way_and_no_more() {
        let mut window = Window::new(WindowMax { messages: 0, bytes: 0 });
        let room = window.room(0);
        assert!(room.messages == 1 && room.bytes > 0);
        let mark = window.sent(Mono(5), 1, 16 << 20);
        assert_eq!(window.room(SHARE_FULL), Room { messages: 0, bytes: 0 });
        window.acked(Mono(9), &mark, 1, 16 << 20);
        assert!(window.room(SHARE_FULL).messages == 1);
        window.sent(Mono(9), 1, 5);
        window.gone(1, 5);
        assert_eq!((window.under_way(), window.room(SHARE_FULL).messages), ((0, 0), 1));
    }

    #[test]
    fn whatever_was_measured_a_thin_link_is_left_to_tcp_within_the_settings_and_the_share() {
        let mut window = Window::new(MAX);
        assert_eq!(window.least_room(SHARE_FULL), Room { messages: 512, bytes: 128 << 10 });
        assert_eq!(window.least_room(250), Room { messages: 128, bytes: 32 << 10 });
        window.sent(Mono(1), 500, 100 << 10);
        assert_eq!(window.least_room(SHARE_FULL), Room { messages: 12, bytes: 28 << 10 });
        assert_eq!(window.least_room(250), Room { messages: 0, bytes: 0 });
        window.set_max(WindowMax { messages: 40, bytes: 8 << 10 });
        assert_eq!(window.least_room(SHARE_FULL), Room { messages: 0, bytes: 0 });
    }

    #[test]
    fn a_share_of_it_is_that_and_new_settings_hold_at_once() {
        let mut window = Window::new(MAX);
        assert_eq!(window.room(250), Room { messages: 16, bytes: 4 << 10 });
        window.sent(Mono(1), 20, 5 << 10);
        assert_eq!(window.room(250), Room { messages: 0, bytes: 0 });
        assert_eq!(window.room(SHARE_FULL), Room { messages: 44, bytes: 11 << 10 });
        window.set_max(WindowMax { messages: 30, bytes: 8 << 10 });
        assert_eq!(window.room(SHARE_FULL), Room { messages: 10, bytes: 3 << 10 });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_the_link_it_stays_within_its_bounds_and_fills_it(
            rate in 2_000u64..50_000_000,
            delay in 200u64..1_500_000,
            size in 40u64..2_000,
        ) {
            let mut pipe = Pipe::new(rate, delay);
            let round = delay + 20_000 + size * 1_000_000 / rate;
            pipe.run(round * 60, size);
            let got = pipe.measure(round * 60, size);
            // Where the settings' window is less than the link takes it cannot be full.
            let most = rate.min((1u64 << 20).min(4_096 * size) * 1_000_000 / (delay + 1)).min(rate);
            prop_assert!(got >= most * 7 / 10, "{got} of {most}: {:?}", pipe.window);
            prop_assert!(pipe.most <= 1 << 20, "{}", pipe.most);
        }

        #[test]
        fn any_order_of_calls_and_any_times_keep_its_bounds(
            steps in prop::collection::vec((0u8..5, 0u64..40_000_000, 1u32..500, 0u64..200_000), 1..200),
            messages in 0u32..5_000,
            bytes in 0u32..2_000_000,
        ) {
            let max = WindowMax { messages, bytes };
            let mut window = Window::new(max);
            let (mut now, mut out) = (Mono(0), VecDeque::new());
            for (what, us, n, size) in steps {
                match what {
                    0 | 1 => {
                        let mark = window.sent(now, n, size);
                        out.push_back((mark, n, size));
                    }
                    2 => if let Some((mark, n, size)) = out.pop_front() {
                        window.acked(now, &mark, n, size);
                    },
                    3 => if let Some((mark, n, size)) = out.pop_back() {
                        // The clock that is told may be behind: other than Mono promises, and still no harm.
                        window.acked(Mono(now.0 / 2), &mark, n, size);
                    },
                    _ => {
                        now = now.plus_us(us);
                        window.round_trip(now, us);
                    }
                }
                let (limit, limit_bytes) = window.limits();
                prop_assert!(limit >= 1 && limit <= messages.max(1));
                prop_assert!(limit_bytes >= BYTES_MIN && limit_bytes <= u64::from(bytes).max(BYTES_MIN));
                prop_assert!((BATCH_BYTES_MIN..=BATCH_BYTES_MAX).contains(&window.batch_bytes()));
                let sum = out.iter().fold((0, 0), |sum, (_, n, size)| (sum.0 + n, sum.1 + size));
                prop_assert_eq!(window.under_way(), sum);
                if sum.0 == 0 {
                    prop_assert!(window.room(0).messages >= 1 && window.room(0).bytes >= 1);
                }
            }
        }
    }
}
