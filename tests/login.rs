//! Logging in to the real daemon, with real keys, passwords and tokens: who comes in, who does not, and what renews itself.
#![cfg(feature = "daemon")]
#![allow(clippy::disallowed_methods)]

#[path = "support/raw.rs"]
mod raw;

use raw::Raw;
use ring::rand::SystemRandom;
use smol::future::block_on;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tidegate::auth::Secret;
use tidegate::auth::password::{Hashed, SALT_BYTES};
use tidegate::auth::token::{Algorithm, Grant, SigningKey as TokenKey};
use tidegate::client::{
    Address, Client, ClientError, Credentials, Message, Options, Response, SecretSource, SubscribeOptions,
};
use tidegate::config::{IssuerSettings, RoleSettings, Rules, Settings};
use tidegate::daemon::testing::{self, Running};
use tidegate::model::Wall;
use tidegate::model::admin::{STATUS, Status};
use tidegate::runtime::clock;
use tidegate::seal::SigningKey;
use tidegate::wire::{
    self, Auth, Code, Extended, Extension, FrameType, Hello, Outcome, SignedNonce, auth_method, encode_extended,
};
use zeroize::Zeroizing;

const SECRET: &[u8] = b"thirty-two bytes or more of a secret";

/// A broker with a role, identities and an issuer of tokens.
struct House {
    folder: TempDir,
    running: Option<Running>,
}

fn write(path: &Path, bytes: &[u8]) {
    // Whole at once: a reader sees the old file or the new one.
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new).expect("created");
    std::io::Write::write_all(&mut file, bytes).expect("written");
    std::fs::rename(&new, path).expect("renamed");
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut house = Self { folder, running: None };
        house.write_identities("");
        write(&house.path("issuer"), SECRET);
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let allow =
            Rules { publish: list(&["site/{client}/#"]), subscribe: list(&["site/{client}/#"]), ..Rules::default() };
        let mut settings = Settings {
            roles: vec![RoleSettings { name: "sensor".into(), allow, deny: Rules::default() }],
            issuers: vec![IssuerSettings {
                name: "issuer".into(),
                algorithms: list(&["HS256"]),
                keys: list(&["file:issuer"]),
                jwks: None,
                audiences: list(&["tidegate"]),
                leeway_ms: 0,
                tenant: String::new(),
                roles: list(&["sensor"]),
            }],
            ..testing::settings(house.folder.path())
        };
        settings.auth.identities = Some("identities".into());
        settings.limits.rates.logins_failed_max = 0;
        house.running = Some(testing::spawn(settings).expect("the daemon starts"));
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_identities(&self, more: &str) {
        let hash = Hashed::new(b"geheim", &[1; SALT_BYTES]).expect("short");
        let text = format!(
            "key {} name=ada roles=sensor\npassword bob {} roles=sensor\n{more}\n",
            key(1).public(),
            hash.as_str()
        );
        write(&self.path("identities"), text.as_bytes());
    }

    /// A file of a token for so many milliseconds from now.
    fn write_token(&self, subject: &str, ms: u64) {
        let now = clock::now().wall;
        let (audiences, roles) = (["tidegate".to_owned()], ["sensor".to_owned()]);
        let grant = Grant {
            issuer: "issuer",
            subject,
            audiences: &audiences,
            roles: &roles,
            issued: Wall(now.0 - 1_000),
            expires: now.plus_ms(ms),
            ..Grant::default()
        };
        let random = SystemRandom::new();
        let secret = Secret::new(SECRET.to_vec());
        let signer = TokenKey::parse(Algorithm::Hs256, &secret, &random).expect("a key");
        write(&self.path("token"), signer.issue(&grant, &random).expect("a token").as_bytes());
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("running")
    }

    fn address(&self) -> Address {
        Address::Tcp("127.0.0.1".into(), self.running().tcp().port())
    }

    async fn connect(&self, credentials: Option<Credentials>) -> Result<Client, ClientError> {
        let options = Options { credentials, backoff_ms_max: 200, ..Options::default() };
        Client::connect(self.address(), options).await
    }

    /// A counter of the broker, asked over its Unix socket.
    async fn counted(&self, admin: &Client, name: &str) -> u64 {
        let Response { status, body, .. } = admin.request(STATUS, b"", 10_000).await.expect("an answer");
        assert_eq!(status, 0);
        let status: Status = serde_json::from_slice(&body).expect("a status");
        status.counters.get(name).copied().unwrap_or(0)
    }

    async fn admin(&self) -> Client {
        Client::connect(Address::Unix(self.running().unix()), Options::default()).await.expect("the admin comes in")
    }
}

fn bytes(bytes: &[u8]) -> SecretSource {
    SecretSource::Bytes(Zeroizing::new(bytes.to_vec()))
}

fn key_of(n: u8) -> Option<Credentials> {
    Some(Credentials::Key(bytes(key(n).to_text().as_bytes())))
}

fn password(user: &str, word: &str) -> Option<Credentials> {
    Some(Credentials::Password { user: user.into(), password: bytes(word.as_bytes()) })
}

fn message(channel: &str) -> Message<'_> {
    Message::new(channel, b"x").expect("a valid channel")
}

