//! Permissions at work: what is refused where, and what roles that change do to sessions that are open.

use super::world::{HELLO, World, queue};
use crate::broker::{Event, Peer};
use crate::config::{RoleSettings, Rules, Settings};
use crate::model::{ConnId, admin};
use crate::session::{Method, Principal};
use crate::wire::{Code, Consume, ErrorHead, FrameType, History, Outcome, Request, Response, Since, Subscribe};

fn rules(change: impl FnOnce(&mut Rules)) -> Rules {
    let mut rules = Rules::default();
    change(&mut rules);
    rules
}

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// A sensor publishes below its name, an operator hears all but secrets and consumes.
fn settings() -> Settings {
    let sensor = RoleSettings {
        name: "sensor".into(),
        allow: rules(|r| {
            r.publish = list(&["site/{client}/#"]);
            r.subscribe = list(&["site/{client}/command/#"]);
            r.respond = list(&["site/{client}/ask"]);
        }),
        deny: Rules::default(),
    };
    let operator = RoleSettings {
        name: "operator".into(),
        allow: rules(|r| {
            r.publish = list(&["#"]);
            r.subscribe = list(&["site/#"]);
            r.consume = list(&["main/site/#"]);
            r.request = list(&["site/+/ask"]);
            r.admin = list(&["$admin/status"]);
        }),
        deny: rules(|r| {
            r.publish = list(&["site/+/secret"]);
            r.subscribe = list(&["site/+/secret"]);
            r.consume = list(&["main/site/+/secret"]);
        }),
    };
    let mut settings = Settings { roles: vec![sensor, operator], ..Settings::default() };
    settings.queues[0].history = true;
    settings.auth.identities = Some("identities".into());
    settings
}

impl World {
    fn enter_as(&mut self, name: &str, role: &str) -> ConnId {
        let conn = self.connect_from(Peer::Unix { uid: 1_000, pid: 1, admin: false });
        self.send(conn, 0, &HELLO, &[]);
        let (asked, _) = self.asked.pop_front().expect("its user is looked for");
        let principal = Principal {
            name: name.into(),
            roles: vec![role.into()],
            method: Method::Transport,
            ..Principal::default()
        };
        self.event(Event::Authenticated { conn: asked, outcome: Ok(principal) });
        assert_eq!(self.expect(conn).kind, FrameType::Welcome);
        conn
    }

    /// The answer to a request on a stream: nothing, or the error's code and words.
    fn answer(&mut self, conn: ConnId, stream: u32) -> Result<(), (Code, String)> {
        let seen = self.frames(conn).into_iter().find(|seen| seen.stream == stream).expect("an answer");
        if seen.kind != FrameType::Error {
            return Ok(());
        }
        let head = seen.get::<ErrorHead<'_>>();
        Err((Code::from_u16(head.code).expect("known"), head.detail.to_owned()))
    }

    fn hear(&mut self, conn: ConnId, stream: u32, filter: &str) -> Result<(), (Code, String)> {
        self.send(conn, stream, &Subscribe { filter, ..SUBSCRIBE }, &[]);
        self.answer(conn, stream)
    }

