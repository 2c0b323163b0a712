//! An echo server on the broker's own HTTP and WebSocket code, for test suites that want one (Autobahn's cases).
#![allow(clippy::print_stdout, reason = "it tells where it listens")]

use smol::LocalExecutor;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use tidegate::config::HttpSettings;
use tidegate::runtime::reactor;
use tidegate::transport::{Answer, Http, Listener, Site, Upgraded, accept_forever};
use tidegate::websocket::{Data, Limits, Message, Messages, Role};

/// Largest message, in bytes: the suite's largest is 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 * 1_024 * 1_024;

struct Echo;

impl Site for Echo {
    fn settings(&self) -> HttpSettings {
        HttpSettings { origins: vec!["*".into()], ..HttpSettings::default() }
    }

    fn head_ms(&self) -> u64 {
        5_000
    }

    fn socket(&self) -> &'static str {
        "/"
    }

    fn protocols(&self) -> &'static [&'static str] {
        &[]
    }

    fn get(&self, _path: &str) -> Option<Answer> {
        None
    }
}

async fn echo(Upgraded { stream, already, .. }: Upgraded) -> std::io::Result<()> {
    let mut messages = Messages::new(stream, already, Role::Server, Limits { message_bytes_max: MESSAGE_BYTES_MAX });
    let ended = loop {
        let (kind, bytes) = match poll_fn(|cx| messages.poll_next(cx)).await {
            Ok(Some(Message::Binary(bytes))) => (Data::Binary, bytes),
            Ok(Some(Message::Text(text))) => (Data::Text, text.into()),
            Ok(None) => return Ok(()),
            Err(error) => break error,
        };
        poll_fn(|cx| messages.poll_ready(cx)).await?;
        poll_fn(|cx| std::task::Poll::Ready(messages.send(cx, kind, &bytes))).await?;
        poll_fn(|cx| messages.poll_flush(cx)).await?;
    };
    if messages.has_failed() {
        // It was told why; what it still sends is read, so that it hears it.
        poll_fn(|cx| messages.poll_close(cx)).await?;
        let mut rest = [0; 4_096];
        while poll_fn(|cx| messages.poll_rest(cx, &mut rest)).await? > 0 {}
    }
    Err(ended)
}

fn main() -> ExitCode {
    let address = std::env::args().nth(1).and_then(|text| text.parse::<SocketAddr>().ok());
    let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let executor = Rc::new(LocalExecutor::new());
    let listener = match Listener::ip(address, "http") {
        Ok(listener) => listener,
        Err(error) => {
            println!("{address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", listener.tcp_address().map_or_else(String::new, |bound| bound.to_string()));
    let http = Rc::new(Http::new(Rc::new(Echo)));
    let weak = Rc::downgrade(&executor);
    let accepting = accept_forever(listener, move |stream, peer| {
        let Some(executor) = weak.upgrade() else { return };
        let visit = Rc::clone(&http).serve(stream, peer);
        let task = async move {
            if let Some(upgraded) = visit.await
                && let Err(error) = echo(upgraded).await
            {
                log::debug!("ended with {error}");
            }
        };
        executor.spawn(task).detach();
    });
    match reactor::block_on(executor.run(accepting)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