/// The code a client was refused with.
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Code {
    match result {
        Err(ClientError::Refused(refusal)) => refusal.code.expect("a known code"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_and_a_password_open_the_door_and_nothing_else_does() {
    let house = House::new();
    block_on(async {
        for (credentials, mine, other) in [
            (key_of(1), "site/ada/temp", "site/bob/temp"),
            (password("bob", "geheim"), "site/bob/temp", "site/ada/temp"),
        ] {
            let client = house.connect(credentials).await.expect("comes in");
            assert_eq!(client.publish(&message(mine)).await, Ok(Outcome::Stored));
            assert_eq!(refused(client.publish(&message(other)).await), Code::Forbidden);
            let heard = client.subscribe("site/#", SubscribeOptions::default()).await;
            assert_eq!(refused(heard.map(|_| ())), Code::Forbidden);
            client.close().await;
        }
        assert_eq!(refused(house.connect(key_of(2)).await), Code::AuthFailed);
        assert_eq!(refused(house.connect(password("bob", "geraten")).await), Code::AuthFailed);
        assert_eq!(refused(house.connect(password("eve", "geheim")).await), Code::AuthFailed);
        let nothing = house.connect(None).await.expect_err("strangers may not enter");
        assert!(matches!(&nothing, ClientError::Credentials(why) if why.contains("a key")), "{nothing}");
        let admin = house.admin().await;
        let counters = ["denied.unknown-key", "denied.wrong-password", "denied.unknown-user", "logins"];
        let mut found = Vec::new();
        for name in counters {
            found.push(house.counted(&admin, name).await);
        }
        assert_eq!(found, [1, 1, 1, 2]);
        admin.close().await;
    });
}

#[test]
fn an_answer_to_another_connections_challenge_is_refused() {
    let house = House::new();
    let challenged = || {
        let mut raw = Raw::tcp(house.running().tcp());
        let extensions = [Extension { tag: wire::EXTENSION_AUTH_METHODS, value: &[auth_method::KEY] }];
        let head = Hello {
            version_min: 1,
            version_max: 1,
            client: "replay",
            heartbeat_ms: 0,
            frame_bytes_max: 16_384,
            message_bytes_max: 16_384,
        };
        let mut out = [0; 256];
        let n = encode_extended(&mut out, 0, 0, 0, &Extended { head, extensions: &extensions }, &[]).expect("fits");
        raw.bytes(&out[..n]);
        raw.sequence = 1;
        let got = raw.next();
        let nonce: [u8; 32] = got.head::<Auth<'_>>().data.try_into().expect("32 bytes");
        (raw, nonce)
    };
    let answer = |raw: &mut Raw, nonce: &[u8; 32], again: bool| {
        let signature = key(1).sign_bytes(SignedNonce::new(nonce, again).as_bytes());
        let data = [&key(1).public().as_bytes()[..], &signature].concat();
        raw.send(0, &Auth { method: auth_method::KEY, data: &data }, &[]);
    };
    let (mut one, first) = challenged();
    let (mut two, second) = challenged();
    assert_ne!(first, second);
    answer(&mut one, &first, false);
    assert_eq!(one.next().kind, FrameType::Welcome);
    answer(&mut two, &first, false);
    two.expect_end(Code::AuthFailed);
    let (mut three, third) = challenged();
    answer(&mut three, &third, true);
    three.expect_end(Code::AuthFailed);
}

#[test]
fn a_changed_file_is_read_while_running_and_a_bad_one_changes_nothing() {
    let house = House::new();
    block_on(async {
        assert_eq!(refused(house.connect(key_of(2)).await), Code::AuthFailed);
        house.write_identities(&format!("key {} name=eve roles=sensor", key(2).public()));
        // It is looked at every now and then.
        while house.connect(key_of(2)).await.is_err() {}
        house.write_identities("key nonsense\n");
        house.running().stopper.reload();
        let ada = house.connect(key_of(1)).await.expect("the old file stays in force");
        house.connect(key_of(2)).await.expect("all of it");
        assert_eq!(ada.publish(&message("site/ada/temp")).await, Ok(Outcome::Stored));
    });
}

#[test]
fn a_token_is_renewed_in_place_when_its_file_has_a_newer_one() {
    let house = House::new();
    house.write_token("box", 6_000);
    block_on(async {
        let admin = house.admin().await;
        let credentials = Credentials::Token(SecretSource::File(house.path("token")));
        let client = house.connect(Some(credentials)).await.expect("comes in");
        assert_eq!(client.publish(&message("site/box/temp")).await, Ok(Outcome::Stored));
        house.write_token("box", 3_600_000);
        while house.counted(&admin, "logins").await < 2 {}
        assert_eq!(client.publish(&message("site/box/temp")).await, Ok(Outcome::Stored));
        assert_eq!(client.stats().sessions, 1, "in place");
        assert_eq!(house.counted(&admin, "closed.credentials-expired").await, 0);
    });
}

#[test]
fn a_session_ends_with_its_token_and_the_client_comes_back_with_a_new_one() {
    let house = House::new();
    house.write_token("box", 2_000);
    block_on(async {
        let admin = house.admin().await;
        let credentials = Credentials::Token(SecretSource::File(house.path("token")));
        let client = house.connect(Some(credentials)).await.expect("comes in");
        client.lost().await.expect("it tries again");
        assert_eq!(house.counted(&admin, "closed.credentials-expired").await, 1);
        // The old token is refused now, which does not end a client whose file may change.
        while house.counted(&admin, "denied.expired").await == 0 {}
        house.write_token("box", 3_600_000);
        client.opened().await.expect("it is back");
        assert_eq!(client.publish(&message("site/box/temp")).await, Ok(Outcome::Stored));
        assert_eq!(client.stats().sessions, 2);
    });
}

#[test]
fn a_broker_whose_identities_cannot_be_read_does_not_start_and_says_where() {
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder.path().join("identities"), b"key nonsense\n");
    let mut settings = testing::settings(folder.path());
    settings.auth.identities = Some("identities".into());
    let error = testing::spawn(settings).err().expect("it does not start").to_string();
    assert!(error.contains("identities:1") && error.contains("key"), "{error}");
}
