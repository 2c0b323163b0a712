//! Who may do what: the rules of roles as tries by level, compiled once and shared by all sessions.
//!
//! A denial wins over whatever is allowed, and what no rule allows is denied. A channel must match a rule; a filter must be
//! contained in one that allows, and have no channel in common with one that denies. `{client}` and `{tenant}` are
//! whole levels, compared with the session's own names as they are: a name cannot bring a level or a wildcard along.

use crate::config::{RoleSettings, Rules};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Publish to a channel.
    Publish(&'a str),
    /// Hear a filter's messages, or read a channel's past.
    Subscribe(&'a str),
    /// Consume a filter's messages of a queue.
    Consume {
        /// The queue.
        queue: &'a str,
        /// The filter; `#` is everything.
        filter: &'a str,
    },
    /// Send a request to a channel.
    Request(&'a str),
    /// Answer requests on a filter's channels.
    Respond(&'a str),
    /// Send a request to a channel of administration.
    Admin(&'a str),
}

/// Kinds of rules, in the order of [`Role::allow`].
const ACTIONS: usize = 6;
const ADMIN: usize = 5;
/// Words of configuration for the kinds.
const NAMES: [&str; ACTIONS] = ["publish", "subscribe", "consume", "request", "respond", "admin"];
/// What the names of queues of dead letters begin with.
const DEAD: &str = "$dead/";
/// Channels a session's answers are remembered for.
const RECENT_MAX: usize = 8;
/// Longest channel remembered, in bytes.
const RECENT_BYTES_MAX: usize = 128;

impl Ask<'_> {
    const fn action(&self) -> usize {
        match self {
            Self::Publish(_) => 0,
            Self::Subscribe(_) => 1,
            Self::Consume { .. } => 2,
            Self::Request(_) => 3,
            Self::Respond(_) => 4,
            Self::Admin(_) => ADMIN,
        }
    }

    /// The word of configuration for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        NAMES[self.action()]
    }
}

/// Why something is allowed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'p> {
    /// The broker's own user or root, over the Unix socket, may do everything.
    LocalAdmin,
    /// A rule allows it.
    Allowed {
        /// The rule's role.
        role: &'p str,
        /// The rule, as it is written.
        rule: &'p str,
    },
    /// A rule denies it.
    Denied {
        /// The rule's role.
        role: &'p str,
        /// The rule, as it is written.
        rule: &'p str,
    },
    /// No rule allows it.
    Default,
}

impl Decision<'_> {
    /// Whether it may be done.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::LocalAdmin | Self::Allowed { .. })
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalAdmin => f.write_str("the local administrator may do everything"),
            Self::Allowed { role, rule } => write!(f, "role {role:?} allows {rule:?}"),
            Self::Denied { role, rule } => write!(f, "role {role:?} denies {rule:?}"),
            Self::Default => f.write_str("no rule of its roles allows it"),
        }
    }
}

/// A role's rules.
#[derive(Debug, Default)]
struct Role {
    name: Box<str>,
    /// Everything but administration.
    all: bool,
    allow: [Node; ACTIONS],
    deny: [Node; ACTIONS],
    /// Whether anything is denied.
    denies: bool,
}

/// The rules of all roles.
#[derive(Debug, Default)]
pub struct Permissions {
    roles: Vec<Role>,
}

impl Permissions {
    /// Compiles the roles of the settings, and the two that are always there.
    #[must_use]
    pub fn new(roles: &[RoleSettings]) -> Self {
        let mut all: Vec<Role> = roles
            .iter()
            .map(|role| Role {
                name: role.name.as_str().into(),
                all: false,
                allow: tries(&role.allow),
                deny: tries(&role.deny),
                denies: lists(&role.deny).iter().any(|list| !list.is_empty()),
            })
            .collect();
        all.push(Role { name: "open".into(), all: true, ..Role::default() });
        let admin = Rules { admin: vec!["$admin/#".into()], ..Rules::default() };
        all.push(Role { name: "admin".into(), all: true, allow: tries(&admin), ..Role::default() });
        Self { roles: all }
    }

    /// Whether there is a role of this name.
    #[must_use]
    pub fn has_role(&self, name: &str) -> bool {
        self.roles.iter().any(|role| *role.name == *name)
    }
}

