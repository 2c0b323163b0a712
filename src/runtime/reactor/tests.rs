//! The reactor alone: sockets in pairs, other threads, timers.

use super::*;
use smol::LocalExecutor;
use smol::future::{FutureExt as _, poll_fn, yield_now};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;

type Watch = Watched<UnixStream>;

fn pair() -> (Watch, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("set");
    (Watched::new(ours).expect("watched"), theirs)
}

/// Takes a short read for an empty socket, as the streams of `transport/` do.
async fn read(watched: &Watch, buffer: &mut [u8]) -> usize {
    let room = buffer.len();
    let read = poll_fn(|cx| {
        watched.poll_with(Way::Read, cx, |mut file: &UnixStream| file.read(buffer).map(|n| (n, n < room)))
    });
    read.await.expect("read")
}

async fn write(watched: &Watch, bytes: &[u8]) -> usize {
    let write = poll_fn(|cx| {
        watched.poll_with(Way::Write, cx, |mut file: &UnixStream| file.write(bytes).map(|n| (n, n < bytes.len())))
    });
    write.await.expect("written")
}

fn run<T>(future: impl Future<Output = T>) -> T {
    block_on(future).expect("a reactor")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the other thread is what is tested")]
fn no_call_of_another_thread_is_lost() {
    const CALLS: u32 = 20_000;
    struct Turn {
        count: u32,
        waker: Option<Waker>,
    }
    let turn = Arc::new(Mutex::new(Turn { count: 0, waker: None }));
    let (call, calls) = channel::<()>();
    let theirs = Arc::clone(&turn);
    // Each call is answered as soon as this thread can, so it comes before, while and after the loop falls asleep.
    let other = std::thread::Builder::new()
        .spawn(move || {
            for () in calls {
                let mut turn = theirs.lock().expect("no panic");
                turn.count += 1;
                let waker = turn.waker.take();
                drop(turn);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        })
        .expect("a thread");
    run(async {
        for asked in 1..=CALLS {
            call.send(()).expect("it listens");
            poll_fn(|cx| {
                let mut turn = turn.lock().expect("no panic");
                if turn.count == asked {
                    return Poll::Ready(());
                }
                turn.waker = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
    });
    drop(call);
    other.join().expect("no panic");
}

#[test]
fn a_reader_that_waits_hears_of_bytes_and_of_the_end() {
    let (ours, mut theirs) = pair();
    run(async {
        let mut buffer = [0; 16];
        for i in 0..100 {
            let reading = read(&ours, &mut buffer);
            let writing = async {
                yield_now().await;
                theirs.write_all(&[i; 3]).expect("sent");
                std::future::pending().await
            };
            assert_eq!(reading.or(writing).await, 3);
            assert_eq!(buffer[..3], [i; 3]);
        }
        let reading = read(&ours, &mut buffer);
        let closing = async {
            yield_now().await;
            drop(theirs);
            std::future::pending().await
        };
        assert_eq!(reading.or(closing).await, 0);
    });
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_heard() {
    let (ours, mut theirs) = pair();
    run(async {
        let mut buffer = [0; 16];
        // Waits once, so that one event tells of the bytes and of the end.
        let reading = read(&ours, &mut buffer);
        let sending = async {
            yield_now().await;
            theirs.write_all(b"last").expect("sent");
            drop(theirs);
            std::future::pending().await
        };
        assert_eq!(reading.or(sending).await, 4);
        assert_eq!(read(&ours, &mut buffer).await, 0);
    });
}

#[test]
fn a_full_socket_is_written_to_again_when_there_is_room_and_asks_for_room_only_then() {
    const BYTES: usize = 8 << 20;
    let (ours, theirs) = pair();
    theirs.set_nonblocking(true).expect("set");
    let theirs = Watched::new(theirs).expect("watched");
    let mut sent = 0;
    run(async {
        while let Some(n) = smol::future::poll_once(write(&ours, &[7; 10_000])).await {
            assert!(!ours.source.told_of_room.get());
            sent += n;
        }
    });
    assert!(ours.source.told_of_room.get());
    let writer = async {
        while sent < BYTES {
            sent += write(&ours, &vec![7; (BYTES - sent).min(100_000)]).await;
        }
    };
    let reader = async {
        let (mut got, mut buffer) = (0, vec![0; 30_000]);
        while got < BYTES {
            got += read(&theirs, &mut buffer).await;
        }
    };
    run(smol::future::zip(writer, reader));
    run(write(&ours, b"x"));
    assert!(!ours.source.told_of_room.get());
}

#[test]
fn many_sockets_come_and_go_and_each_gets_its_own_bytes() {
    let executor = LocalExecutor::new();
    let mut others = Vec::new();
    for round in 0..2u8 {
        let tasks: Vec<_> = (0..300u32)
            .map(|i| {
                let (ours, theirs) = pair();
                others.push((i, theirs));
                executor.spawn(async move {
                    let mut buffer = [0; 8];
                    let n = read(&ours, &mut buffer).await;
                    (i, buffer[..n].to_vec())
                })
            })
            .collect();
        run(executor.run(async {
            yield_now().await;
            for (i, mut theirs) in others.drain(..).rev() {
                theirs.write_all(&[i.to_be_bytes()[2], i.to_be_bytes()[3], round]).expect("sent");
            }
            for task in tasks {
                let (i, got) = task.await;
                assert_eq!(got, [i.to_be_bytes()[2], i.to_be_bytes()[3], round]);
            }
        }));
    }
    let reactor = Reactor::current().expect("made");
    assert!(reactor.sources.borrow().iter().all(Option::is_none), "places are given back");
    assert_eq!(reactor.sources.borrow().len(), 300, "and used again");
}

#[test]
fn timers_fire_in_order_and_never_early() {
    let executor = LocalExecutor::new();
    let order = Rc::new(RefCell::new(Vec::new()));
    let start = clock::mono();
    let tasks: Vec<_> = [30, 10, 20, 0, 10]
        .into_iter()
        .map(|ms| {
            let order = Rc::clone(&order);
            let at = start.plus_ms(ms);
            executor.spawn(async move {
                Timer::at(at).await;
                assert!(clock::mono() >= at);
                order.borrow_mut().push(ms);
            })
        })
        .collect();
    run(executor.run(async {
        for task in tasks {
            task.await;
        }
    }));
    assert_eq!(*order.borrow(), [0, 10, 10, 20, 30]);
}

#[test]
fn a_timer_that_is_dropped_or_set_anew_leaves_nothing_behind() {
    run(async {
        let far = clock::mono().plus_ms(3_600_000);
        let mut timer = Timer::at(far);
        let dropped = Timer::never();
        assert!(smol::future::poll_once(&mut timer).await.is_none());
        {
            let mut dropped = dropped;
            dropped.set(far);
            assert!(smol::future::poll_once(&mut dropped).await.is_none());
            TIMERS.with_borrow(|timers| assert_eq!(timers.due.len(), 2));
        }
        timer.set(clock::mono().plus_ms(1));
        TIMERS.with_borrow(|timers| assert!(timers.due.is_empty()));
        timer.await;
        TIMERS.with_borrow(|timers| assert!(timers.due.is_empty()));
    });
}
