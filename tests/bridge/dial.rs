//! The ways to an upstream: every transport with a key, another address where one is gone, and a reason for each step that fails.

use super::broker::{Broker, Place, Setup, wait_for, wait_until};
use super::pair::{HUB, assert_all_once_in_order, config, edge, held, number, publish, wait_until_well};
use super::pki::{self, Authority, Made, Wanted};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use tidegate::auth::password::{Hashed, SALT_BYTES};
use tidegate::seal::SigningKey;

/// Files of a test: an authority, what it signed, keys, who may come in.
pub struct Files {
    folder: TempDir,
    pub authority: Authority,
    /// What the hub shows.
    pub shown: Made,
}

impl Files {
    /// An authority's certificate as `ca.pem`.
    pub fn new() -> Self {
        let authority = Authority::new("the authority");
        let shown = authority.make(&Wanted::server(&["localhost", "127.0.0.1"]));
        let this = Self { folder: tempfile::tempdir().expect("folder"), authority, shown };
        this.write("ca.pem", this.authority.pem());
        this
    }

    /// A file's path.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file for its owner only.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        pki::write(&self.path(name), bytes);
    }

    /// A login key of this number as `key-N`.
    pub fn login_key(&self, number: u8) -> SigningKey {
        self.write(&format!("key-{number}"), [number; 32]);
        SigningKey::from_seed(&[number; 32])
    }

    /// What a hub is configured with that shows a certificate for `localhost` and this machine's address, speaks all there is, and
    /// lets in the owner of key 1.
    pub fn hub(&self) -> Setup {
        self.write("hub.pem", &self.shown.chain);
        self.write("hub.key", &self.shown.key);
        self.write("identities", format!("key {} name=gate roles=open\n", self.login_key(1).public()));
        let any = "['127.0.0.1:0']";
        config(&format!(
            "{HUB}listen: {{tcp: {any}, tls: {any}, http: {any}, https: {any}}}\nauth: {{identities: '{}'}}\n\
             tls: {{certificates: ['{}'], keys: ['file:{}']}}\n",
            self.path("identities").display(),
            self.path("hub.pem").display(),
            self.path("hub.key").display(),
        ))
    }

    /// Keys of a bridge: it trusts the authority and logs in by this key.
    pub fn bridge(&self, key: u8) -> String {
        let (ca, key) = (self.path("ca.pem"), self.path(&format!("key-{key}")));
        format!("tls: {{ca: ['{}']}}, login: {{key: 'file:{}'}}", ca.display(), key.display())
    }
}

/// The address of one of a broker's doors.
pub fn door(broker: &Broker<'_>, door: &str) -> SocketAddr {
    let text = fs::read_to_string(broker.data().join("ready.json")).expect("it is ready");
    let ready: Value = serde_json::from_str(&text).expect("JSON");
    ready[door][0].as_str().expect("listens").parse().expect("an address")
}

/// A bridge of the status by its name.
fn bridge(broker: &Broker<'_>, name: &str) -> Value {
    let status = broker.status();
    let bridges = status["bridges"].as_array().expect("a list");
    bridges.iter().find(|b| b["name"] == name).unwrap_or_else(|| panic!("no bridge {name} in {status}")).clone()
}

/// A port nobody listens on.
pub fn closed() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port")
}

/// An edge with a queue and a bridge for each of these: name, address, further keys.
fn edge_of(bridges: &[(&str, String, String)]) -> Setup {
    let mut text = String::from("name: edge\nstore: {ack_linger: 20ms}\nqueues:\n");
    for (name, ..) in bridges {
        text.push_str(&format!("  - {{name: {name}, capture: ['{name}/#']}}\n"));
    }
    text.push_str("bridges:\n");
    for (name, url, keys) in bridges {
        text.push_str(&format!("  - {{name: {name}, urls: ['{url}'], up: [{name}], {keys}}}\n"));
    }
    config(&text)
}

