//! HTTP/1.1 on a stream: what the site answers, and `/ws`, which becomes a WebSocket.
//!
//! All of a connection before its upgrade is bounded: how many there are, how long a head may take and be, how many requests
//! one may make. Nothing here knows frames: behind the upgrade the stream is handed on.

use super::BoxStream;
use super::origin::{self, Networks};
use crate::config::HttpSettings;
use crate::model::Mono;
use crate::runtime::clock;
use crate::runtime::reactor::Timer;
use crate::session::Peer;
use crate::websocket;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};
use smol::io::{AsyncRead, AsyncWrite};
use smol_hyper::rt::FuturesIo;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Connections of HTTP at once that are not, or not yet, a WebSocket. Where one more comes, it takes the place of the oldest
/// of the address that has most; one of that address itself is turned away.
pub const CONNECTIONS_MAX: usize = 512;
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1_024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Requests on one connection; the last is answered with `Connection: close`.
const REQUESTS_MAX: u32 = 1_000;
/// An answer must have been taken, and the next request made, within this, in milliseconds.
const REQUEST_MS: u64 = 10_000;
/// That there are too many connections is said this often, in milliseconds.
const SAY_EVERY_MS: u64 = 60_000;

/// What is behind the paths. One for all connections.
pub trait Site {
    /// The settings in force.
    fn settings(&self) -> HttpSettings;
    /// Milliseconds from connect to a whole head.
    fn head_ms(&self) -> u64;
    /// Where WebSockets are.
    fn socket(&self) -> &'static str {
        websocket::PATH
    }
    /// Subprotocols there, the best first; none are asked for where there are none.
    fn protocols(&self) -> &'static [&'static str] {
        &[websocket::SUBPROTOCOL]
    }
    /// The answer to GET of a path; `None` where nothing is.
    fn get(&self, path: &str) -> Option<Answer>;
}

/// A short answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its text.
    pub body: String,
    /// What the text is.
    pub content_type: &'static str,
}

impl Answer {
    /// Plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into(), content_type: "text/plain; charset=utf-8" }
    }
}

/// A connection that became a WebSocket.
pub struct Upgraded {
    /// The stream behind the handshake.
    pub stream: BoxStream,
    /// What was read of it already.
    pub already: Vec<u8>,
    /// Who is there: behind a trusted proxy whom it tells.
    pub peer: Peer,
    /// The subprotocol agreed on.
    pub protocol: Option<&'static str>,
}

/// The HTTP side of a listener.
pub struct Http {
    site: Rc<dyn Site>,
    /// Those that are open, in the order they came.
    open: RefCell<BTreeMap<u64, Rc<Visit>>>,
    last: Cell<u64>,
    said: Cell<Option<Mono>>,
}

impl Http {
    /// Serves this.
    #[must_use]
    pub fn new(site: Rc<dyn Site>) -> Self {
        Self { site, open: RefCell::default(), last: Cell::new(0), said: Cell::new(None) }
    }

    /// Serves one connection until it ends or becomes a WebSocket. Where there are too many it is told so and closed.
    pub async fn serve(self: Rc<Self>, stream: BoxStream, peer: Peer) -> Option<Upgraded> {
        if !self.make_room(peer.network()) {
            turn_away(stream);
            return None;
        }
        let visit = Rc::new(Visit {
            peer,
            deadline: RefCell::new(Timer::after_ms(self.site.head_ms())),
            requests: Cell::new(0),
            upgrade: Cell::new(None),
            ousted: Cell::new(false),
            waker: RefCell::new(None),
        });
        let _open = Open::new(&self, &visit);
        let service = Visitor { site: Rc::clone(&self.site), visit: Rc::clone(&visit) };
        let mut connection = http1::Builder::new()
            // Ours holds for all of a head, an answer and the silence between.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(FuturesIo::new(stream), service);
        let served = poll_fn(|cx| {
            if visit.is_ousted(cx) {
                return Poll::Ready(Err("another address needs its place".to_owned()));
            }
            if Pin::new(&mut *visit.deadline.borrow_mut()).poll(cx).is_ready() {
                return Poll::Ready(Err("it took too long".to_owned()));
            }
            let served = connection.poll_without_shutdown(cx).map_err(|error| error.to_string());
            // It may have been set meanwhile, and must know whom to wake.
            if served.is_pending() && Pin::new(&mut *visit.deadline.borrow_mut()).poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            served
        })
        .await;
        let Parts { io, read_buf, .. } = connection.into_parts();
        let stream = io.into_inner();
        match (served, visit.upgrade.take()) {
            (Ok(()), Some((peer, protocol))) => {
                return Some(Upgraded { stream, already: read_buf.to_vec(), peer, protocol });
            }
            (Ok(()), None) => {}
            (Err(error), _) => log::debug!("{:?}: HTTP ended: {error}", visit.peer),
        }
        end(stream, &visit).await;
        None
    }

