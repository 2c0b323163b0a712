//! `token`: makes tokens (JWT), looks into them, and says whether a broker would believe them.

use super::Global;
use super::exit::{CliError, Exit};
use super::keys::name;
use super::output;
use super::serve::invalid;
use super::units::duration;
use crate::auth::token::{Algorithm, Grant, SigningKey, TOKEN_BYTES_MAX, peek};
use crate::auth::{Authenticator, Secret, utc};
use crate::config::load;
use crate::daemon::pick_folder;
use crate::model::Wall;
use crate::runtime::clock;
use crate::session::{Attempt, Method, NONCE_BYTES, Peer};
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Subcommands of `token`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Token {
    /// Make a token and print it
    #[command(after_help = "Examples:
  tidegate keys new issuer.key
  tidegate token issue --issuer site --sign-with file:issuer.key --subject sensor-7 --audience tidegate --role sensor
  tidegate token issue --issuer site --sign-with env:SECRET --algorithm HS256 --subject alice --audience tidegate --for 8h
Who has the token is who it says: hand it on as you would a password.")]
    Issue(Issue),
    /// Show what a token says, without believing it
    #[command(after_help = "Examples:
  tidegate token inspect token.txt
  echo $TOKEN | tidegate token inspect
A token is read from a file or standard input, never from the command line, which others can see.")]
    Inspect(Inspect),
    /// Say whether a broker with a configuration believes a token, and whom it takes it for
    #[command(after_help = "Example:
  tidegate token verify --config /etc/tidegate.yaml token.txt
Ends with 0 when the token is believed, with 4 when it is refused, with 6 when the configuration is invalid.")]
    Verify(Verify),
}

/// Arguments of `token issue`.
#[derive(Debug, clap::Args)]
pub(super) struct Issue {
    /// Who issues it (iss): a name among the broker's issuers
    #[arg(long, value_name = "NAME")]
    issuer: String,
    /// The key that signs it: file:PATH, credential:NAME or env:NAME. For HS256 the secret itself, at least 32 bytes; else a
    /// private key, for EdDSA of `keys new`
    #[arg(long, value_name = "SOURCE")]
    sign_with: String,
    /// HS256, EdDSA, ES256 or RS256
    #[arg(long, value_name = "NAME", default_value = "EdDSA", value_parser = algorithm)]
    algorithm: Algorithm,
    /// Whom it is about (sub): the client's name
    #[arg(long, value_name = "NAME", value_parser = name)]
    subject: String,
    /// Whom it is for (aud): one that the broker's issuer lists; may be repeated
    #[arg(long = "audience", value_name = "NAME", required = true)]
    audiences: Vec<String>,
    /// The claim `tenant`
    #[arg(long, value_name = "TENANT", value_parser = name)]
    tenant: Option<String>,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE", value_parser = name)]
    roles: Vec<String>,
    /// How long it is valid
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = some_time)]
    lasting: Duration,
    /// Id of the key (kid), for brokers with a set of several
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
}

/// Arguments of `token inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// File with the token; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

/// Arguments of `token verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The broker's configuration file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// The broker's data folder, where relative paths begin [default: the configured one]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// File with the token; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::parse(text).ok_or_else(|| "write HS256, EdDSA, ES256 or RS256".into())
}

/// A duration that a token may last: tokens count whole seconds.
fn some_time(text: &str) -> Result<Duration, String> {
    let lasting = duration(text)?;
    if lasting < Duration::from_secs(1) {
        return Err("write at least 1s".into());
    }
    if lasting > Duration::from_secs(10 * 365 * 86_400) {
        return Err("the duration is longer than ten years".into());
    }
    Ok(lasting)
}

impl Token {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        match self {
            Self::Issue(command) => command.run(global),
            Self::Inspect(command) => command.run(global),
            Self::Verify(command) => command.run(global),
        }
    }
}

impl Issue {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        let random = SystemRandom::new();
        let secret =
            Secret::load(&self.sign_with, Path::new("")).map_err(|error| CliError::failure(error.to_string()))?;
        let key = SigningKey::parse(self.algorithm, &secret, &random);
        let key = key.map_err(|message| CliError::failure(format!("{}: {message}", self.sign_with)))?;
        let issued = clock::wall();
        let expires = issued.plus_ms(u64::try_from(self.lasting.as_millis()).unwrap_or(u64::MAX));
        let grant = Grant {
            issuer: &self.issuer,
            subject: &self.subject,
            audiences: &self.audiences,
            tenant: self.tenant.as_deref(),
            roles: &self.roles,
            issued,
            expires,
            kid: self.kid.as_deref(),
        };
        let token = key.issue(&grant, &random).map_err(CliError::failure)?;
        if token.len() > TOKEN_BYTES_MAX {
            let len = token.len();
            return Err(CliError::failure(format!("the token has {len} bytes: brokers take {TOKEN_BYTES_MAX}")));
        }
        if global.json {
            output::json(&json!({"token": token, "expires": utc::show(expires)}))?;
        } else {
            output::line(token)?;
        }
        Ok(Exit::Ok)
    }
}