#[test]
fn messages_flow_over_tcp_tls_ws_and_wss_with_a_key() {
    let (edge_place, hub_place, files) = (Place::new(), Place::new(), Files::new());
    let hub = hub_place.start(&files.hub());
    let keys = files.bridge(1);
    let edge = edge_place.start(&edge_of(&[
        ("tcp", format!("tcp://{}", door(&hub, "tcp")), keys.clone()),
        ("tls", format!("tls://localhost:{}", door(&hub, "tls").port()), keys.clone()),
        ("ws", format!("ws://{}/ws", door(&hub, "http")), keys.clone()),
        ("wss", format!("wss://localhost:{}/ws", door(&hub, "https").port()), keys),
    ]));
    for (i, way) in ["tcp", "tls", "ws", "wss"].into_iter().enumerate() {
        let first = 100 * i as u32;
        publish(&edge, &format!("{way}/x"), first..first + 100);
        wait_until(&format!("all of {way} is acknowledged"), || number(&bridge(&edge, way), "acked") == 100);
    }
    assert_all_once_in_order(&hub, "main", 0..400);
    edge.stop();
    hub.stop();
}

#[test]
fn every_kind_of_credentials_lets_a_bridge_in_from_every_source() {
    let (edge_place, hub_place, files) = (Place::new(), Place::new(), Files::new());
    let mut hub = files.hub();
    let hash = Hashed::new(b"geheim", &[1; SALT_BYTES]).expect("short");
    let identities = fs::read_to_string(files.path("identities")).expect("there");
    let more = format!("password gate {} roles=open\ncertificate gate.example roles=open\n", hash.as_str());
    files.write("identities", identities + &more);
    let secret = "a secret of more than thirty-two bytes";
    files.write("secret", secret);
    hub.config.push_str(&format!(
        "issuers: [{{name: site, algorithms: [HS256], keys: ['file:{}'], audiences: [tidegate], roles: [open]}}]\n",
        files.path("secret").display()
    ));
    // The same list of TLS, with who signs clients.
    let with_ca = format!("tls: {{client_ca: ['{}'], client_certificates: optional, ", files.path("ca.pem").display());
    hub.config = hub.config.replace("tls: {certificates", &format!("{with_ca}certificates"));
    let issued = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["token", "issue", "--issuer", "site", "--algorithm", "HS256", "--sign-with", "env:SECRET"])
        .args(["--subject", "gate", "--audience", "tidegate", "--role", "open"])
        .env("SECRET", secret)
        .output()
        .expect("it runs");
    assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
    files.write("token", issued.stdout);
    let Made { chain, key, .. } = files.authority.make(&Wanted::client("gate.example"));
    files.write("gate.pem", chain);
    files.write("gate.key", key);
    let hub = hub_place.start(&hub);
    let (tcp, tls) = (door(&hub, "tcp"), door(&hub, "tls").port());
    let mutual = format!(
        "tls: {{ca: ['{}'], certificate: '{}', key: 'file:{}'}}",
        files.path("ca.pem").display(),
        files.path("gate.pem").display(),
        files.path("gate.key").display()
    );
    let setup = edge_of(&[
        ("key", format!("tcp://{tcp}"), files.bridge(1)),
        ("password", format!("tcp://{tcp}"), "login: {user: gate, password: 'env:PASSWORD'}".into()),
        ("token", format!("tcp://{tcp}"), "login: {token: 'credential:token'}".into()),
        ("certificate", format!("tls://localhost:{tls}"), mutual),
    ]);
    let env = vec![
        ("PASSWORD".to_owned(), "geheim".to_owned()),
        ("CREDENTIALS_DIRECTORY".to_owned(), files.path("").display().to_string()),
    ];
    let edge = edge_place.start(&Setup { env, ..setup });
    for kind in ["key", "password", "token", "certificate"] {
        publish(&edge, &format!("{kind}/x"), 0..10);
        wait_until(&format!("all of {kind} is acknowledged"), || number(&bridge(&edge, kind), "acked") == 10);
    }
    assert!(!edge_place.log().contains("geheim") && !hub_place.log().contains("geheim"));
    edge.stop();
    hub.stop();
}