const fn lists(rules: &Rules) -> [&Vec<String>; ACTIONS] {
    [&rules.publish, &rules.subscribe, &rules.consume, &rules.request, &rules.respond, &rules.admin]
}

fn tries(rules: &Rules) -> [Node; ACTIONS] {
    let mut tries: [Node; ACTIONS] = Default::default();
    for (trie, list) in tries.iter_mut().zip(lists(rules)) {
        for rule in list {
            let names_queue = std::ptr::eq(list, &rules.consume) && names_queue(rule);
            trie.insert(rule, names_queue);
        }
    }
    tries
}

/// Whether a rule for consuming names a queue alone, which means all of it.
fn names_queue(rule: &str) -> bool {
    rule != "#" && !rule.strip_prefix(DEAD).unwrap_or(rule).contains('/')
}

/// What one session may do.
#[derive(Clone, Debug)]
pub struct Grants {
    permissions: Arc<Permissions>,
    /// Places of its roles.
    roles: Box<[usize]>,
    client: Box<str>,
    tenant: Box<str>,
    local_admin: bool,
    /// It may publish everywhere.
    publishes_all: bool,
    /// The last channels it published to, and whether it may.
    recent: Vec<(String, bool)>,
    /// Of these the next to be forgotten.
    oldest: usize,
}

impl Grants {
    /// What a principal of this name, tenant and roles may do. Roles that do not exist give nothing.
    #[must_use]
    pub fn new<'r>(
        permissions: Arc<Permissions>,
        client: &str,
        tenant: &str,
        roles: impl IntoIterator<Item = &'r str>,
        local_admin: bool,
    ) -> Self {
        let place = |name: &str| permissions.roles.iter().position(|role| *role.name == *name);
        let roles: Box<[usize]> = roles.into_iter().filter_map(place).collect();
        let has = |what: fn(&Role) -> bool| roles.iter().any(|at| what(&permissions.roles[*at]));
        let publishes_all = local_admin || (has(|role| role.all) && !has(|role| role.denies));
        Self {
            client: client.into(),
            tenant: tenant.into(),
            local_admin,
            publishes_all,
            recent: Vec::new(),
            oldest: 0,
            roles,
            permissions,
        }
    }

    /// Whether it may publish to a valid channel. The last answers are remembered.
    pub fn may_publish(&mut self, channel: &str) -> bool {
        if self.publishes_all {
            return true;
        }
        if let Some((_, may)) = self.recent.iter().find(|(recent, _)| recent == channel) {
            return *may;
        }
        let may = self.decide(&Ask::Publish(channel)).is_allowed();
        if channel.len() > RECENT_BYTES_MAX {
            return may;
        }
        if self.recent.len() < RECENT_MAX {
            self.recent.push((channel.to_owned(), may));
        } else {
            let (name, answer) = &mut self.recent[self.oldest];
            name.clear();
            name.push_str(channel);
            *answer = may;
            self.oldest = (self.oldest + 1) % RECENT_MAX;
        }
        may
    }

    /// Whether it may do this, and by which rule. Channels and filters must be valid ones.
    #[must_use]
    pub fn decide(&self, ask: &Ask<'_>) -> Decision<'_> {
        if self.local_admin {
            return Decision::LocalAdmin;
        }
        let action = ask.action();
        let who = Who { client: level(&self.client), tenant: level(&self.tenant) };
        let path;
        let (text, is_filter) = match *ask {
            Ask::Publish(channel) | Ask::Request(channel) | Ask::Admin(channel) => (channel, false),
            // Behind nothing `#` stands for one level at least: no channel is empty.
            Ask::Subscribe("#") | Ask::Respond("#") => ("+/#", true),
            Ask::Subscribe("/#") | Ask::Respond("/#") => ("/+/#", true),
            Ask::Subscribe(filter) | Ask::Respond(filter) => (filter, true),
            Ask::Consume { queue, filter } => {
                let filter = if filter == "#" { "+/#" } else { filter };
                path = format!("{queue}/{filter}");
                (path.as_str(), true)
            }
        };
        let reserved = text.starts_with('$');
        let roles = || self.roles.iter().map(|at| &self.permissions.roles[*at]);
        for role in roles().filter(|role| role.denies) {
            let trie = &role.deny[action];
            let rule =
                if is_filter { trie.meets(Some(text), true, &who) } else { trie.matches(Some(text), reserved, &who) };
            if let Some(rule) = rule {
                return Decision::Denied { role: &role.name, rule };
            }
        }
        for role in roles() {
            let trie = &role.allow[action];
            let rule = match is_filter {
                _ if role.all && action != ADMIN => Some("#"),
                true => trie.covers(Some(text), reserved, &who),
                false => trie.matches(Some(text), reserved, &who),
            };
            if let Some(rule) = rule {
                return Decision::Allowed { role: &role.name, rule };
            }
        }
        Decision::Default
    }
}