    fn take(&mut self, conn: ConnId, stream: u32, name: &str, filters: &[&str]) -> Result<(), (Code, String)> {
        self.consume_with(conn, stream, "main", name, filters, |_: &mut Consume<'_>| {});
        self.answer(conn, stream)
    }
}

const SUBSCRIBE: Subscribe<'_> =
    Subscribe { filter: "", retained: false, since: Since::Now, respond: false, disconnect_when_slow: false };

fn forbidden(words: &str) -> Result<(), (Code, String)> {
    Err((Code::Forbidden, words.into()))
}

#[test]
fn a_publish_that_no_role_allows_is_refused_before_anything_is_told_of_it() {
    let mut w = World::with(settings());
    let ada = w.enter_as("ada", "sensor");
    w.publish(ada, 1, "site/ada/temp", "mine");
    w.publish(ada, 2, "site/bob/temp", "not mine");
    w.publish(ada, 3, "site/ada/temp", "mine again");
    let refused = Err(Code::Forbidden);
    assert_eq!(w.verdicts(ada), [(1, Ok(Outcome::Stored)), (2, refused), (3, Ok(Outcome::Stored))]);
    // An id that another published is not told to be known.
    let operator = w.enter_as("olga", "operator");
    let secret = |w: &mut World, conn, number, channel: &str| {
        let change = |r: &mut crate::model::Record<'_>| r.id = super::world::id(9);
        w.publish_with(conn, number, crate::wire::Contract::Queue, change, channel, "x");
    };
    secret(&mut w, operator, 1, "other");
    assert_eq!(w.verdicts(operator), [(1, Ok(Outcome::Stored))]);
    secret(&mut w, ada, 4, "other");
    assert_eq!(w.verdicts(ada), [(4, refused)]);
    w.publish(operator, 2, "site/ada/secret", "denied though all is allowed");
    assert_eq!(w.verdicts(operator), [(2, refused)]);
}

#[test]
fn filters_must_be_contained_in_what_is_allowed_and_clear_of_what_is_denied() {
    let mut w = World::with(settings());
    let ada = w.enter_as("ada", "sensor");
    assert_eq!(w.hear(ada, 1, "site/ada/command/+"), Ok(()));
    for (stream, filter) in (2..).zip(["#", "site/#", "site/+/command/#", "site/bob/command/x", "+/ada/command/x"]) {
        assert_eq!(w.hear(ada, stream, filter), forbidden("subscribe: no rule of its roles allows it"), "{filter}");
    }
    let olga = w.enter_as("olga", "operator");
    assert_eq!(w.hear(olga, 1, "site/ada/temp"), Ok(()));
    let denied = |action: &str, rule: &str| forbidden(&format!("{action}: role \"operator\" denies {rule:?}"));
    assert_eq!(w.hear(olga, 2, "site/#"), denied("subscribe", "site/+/secret"));
    w.send(olga, 3, &History { channel: "site/a/secret", since: Since::Last(1), limit: 0 }, &[]);
    assert_eq!(w.answer(olga, 3), denied("subscribe", "site/+/secret"));
    w.send(olga, 4, &History { channel: "site/a/temp", since: Since::Last(1), limit: 0 }, &[]);
    assert_eq!(w.answer(olga, 4), Ok(()));
    assert_eq!(w.take(olga, 5, "c", &[]), denied("consume", "main/site/+/secret"));
    assert_eq!(w.take(olga, 6, "c", &["site/+/temp", "other"]), forbidden("consume: no rule of its roles allows it"));
    assert_eq!(w.take(olga, 7, "c", &["site/+/temp"]), Ok(()));
    assert_eq!(w.take(ada, 8, "d", &["site/ada/temp"]), forbidden("consume: no rule of its roles allows it"));
}

#[test]
fn requests_answers_and_administration_have_rules_of_their_own() {
    let mut w = World::with(settings());
    let (ada, olga) = (w.enter_as("ada", "sensor"), w.enter_as("olga", "operator"));
    w.send(ada, 1, &Subscribe { filter: "site/ada/ask", respond: true, ..SUBSCRIBE }, &[]);
    assert_eq!(w.answer(ada, 1), Ok(()));
    w.send(ada, 2, &Subscribe { filter: "site/+/ask", respond: true, ..SUBSCRIBE }, &[]);
    assert_eq!(w.answer(ada, 2), forbidden("respond: no rule of its roles allows it"));
    let ask = |channel| Request { channel, deadline_ms: 0, total: 0, properties: &[] };
    w.send(olga, 1, &ask("site/ada/ask"), &[]);
    assert_eq!(w.frames(ada).last().map(|f| f.kind), Some(FrameType::Request));
    w.send(olga, 2, &ask("site/ada/other"), &[]);
    assert_eq!(w.answer(olga, 2), forbidden("request: no rule of its roles allows it"));
    w.send(olga, 3, &ask(admin::STATUS), &[]);
    let seen = w.frames(olga);
    assert_eq!(seen.last().expect("an answer").get::<Response<'_>>().status, 0);
    for channel in [admin::QUEUE_PURGE, admin::QUEUE_PEEK] {
        w.send(olga, 4, &ask(channel), &[]);
        assert_eq!(w.answer(olga, 4), forbidden("admin: no rule of its roles allows it"));
        w.send(ada, 4, &ask(channel), &[]);
        assert_eq!(w.answer(ada, 4), forbidden("admin: no rule of its roles allows it"));
    }
}

#[test]
fn roles_that_change_with_a_reload_end_what_is_no_longer_allowed_and_nothing_else() {
    let mut w = World::with(settings());
    let olga = w.enter_as("olga", "operator");
    assert_eq!(w.hear(olga, 11, "site/ada/temp"), Ok(()));
    assert_eq!(w.hear(olga, 12, "site/bob/temp"), Ok(()));
    assert_eq!(w.take(olga, 13, "c", &["site/+/temp"]), Ok(()));
    w.publish(olga, 1, "free", "x");
    assert_eq!(w.verdicts(olga), [(1, Ok(Outcome::Stored))]);
    let mut fewer = settings();
    fewer.roles[1].allow.subscribe = list(&["site/ada/#"]);
    fewer.roles[1].allow.consume = Vec::new();
    fewer.roles[1].allow.publish = list(&["site/#"]);
    w.reload(fewer);
    let mut ended = Vec::new();
    for seen in w.frames(olga) {
        ended.push((seen.stream, seen.get::<ErrorHead<'_>>().code));
    }
    assert_eq!(ended, [(12, Code::Forbidden as u16), (13, Code::Forbidden as u16)]);
    w.publish(olga, 2, "site/ada/temp", "heard");
    w.publish(olga, 3, "free", "x");
    let frames = w.frames(olga);
    assert!(frames.iter().any(|f| f.kind == FrameType::Deliver && f.stream == 11), "the other subscription goes on");
    assert!(frames.iter().any(|f| f.kind == FrameType::PublishNack), "what was remembered is void");
}

#[test]
fn strangers_lose_their_place_when_a_reload_says_so() {
    let mut w = World::with(Settings::default());
    let stranger = w.connect_raw(false);
    w.send(stranger, 0, &HELLO, &[]);
    assert_eq!(w.expect(stranger).kind, FrameType::Welcome);
    let local = w.connect();
    w.reload(settings());
    assert_eq!(w.expect_error(stranger), Code::Forbidden);
    assert!(w.is_closed(stranger) && !w.is_closed(local));
}

#[test]
fn roles_of_a_reauth_hold_at_once() {
    let mut w = World::with(settings());
    let olga = w.enter_as("olga", "operator");
    assert_eq!(w.hear(olga, 1, "site/ada/temp"), Ok(()));
    w.send(olga, 0, &crate::wire::Reauth { method: Method::Transport as u8, data: &[] }, &[]);
    let (conn, _) = w.asked.pop_front().expect("asked");
    let roles = vec!["sensor".into()];
    let principal = Principal { name: "olga".into(), roles, method: Method::Transport, ..Principal::default() };
    w.event(Event::Authenticated { conn, outcome: Ok(principal) });
    let kinds: Vec<(u32, FrameType)> = w.frames(olga).iter().map(|f| (f.stream, f.kind)).collect();
    assert_eq!(kinds, [(0, FrameType::Ok), (1, FrameType::Error)]);
}

#[test]
fn a_consumer_with_deliveries_under_way_is_not_taken_over_by_who_may_not_see_them() {
    let mut with = settings();
    with.roles[0].allow.consume = list(&["main/site/{client}/#"]);
    with.queues = vec![queue("main", "#")];
    let mut w = World::with(with);
    let (ada, bob) = (w.enter_as("ada", "sensor"), w.enter_as("bob", "sensor"));
    assert_eq!(w.take(ada, 2, "shared", &["site/ada/#"]), Ok(()));
    w.credit(ada, 2, 10);
    w.publish(ada, 1, "site/ada/temp", "ada's");
    w.disconnect(ada);
    let refused = forbidden("consume: no rule of its roles allows it");
    assert_eq!(w.take(bob, 2, "shared", &["site/bob/#"]), refused, "it would be delivered again, to him");
    assert_eq!(w.take(bob, 3, "own", &["site/bob/#"]), Ok(()));
}
