//! `tls show`: what is in a file of certificates, keys or revocation lists, in words.

use super::super::exit::{CliError, Exit};
use super::super::{Global, output};
use super::{of_file, read};
use crate::model::Wall;
use crate::runtime::clock;
use crate::tls::{CertificateFacts, CrlFacts, KeyFacts, Part, day, parts, serial_text, signed_by};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const HELP: &str = "Examples:
  tidegate tls show /etc/tidegate/tls/server.pem --fits /etc/tidegate/tls/server.key
  tidegate tls show crl.pem
Ends with 1 when something in it is out of date, or the key does not fit.";

const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Arguments of `tls show`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Show {
    /// PEM or DER
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tell whether this private key belongs to the first certificate
    #[arg(long, value_name = "KEY")]
    fits: Option<PathBuf>,
}

/// One thing in the file.
struct Shown {
    text: String,
    json: Value,
    bad: bool,
}

impl Show {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, CliError> {
        let found = parts(&read(&self.file)?).map_err(|error| of_file(&self.file, &error))?;
        let now = clock::wall();
        let mut all = Vec::new();
        for (at, part) in found.iter().enumerate() {
            all.push(match part {
                Part::Certificate(der) => {
                    let facts = CertificateFacts::read(der).map_err(|error| of_file(&self.file, &error))?;
                    let above = found.get(at + 1).and_then(|next| match next {
                        Part::Certificate(next) => Some(signed_by(der, next)),
                        _ => None,
                    });
                    certificate(&facts, above, now)
                }
                Part::List(der) => list(&CrlFacts::read(der).map_err(|error| of_file(&self.file, &error))?, now),
                Part::Key(der) => self.key(&KeyFacts::read(der).map_err(|error| of_file(&self.file, &error))?),
                Part::Other(what) => Shown { text: (*what).into(), json: json!({"kind": what}), bad: false },
            });
        }
        if let Some(path) = &self.fits {
            all.push(fits(path, &found)?);
        }
        for one in &all {
            if global.json {
                output::json(&one.json)?;
            } else {
                output::line(one.text.trim_end())?;
            }
        }
        Ok(if all.iter().any(|one| one.bad) { Exit::Failure } else { Exit::Ok })
    }

    fn key(&self, facts: &KeyFacts) -> Shown {
        let mode = std::fs::metadata(&self.file).map_or(0, |meta| meta.mode());
        let open = mode & 0o007 != 0;
        let mut text =
            format!("private key: {}\n  fingerprint of its public half: {}\n", facts.kind, hex(&facts.fingerprint));
        if open {
            let _ = writeln!(text, "  others may read or change the file (mode {:04o}): chmod 600 it", mode & 0o7777);
        }
        let json = json!({"kind": "key", "key": facts.kind, "fingerprint": hex(&facts.fingerprint), "open": open});
        Shown { text, json, bad: open }
    }
}

/// Whether the key in a file belongs to the first certificate.
fn fits(path: &std::path::Path, found: &[Part]) -> Result<Shown, CliError> {
    let first = found.iter().find_map(|part| match part {
        Part::Certificate(der) => Some(der),
        _ => None,
    });
    let first = first.ok_or_else(|| CliError::usage("--fits needs a certificate in the file"))?;
    let facts = CertificateFacts::read(first).map_err(|error| of_file(path, &error))?;
    let key = parts(&read(path)?).map_err(|error| of_file(path, &error))?;
    let key = key.iter().find_map(|part| match part {
        Part::Key(der) => Some(KeyFacts::read(der)),
        _ => None,
    });
    let key = key.ok_or_else(|| of_file(path, &"it holds no private key"))?.map_err(|error| of_file(path, &error))?;
    let fits = key.fingerprint == facts.key_fingerprint;
    let text = if fits { "the key fits the first certificate" } else { "the key does NOT fit the first certificate" };
    Ok(Shown { text: text.into(), json: json!({"kind": "fits", "fits": fits}), bad: !fits })
}

fn certificate(facts: &CertificateFacts, above: Option<bool>, now: Wall) -> Shown {
    let what = if facts.is_ca { "authority" } else { "certificate" };
    let mut text = format!("{what}: {}\n", facts.subject);
    let names = [facts.server_names(), facts.uris.clone(), facts.mails.clone()].concat();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name}: {value}");
    };
    let by = match (facts.self_issued, above) {
        (true, _) => "itself".to_owned(),
        (false, Some(true)) => format!("{}, the next one here", facts.issuer),
        (false, Some(false)) => format!("{}, which is NOT the next one here", facts.issuer),
        (false, None) => facts.issuer.clone(),
    };
    line("names", &if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    line("signed by", &by);
    line("valid from", &day(facts.not_before));
    let state = match facts.out_of_date(now) {
        Some(_) if now > facts.not_after => format!("expired {} days ago", now.ms_since(facts.not_after) / DAY_MS),
        Some(_) => "NOT YET VALID".to_owned(),
        None => format!("{} days left", facts.not_after.ms_since(now) / DAY_MS),
    };
    line("valid until", &format!("{} ({state})", day(facts.not_after)));
    line("key", &facts.key);
    line("for", &if facts.usages.is_empty() { "any use".to_owned() } else { facts.usages.join(", ") });
    line("serial number", &serial_text(&facts.serial));
    line("fingerprint", &hex(&facts.fingerprint));
    let json = json!({
        "kind": what,
        "subject": facts.subject,
        "names": names,
        "issuer": facts.issuer,
        "signed_by_next": above,
        "valid_from_ms": facts.not_before.0,
        "valid_until_ms": facts.not_after.0,
        "valid": facts.out_of_date(now).is_none(),
        "key": facts.key,
        "uses": facts.usages,
        "serial": serial_text(&facts.serial),
        "fingerprint": hex(&facts.fingerprint),
        "client_names": facts.client_names(),
    });
    Shown { text, json, bad: facts.out_of_date(now).is_some() }
}

fn list(facts: &CrlFacts, now: Wall) -> Shown {
    let overdue = facts.next.is_some_and(|next| next < now);
    let next = facts
        .next
        .map_or("never".to_owned(), |next| format!("{}{}", day(next), if overdue { " (OVERDUE)" } else { "" }));
    let mut text = format!("revocation list of {}\n  made: {}\n  next due: {next}\n", facts.issuer, day(facts.made));
    let _ = writeln!(text, "  revoked: {}", facts.revoked.len());
    for (serial, since) in &facts.revoked {
        let _ = writeln!(text, "    {} since {}", serial_text(serial), day(*since));
    }
    let serials: Vec<String> = facts.revoked.iter().map(|(serial, _)| serial_text(serial)).collect();
    let json = json!({
        "kind": "list",
        "issuer": facts.issuer,
        "made_ms": facts.made.0,
        "next_ms": facts.next.map(|next| next.0),
        "valid": !overdue,
        "serials": serials,
    });
    Shown { text, json, bad: overdue }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
