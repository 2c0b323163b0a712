//! `tls revoke`: puts a certificate on the list of the authority that `tls init` made.

use super::super::exit::{CliError, Exit};
use super::super::{Global, output};
use super::init::{CRL, authority};
use super::{of_file, read, write};
use crate::runtime::clock;
use crate::tls::{CertificateFacts, CrlFacts, certificates, revocation_lists};
use serde_json::json;
use std::path::PathBuf;

const HELP: &str = "Example:
  tidegate tls revoke tls/sensor-7.pem
A running broker that has the list in tls.client_crl sees the change by itself: the certificate opens nothing from then on. \
Sessions that are open stay open.";

/// Arguments of `tls revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Revoke {
    /// The certificate
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder of the authority [default: the certificate's]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Revoke {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, CliError> {
        let file = &self.file;
        let beside = file.parent().filter(|parent| !parent.as_os_str().is_empty()).map(PathBuf::from);
        let folder = self.folder.clone().or(beside).unwrap_or_else(|| ".".into());
        let authority = authority(&folder)?;
        let own = certificates(authority.pem.as_bytes()).map_err(|error| of_file(&folder, &error))?;
        let own = CertificateFacts::read(&own[0]).map_err(|error| of_file(&folder, &error))?;
        let chain = certificates(&read(file)?).map_err(|error| of_file(file, &error))?;
        let facts = CertificateFacts::read(&chain[0]).map_err(|error| of_file(file, &error))?;
        if facts.issuer != own.subject {
            return Err(of_file(
                file,
                &format!("it is signed by \"{}\", not by the authority in {}", facts.issuer, folder.display()),
            ));
        }
        let path = folder.join(CRL);
        let mut revoked = Vec::new();
        if path.exists() {
            for der in revocation_lists(&read(&path)?).map_err(|error| of_file(&path, &error))? {
                revoked.extend(CrlFacts::read(&der).map_err(|error| of_file(&path, &error))?.revoked);
            }
        }
        if revoked.iter().any(|(serial, _)| *serial == facts.serial) {
            output::note(&format!("{} was revoked before", file.display()));
        } else {
            revoked.push((facts.serial.clone(), clock::wall()));
            write(&path, authority.revoke(&revoked)?.as_bytes(), 0o644)?;
        }
        if global.json {
            output::json(&json!({"list": path.display().to_string(), "revoked": revoked.len()}))?;
        } else {
            output::line(format!("revoked by {}: {}", path.display(), revoked.len()))?;
        }
        Ok(Exit::Ok)
    }
}