    /// Makes a place for one of this network where there is none; whether it may come in.
    fn make_room(&self, network: Option<IpAddr>) -> bool {
        let mut open = self.open.borrow_mut();
        if open.len() < CONNECTIONS_MAX {
            return true;
        }
        self.say();
        let own = open.values().filter(|visit| visit.peer.network() == network).count();
        match oldest_of_crowd(open.iter().map(|(number, visit)| (*number, visit.peer.network()))) {
            Some((number, crowd)) if crowd > own + 1 => {
                if let Some(visit) = open.remove(&number) {
                    visit.oust();
                }
                true
            }
            _ => false,
        }
    }

    fn say(&self) {
        let now = clock::mono();
        if self.said.get().is_none_or(|at| now.ms_since(at) >= SAY_EVERY_MS) {
            self.said.set(Some(now));
            log::warn!("a connection to the HTTP port was refused: {CONNECTIONS_MAX} others are not a WebSocket yet");
        }
    }
}

/// One of the connections that count.
struct Open<'a>(&'a Http, u64);

impl<'a> Open<'a> {
    fn new(http: &'a Http, visit: &Rc<Visit>) -> Self {
        http.last.set(http.last.get() + 1);
        http.open.borrow_mut().insert(http.last.get(), Rc::clone(visit));
        Self(http, http.last.get())
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // It is not there any more where another has its place.
        self.0.open.borrow_mut().remove(&self.1);
    }
}

/// Of those that came in this order the oldest of the network that has most, and how many that has.
pub fn oldest_of_crowd(all: impl Iterator<Item = (u64, Option<IpAddr>)>) -> Option<(u64, usize)> {
    let mut crowds: HashMap<Option<IpAddr>, (u64, usize)> = HashMap::new();
    for (number, network) in all {
        crowds.entry(network).or_insert((number, 0)).1 += 1;
    }
    crowds.into_values().max_by_key(|(oldest, count)| (*count, Reverse(*oldest)))
}