#[test]
fn each_step_that_fails_has_its_own_reason_and_local_publishing_goes_on() {
    let (edge_place, hub_place, files) = (Place::new(), Place::new(), Files::new());
    let hub = hub_place.start(&files.hub());
    let good = files.bridge(1);
    files.login_key(2);
    files.write("other-ca.pem", Authority::new("another authority").pem());
    let (tcp, tls, http) = (door(&hub, "tcp"), door(&hub, "tls"), door(&hub, "http"));
    // Takes connections, and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let other_ca = format!("tls: {{ca: ['{}']}}", files.path("other-ca.pem").display());
    let cases: Vec<(&str, String, String, &str, &str)> = vec![
        ("refused", format!("tcp://{}", closed()), good.clone(), "refused", "refuses the connection"),
        ("unreachable", "tcp://255.255.255.255:8433".into(), good.clone(), "unreachable", "cannot be reached"),
        ("authority", format!("tls://{tls}"), other_ca, "tls", "authority"),
        (
            "name",
            format!("tls://{tls}"),
            format!("tls: {{ca: ['{}'], server_name: elsewhere.example}}", files.path("ca.pem").display()),
            "tls",
            "elsewhere.example",
        ),
        ("plain", format!("tls://{tcp}"), good.clone(), "tls", ""),
        ("missing", format!("tls://{tls}"), "tls: {ca: ['/nowhere/ca.pem']}".into(), "tls", "/nowhere/ca.pem"),
        ("path", format!("ws://{http}/elsewhere"), good.clone(), "http", "404"),
        ("key", format!("tcp://{tcp}"), files.bridge(2), "auth", ""),
        ("no-key", format!("tcp://{tcp}"), "compress: false".into(), "auth", "login.key"),
        ("lost-key", format!("tcp://{tcp}"), "login: {key: 'file:/nowhere/key'}".into(), "auth", "/nowhere/key"),
        ("silent", format!("tls://{}", silent.local_addr().expect("bound")), good, "timeout", "TLS"),
    ];
    let bridges: Vec<_> = cases.iter().map(|(name, url, keys, ..)| (*name, url.clone(), keys.clone())).collect();
    let edge = edge_place.start(&edge_of(&bridges));
    for (name, _, _, reason, words) in &cases {
        publish(&edge, &format!("{name}/x"), 0..10);
        let told = wait_for(&format!("{name} fails as {reason}"), || {
            let told = bridge(&edge, name);
            (told["last_error"] != "").then_some(told)
        });
        assert_eq!(told["last_error"], *reason, "{name}: {told}");
        assert!(told["last_error_detail"].as_str().expect("text").contains(words), "{name}: {told}");
        assert_eq!((number(&told, "queued"), &told["healthy"]), (10, &Value::Bool(false)), "{name}: {told}");
    }
    assert_eq!(held(&hub, "main"), 0);
    edge.stop();
    hub.stop();
}

#[test]
fn where_one_address_is_gone_the_next_is_used_and_the_first_again() {
    let (edge_place, one_place, two_place) = (Place::new(), Place::new(), Place::new());
    let listen = |address: SocketAddr| config(&format!("{HUB}listen: {{tcp: ['{address}']}}\n"));
    let (first, second) = (closed(), closed());
    let one = one_place.start(&listen(first));
    let text = format!(
        "name: edge\nqueues: [{{name: main, capture: ['#']}}]\n\
         bridges:\n  - {{name: hub, urls: ['tcp://{first}', 'tcp://{second}'], up: [main]}}\n"
    );
    let edge = edge_place.start(&config(&text));
    publish(&edge, "site/a", 0..10);
    assert_eq!(wait_until_well(&edge)["url"], format!("tcp://{first}"));
    one.kill();
    let two = two_place.start(&listen(second));
    publish(&edge, "site/a", 10..20);
    assert_all_once_in_order(&two, "main", 10..20);
    assert_eq!(wait_until_well(&edge)["url"], format!("tcp://{second}"));
    let one = one_place.start(&listen(first));
    two.kill();
    publish(&edge, "site/a", 20..30);
    assert_all_once_in_order(&one, "main", (0..10).chain(20..30));
    assert_eq!(wait_until_well(&edge)["url"], format!("tcp://{first}"));
    edge.stop();
    one.stop();
}

#[test]
fn a_hub_that_comes_later_is_found() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let address = closed();
    let edge = edge_place.start(&edge(&format!("tcp://{address}")));
    publish(&edge, "site/a", 0..50);
    wait_until("it was refused", || bridge(&edge, "hub")["last_error"] == "refused");
    let hub = hub_place.start(&config(&format!("{HUB}listen: {{tcp: ['{address}']}}\n")));
    assert_all_once_in_order(&hub, "main", 0..50);
    edge.stop();
    hub.stop();
}