/// What the placeholders stand for; nothing where a name is no level.
struct Who<'w> {
    client: Option<&'w str>,
    tenant: Option<&'w str>,
}

/// A name, where it can be one whole level and nothing else.
fn level(name: &str) -> Option<&str> {
    (!name.is_empty() && !name.contains(['/', '+', '#', '\0'])).then_some(name)
}

/// A level of rules.
#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    plus: Option<Box<Node>>,
    client: Option<Box<Node>>,
    tenant: Option<Box<Node>>,
    /// The rule that ends here, as it is written.
    here: Option<Box<str>>,
    /// The rule that ends here with `#`.
    rest: Option<Box<str>>,
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((level, after)) => (level, Some(after)),
        None => (text, None),
    }
}

impl Node {
    /// Adds a rule; with all that is below it when `below`.
    fn insert(&mut self, rule: &str, below: bool) {
        let mut node = self;
        for level in rule.split('/') {
            node = match level {
                "#" => {
                    node.rest.get_or_insert_with(|| rule.into());
                    return;
                }
                "+" => node.plus.get_or_insert_default(),
                "{client}" => node.client.get_or_insert_default(),
                "{tenant}" => node.tenant.get_or_insert_default(),
                level => node.children.entry(level.into()).or_default(),
            };
        }
        let end = if below { &mut node.rest } else { &mut node.here };
        end.get_or_insert_with(|| rule.into());
    }

    /// The nodes below that a literal level leads to. The first level of what is reserved is met by itself alone.
    fn below<'n>(&'n self, level: &str, reserved: bool, who: &Who<'_>) -> impl Iterator<Item = &'n Self> {
        let is = |name: Option<&str>| !reserved && name == Some(level);
        let child = self.children.get(level);
        let plus = self.plus.as_deref().filter(|_| !reserved);
        let client = self.client.as_deref().filter(|_| is(who.client));
        let tenant = self.tenant.as_deref().filter(|_| is(who.tenant));
        [child, plus, client, tenant].into_iter().flatten()
    }

    /// A rule that matches a channel, of which `rest` is left.
    fn matches(&self, rest: Option<&str>, reserved: bool, who: &Who<'_>) -> Option<&str> {
        if let (Some(rule), false) = (&self.rest, reserved) {
            return Some(rule);
        }
        let Some(rest) = rest else { return self.here.as_deref() };
        let (level, after) = split(rest);
        self.below(level, reserved, who).find_map(|node| node.matches(after, false, who))
    }

    /// A rule that matches every channel that a filter matches, of which `asked` is left.
    fn covers(&self, asked: Option<&str>, reserved: bool, who: &Who<'_>) -> Option<&str> {
        if let (Some(rule), false) = (&self.rest, reserved) {
            return Some(rule);
        }
        let Some(asked) = asked else { return self.here.as_deref() };
        match split(asked) {
            ("#", _) => None,
            ("+", after) => self.plus.as_deref()?.covers(after, false, who),
            (level, after) => self.below(level, reserved, who).find_map(|node| node.covers(after, false, who)),
        }
    }

    /// A rule that matches some channel that a filter matches, of which `asked` is left.
    fn meets(&self, asked: Option<&str>, first: bool, who: &Who<'_>) -> Option<&str> {
        let reserved = first && asked.is_some_and(|asked| asked.starts_with('$'));
        if let (Some(rule), false) = (&self.rest, reserved) {
            return Some(rule);
        }
        let Some(asked) = asked else { return self.here.as_deref() };
        match split(asked) {
            ("#", _) => self.any(who),
            // A wildcard at the beginning matches nothing that is reserved.
            ("+", after) => {
                // Nor the empty channel, which there is not.
                let nothing = self.children.get("").filter(|_| first && after.is_none());
                let mut others =
                    self.all_below(first, who).filter(|node| !nothing.is_some_and(|n| std::ptr::eq(n, *node)));
                others.find_map(|node| node.meets(after, false, who))
            }
            (level, after) => self.below(level, reserved, who).find_map(|node| node.meets(after, false, who)),
        }
    }