/// What is known of one connection.
struct Visit {
    peer: Peer,
    deadline: RefCell<Timer>,
    requests: Cell<u32>,
    /// Set by the answer 101.
    upgrade: Cell<Option<(Peer, Option<&'static str>)>>,
    /// Another has its place: it ends.
    ousted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Visit {
    fn oust(&self) {
        self.ousted.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it is to end at once; else it is woken when it is.
    fn is_ousted(&self, cx: &Context<'_>) -> bool {
        if !self.ousted.get() {
            self.waker.replace(Some(cx.waker().clone()));
        }
        self.ousted.get()
    }
}

/// Answers the requests of one connection.
struct Visitor {
    site: Rc<dyn Site>,
    visit: Rc<Visit>,
}

impl Service<Request<Incoming>> for Visitor {
    type Response = Response<Text>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Text>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.visit.deadline.borrow_mut().set(clock::mono().plus_ms(REQUEST_MS));
        let requests = self.visit.requests.get() + 1;
        self.visit.requests.set(requests);
        let (request, body) = request.into_parts();
        let mut answer = self.answer(&request);
        let headers = answer.headers_mut();
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // Nobody reads a body here.
        if requests >= REQUESTS_MAX || !body.is_end_stream() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        ready(Ok(answer.map(|text| Text(Some(text.into())))))
    }
}

impl Visitor {
    fn answer(&self, request: &hyper::http::request::Parts) -> Response<String> {
        let hosts = request.headers.get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version == Version::HTTP_11) {
            return refusal(StatusCode::BAD_REQUEST, "a request has one Host\n");
        }
        let path = request.uri.path();
        if path == self.site.socket() {
            return self.upgrade(request);
        }
        let Some(Answer { status, body, content_type }) = self.site.get(path) else {
            let words = "nothing is here: WebSocket is at /ws, the broker's health at /healthz\n";
            return refusal(StatusCode::NOT_FOUND, words);
        };
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let mut refused = refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        let mut answer = Response::new(body);
        *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        answer
    }

    fn upgrade(&self, request: &hyper::http::request::Parts) -> Response<String> {
        let settings = self.site.settings();
        let trusted = Networks::new(&settings.trusted_proxies);
        if let Err(words) = origin::check(&request.headers, &settings.origins, &self.visit.peer, &trusted) {
            log::debug!("{:?}: {words}", self.visit.peer);
            return refusal(StatusCode::FORBIDDEN, &format!("{words}\n"));
        }
        if origin::hides_a_proxy(&request.headers, &self.visit.peer, &trusted) {
            let words = "a proxy on this machine forwards this: list its address in http.trusted_proxies";
            log::warn!("{words}");
            return refusal(StatusCode::FORBIDDEN, &format!("{words}\n"));
        }
        let upgrade = websocket::check(request, self.site.protocols());
        if upgrade.answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let peer = origin::client(&request.headers, &self.visit.peer, &trusted);
            self.visit.upgrade.set(Some((peer, upgrade.protocol)));
        }
        upgrade.answer
    }
}

fn refusal(status: StatusCode, words: &str) -> Response<String> {
    let mut answer = Response::new(words.into());
    *answer.status_mut() = status;
    answer
}

/// A body that is there at once.
struct Text(Option<Bytes>);

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Closes our end and waits a little for the peer to close its own: unread bytes would take our last words from it.
async fn end(mut stream: BoxStream, visit: &Visit) {
    let mut late = pin!(Timer::after_ms(LINGER_MS));
    let mut closed = false;
    let mut buffer = [0; 512];
    poll_fn(|cx| {
        if visit.is_ousted(cx) || late.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !closed {
            match Pin::new(&mut stream).poll_close(cx) {
                Poll::Ready(Ok(())) => closed = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        for _ in 0..LINGER_READS {
            match Pin::new(&mut stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A peer that was answered has this long to close, in milliseconds.
const LINGER_MS: u64 = 1_000;
/// Reads of its last bytes before others get their turn.
const LINGER_READS: u32 = 16;

/// Says why, as far as the socket takes it at once, and closes.
fn turn_away(mut stream: BoxStream) {
    let words = "there are too many connections: try later\n";
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{words}",
        words.len()
    );
    let mut cx = Context::from_waker(Waker::noop());
    // Best effort: there is nobody to wait for it.
    if let Poll::Ready(Ok(_)) = Pin::new(&mut stream).poll_write(&mut cx, answer.as_bytes()) {
        let _ = Pin::new(&mut stream).poll_close(&mut cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_crowd_goes_and_no_other() {
        let network = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let all = [1, 2, 2, 3, 2, 1].map(network);
        assert_eq!(oldest_of_crowd((10..).zip(all)), Some((11, 3)));
        assert_eq!(oldest_of_crowd((10..).zip(all.into_iter().take(2))), Some((10, 1)), "of equal ones the first");
        assert_eq!(oldest_of_crowd(std::iter::empty()), None);
    }
}