/// Reads a token, without white space around it; of a longer one as much as shows that it is.
fn read_token(path: &Path) -> Result<Vec<u8>, CliError> {
    const READ_BYTES_MAX: u64 = 2 * TOKEN_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(READ_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(READ_BYTES_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|error| CliError::failure(format!("{} cannot be read: {error}", path.display())))?;
    let token = bytes.trim_ascii().to_vec();
    if token.is_empty() { Err(CliError::failure("there is no token")) } else { Ok(token) }
}

impl Inspect {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        let token = read_token(&self.file)?;
        let (header, claims) = peek(&token).map_err(|error| CliError::failure(error.to_string()))?;
        if global.json {
            output::json(&json!({"verified": false, "header": header, "claims": claims}))?;
            return Ok(Exit::Ok);
        }
        let now = clock::wall();
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
        output::line(format!("header {}", pretty(&header)))?;
        output::line(format!("claims {}", pretty(&claims)))?;
        for (name, what) in [("iat", "issued"), ("nbf", "valid from"), ("exp", "ends")] {
            match claims.get(name).and_then(Value::as_f64) {
                Some(seconds) => output::line(format!("{what} {}", in_words(seconds, now)))?,
                None if name == "exp" => output::line("ends never: no broker takes it")?,
                None => {}
            }
        }
        output::line("not verified: anybody can write such a token; `tidegate token verify` asks a configuration")?;
        Ok(Exit::Ok)
    }
}

/// A time of a token, and how far it is from now.
fn in_words(seconds: f64, now: Wall) -> String {
    // The last second of the year 9999: later times are shown as that.
    const SECONDS_MAX: f64 = 253_402_300_799.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 9999-12-31")]
    let at = Wall(seconds.clamp(0.0, SECONDS_MAX) as u64 * 1_000);
    let (apart, later) = if at > now { (at.ms_since(now), true) } else { (now.ms_since(at), false) };
    let apart = match apart / 1_000 {
        s @ 0..120 => format!("{s} seconds"),
        s @ 120..7_200 => format!("{} minutes", s / 60),
        s @ 7_200..172_800 => format!("{} hours", s / 3_600),
        s => format!("{} days", s / 86_400),
    };
    format!("{}, {}", utc::show(at), if later { format!("in {apart}") } else { format!("{apart} ago") })
}

impl Verify {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        let mut settings = load(Some(&self.config), std::env::vars_os()).map_err(|e| invalid(&e))?.settings;
        settings.data = self.data.or(settings.data);
        let folder = pick_folder(&settings, |name| std::env::var_os(name));
        let folder = folder.ok_or_else(|| CliError::usage("no data folder: give one with --data"))?;
        // Tokens alone are asked about: the rest may be for the broker's eyes.
        settings.auth.identities = None;
        settings.signatures.clear();
        let loaded = Authenticator::load(&settings, &folder);
        let judge = loaded.map_err(|error| CliError::new(Exit::Config, error.to_string()))?;
        let peer = Peer::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let data = read_token(&self.file)?;
        let attempt = Attempt { method: Method::Token, data, nonce: [0; NONCE_BYTES], again: false, peer };
        match judge.check(clock::wall(), &attempt) {
            Ok(principal) => {
                let expires = principal.expires.map(utc::show);
                if global.json {
                    output::json(&json!({
                        "valid": true, "name": principal.name, "tenant": principal.tenant, "roles": principal.roles,
                        "expires": expires,
                    }))?;
                } else {
                    let tenant = match &*principal.tenant {
                        "" => String::new(),
                        tenant => format!(" of tenant {tenant}"),
                    };
                    let roles = if principal.roles.is_empty() { "none".into() } else { principal.roles.join(", ") };
                    let until = expires.unwrap_or_default();
                    output::line(format!("valid: {}{tenant}, roles {roles}, until {until}", principal.name))?;
                }
                Ok(Exit::Ok)
            }
            Err(denied) if global.json => {
                output::json(&json!({"valid": false, "reason": denied.reason, "detail": denied.detail}))?;
                Ok(Exit::Refused)
            }
            Err(denied) => Err(CliError::new(Exit::Refused, format!("refused: {denied}"))),
        }
    }
}