    /// All nodes below that some level leads to; of the first level those that are not reserved.
    fn all_below<'n>(&'n self, first: bool, who: &Who<'_>) -> impl Iterator<Item = &'n Self> {
        let is = |name: Option<&str>| name.is_some_and(|name| !first || !name.starts_with('$'));
        let children = self.children.iter().filter(move |(level, _)| !first || !level.starts_with('$'));
        let client = self.client.as_deref().filter(|_| is(who.client));
        let tenant = self.tenant.as_deref().filter(|_| is(who.tenant));
        children.map(|(_, node)| node).chain([self.plus.as_deref(), client, tenant].into_iter().flatten())
    }

    /// Any rule that ends here or below.
    fn any(&self, who: &Who<'_>) -> Option<&str> {
        let own = self.rest.as_deref().or(self.here.as_deref());
        own.or_else(|| self.all_below(false, who).find_map(|node| node.any(who)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channel, Filter};

    fn role(name: &str, allow: Rules, deny: Rules) -> RoleSettings {
        RoleSettings { name: name.into(), allow, deny }
    }

    fn list(rules: &[&str]) -> Vec<String> {
        rules.iter().map(|rule| (*rule).to_owned()).collect()
    }

    fn grants(roles: Vec<RoleSettings>, client: &str, tenant: &str) -> Grants {
        let names: Vec<String> = roles.iter().map(|role| role.name.clone()).collect();
        let permissions = Arc::new(Permissions::new(&roles));
        Grants::new(permissions, client, tenant, names.iter().map(String::as_str), false)
    }

    /// A session whose one role has these rules for every action.
    fn with(allow: &[&str], deny: &[&str], client: &str) -> Grants {
        let all = |rules: &[&str]| Rules {
            publish: list(rules),
            subscribe: list(rules),
            consume: list(rules),
            request: list(rules),
            respond: list(rules),
            admin: list(rules),
        };
        grants(vec![role("r", all(allow), all(deny))], client, "acme")
    }

    #[test]
    fn what_no_rule_allows_is_denied_and_a_denial_wins() {
        let g = with(&["site/#"], &["site/+/command/#"], "");
        let publish = |channel| g.decide(&Ask::Publish(channel));
        assert_eq!(publish("site/a/temp"), Decision::Allowed { role: "r", rule: "site/#" });
        assert_eq!(publish("site/a/command"), Decision::Denied { role: "r", rule: "site/+/command/#" });
        assert_eq!(publish("other"), Decision::Default);
        let subscribe = |filter| g.decide(&Ask::Subscribe(filter));
        assert_eq!(subscribe("site/a/temp/#"), Decision::Allowed { role: "r", rule: "site/#" });
        assert_eq!(subscribe("site/#"), Decision::Denied { role: "r", rule: "site/+/command/#" });
        assert_eq!(subscribe("site/a/+"), Decision::Denied { role: "r", rule: "site/+/command/#" });
        assert_eq!(subscribe("#"), Decision::Denied { role: "r", rule: "site/+/command/#" });
        assert_eq!(with(&["site/#"], &[], "").decide(&Ask::Subscribe("#")), Decision::Default);
    }

    #[test]
    fn a_denial_of_one_role_wins_over_what_another_allows() {
        let allow = Rules { publish: list(&["#"]), ..Rules::default() };
        let deny = Rules { publish: list(&["secret/#"]), ..Rules::default() };
        let mut g = grants(vec![role("all", allow, Rules::default()), role("not", Rules::default(), deny)], "", "");
        assert!(g.may_publish("a") && !g.may_publish("secret") && g.may_publish("a") && !g.may_publish("secret"));
        let permissions = Arc::new(Permissions::new(&[role(
            "not",
            Rules::default(),
            Rules { publish: list(&["secret/#"]), ..Rules::default() },
        )]));
        let mut g = Grants::new(permissions, "", "", ["open", "not"], false);
        assert!(g.may_publish("a") && !g.may_publish("secret/b"), "also over the role open");
    }

    #[test]
    fn names_stand_for_their_level_and_bring_nothing_along() {
        for (client, channel, may) in [
            ("ada", "site/ada/temp", true),
            ("ada", "site/bob/temp", false),
            ("ada", "site/{client}/temp", false),
            ("+", "site/bob/temp", false),
            ("+", "site/+/temp", false),
            ("#", "site/bob/temp", false),
            ("a/b", "site/a/b/temp", false),
            ("", "site//temp", false),
            ("{tenant}", "site/acme/temp", false),
        ] {
            let g = with(&["site/{client}/#"], &[], client);
            assert_eq!(g.decide(&Ask::Publish(channel)).is_allowed(), may, "{client:?} to {channel}");
            assert!(!g.decide(&Ask::Subscribe("site/+/#")).is_allowed(), "{client:?}");
            assert!(!g.decide(&Ask::Subscribe("site/#")).is_allowed(), "{client:?}");
        }
        assert!(with(&["{tenant}/{client}"], &[], "ada").decide(&Ask::Publish("acme/ada")).is_allowed());
        assert!(!with(&["{client}/#"], &[], "$admin").decide(&Ask::Admin("$admin/status")).is_allowed());
    }

    #[test]
    fn consuming_is_of_a_queue_and_what_of_it() {
        let may = |allow: &[&str], deny: &[&str], queue, filter| {
            with(allow, deny, "ada").decide(&Ask::Consume { queue, filter }).is_allowed()
        };
        assert!(may(&["main/site/{client}/#"], &[], "main", "site/ada/+"));
        assert!(!may(&["main/site/{client}/#"], &[], "main", "#"));
        assert!(!may(&["main/site/{client}/#"], &[], "other", "site/ada/+"));
        assert!(may(&["main"], &[], "main", "#") && may(&["main/#"], &[], "main", "#"));
        assert!(may(&["main/+/#"], &[], "main", "#"), "no channel is without a level");
        assert!(!may(&["#"], &["main"], "main", "a"), "a queue named alone is all of it");
        assert!(may(&["#"], &["main"], "mains", "a"));
        assert!(!may(&["#"], &[], "$dead/main", "#") && may(&["$dead/#"], &[], "$dead/main", "#"));
        assert!(may(&["$dead/main"], &[], "$dead/main", "#") && !may(&["$dead/main"], &[], "$dead/other", "#"));
        assert!(!may(&["main/a"], &[], "main", "a/b"));
    }

    #[test]
    fn the_built_in_roles_and_the_local_admin() {
        let permissions = Arc::new(Permissions::new(&[]));
        let of =
            |roles: &[&'static str], admin| Grants::new(Arc::clone(&permissions), "", "", roles.iter().copied(), admin);
        let (open, admin, local) = (of(&["open"], false), of(&["admin"], false), of(&[], true));
        for ask in [
            Ask::Publish("a"),
            Ask::Subscribe("#"),
            Ask::Subscribe("$x/#"),
            Ask::Consume { queue: "$dead/main", filter: "#" },
            Ask::Request("a"),
            Ask::Respond("#"),
        ] {
            assert!([&open, &admin, &local].iter().all(|g| g.decide(&ask).is_allowed()), "{ask:?}");
            assert_eq!(of(&["nothing"], false).decide(&ask), Decision::Default);
        }
        let ask = Ask::Admin("$admin/status");
        assert_eq!(open.decide(&ask), Decision::Default);
        assert_eq!(admin.decide(&ask), Decision::Allowed { role: "admin", rule: "$admin/#" });
        assert_eq!(local.decide(&ask), Decision::LocalAdmin);
    }

    #[test]
    fn the_last_answers_are_remembered_and_stay_right() {
        let mut g = with(&["a/+"], &["a/3"], "");
        for round in 0..3 {
            for n in 0..2 * RECENT_MAX {
                assert_eq!(g.may_publish(&format!("a/{n}")), n != 3, "round {round}");
                assert!(!g.may_publish(&"a/".repeat(RECENT_BYTES_MAX)));
            }
        }
        assert_eq!(g.recent.len(), RECENT_MAX);
    }

    /// Every channel of up to `depth` levels of these words.
    fn channels(words: &[&str], depth: usize) -> Vec<String> {
        let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut last = all.clone();
        for _ in 1..depth {
            last = last.iter().flat_map(|head| words.iter().map(move |word| format!("{head}/{word}"))).collect();
            all.extend(last.iter().cloned());
        }
        all.retain(|channel| Channel::parse(channel).is_ok());
        all
    }

    /// The rules by their meaning, channel by channel.
    struct Naive<'n> {
        universe: &'n [String],
        client: &'n str,
        tenant: &'n str,
    }

    impl Naive<'_> {
        /// The channels that a rule matches; none when a name in it is no level.
        fn of(&self, rule: &str) -> Vec<bool> {
            let mut levels = Vec::new();
            for part in rule.split('/') {
                match part {
                    "{client}" | "{tenant}" => {
                        let name = if part == "{client}" { self.client } else { self.tenant };
                        if level(name).is_none() || (levels.is_empty() && name.starts_with('$')) {
                            return vec![false; self.universe.len()];
                        }
                        levels.push(name);
                    }
                    part => levels.push(part),
                }
            }
            self.matching(&levels.join("/"))
        }

        fn matching(&self, filter: &str) -> Vec<bool> {
            let filter = Filter::parse(filter).expect("made of valid levels");
            let is = |channel: &String| filter.matches(Channel::parse(channel).expect("valid"));
            self.universe.iter().map(is).collect()
        }
    }

    #[test]
    fn the_tries_agree_with_a_naive_model() {
        let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(11);
        let mut rng = fastrand::Rng::with_seed(seed);
        // `z` is in no rule: it stands for all the words there are beside.
        let universe = channels(&["a", "b", "q", "$x", "", "z"], 4);
        let words = ["a", "b", "$x", "", "+", "#", "{client}", "{tenant}"];
        let names = ["a", "b", "$x", "", "+", "a/b", "q"];
        let mut filter = |words: &[&str], depth| loop {
            let levels: Vec<&str> = (0..rng.usize(1..=depth)).map(|_| words[rng.usize(..words.len())]).collect();
            let text = levels.join("/");
            if Filter::parse(&text).is_ok() {
                break text;
            }
        };
        let mut pick = fastrand::Rng::with_seed(seed + 1);
        let mut seen = [0; 3];
        for round in 0..700 {
            let allow: Vec<String> = (0..pick.usize(..5)).map(|_| filter(&words, 3)).collect();
            let deny: Vec<String> = (0..pick.usize(..3)).map(|_| filter(&words, 3)).collect();
            let (client, tenant) = (names[pick.usize(..names.len())], names[pick.usize(..names.len())]);
            let rules =
                |list: &[String]| Rules { publish: list.to_vec(), subscribe: list.to_vec(), ..Rules::default() };
            let g = grants(vec![role("r", rules(&allow), rules(&deny))], client, tenant);
            let naive = Naive { universe: &universe, client, tenant };
            let allowed: Vec<Vec<bool>> = allow.iter().map(|rule| naive.of(rule)).collect();
            let denied: Vec<Vec<bool>> = deny.iter().map(|rule| naive.of(rule)).collect();
            let what = || format!("seed {seed} round {round}: {allow:?} without {deny:?} as {client:?} of {tenant:?}");

            let at = pick.usize(..universe.len());
            let expected = allowed.iter().any(|rule| rule[at]) && !denied.iter().any(|rule| rule[at]);
            assert_eq!(g.decide(&Ask::Publish(&universe[at])).is_allowed(), expected, "{}: {:?}", what(), universe[at]);

            let asked = filter(&words[..6], 3);
            let wanted = naive.matching(&asked);
            let within = |rule: &Vec<bool>| wanted.iter().zip(rule).all(|(wanted, may)| !wanted || *may);
            let common = |rule: &Vec<bool>| wanted.iter().zip(rule).any(|(wanted, not)| *wanted && *not);
            let decision = g.decide(&Ask::Subscribe(&asked));
            let (none, some) = (denied.iter().any(common), allowed.iter().any(within));
            assert_eq!(matches!(decision, Decision::Denied { .. }), none, "{}: {asked:?} {decision}", what());
            assert_eq!(decision.is_allowed(), some && !none, "{}: {asked:?} {decision}", what());
            seen[if none { 0 } else { 1 + usize::from(some) }] += 1;
        }
        assert!(seen.iter().all(|count| *count > 40), "all three outcomes are tried: {seen:?}");
    }
}
