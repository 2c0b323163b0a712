//! `tls init`: an authority, a server and clients, ready to be named in a configuration.

use super::super::exit::{CliError, Exit};
use super::super::{Global, output};
use super::authority::{Authority, Made};
use super::{of_file, read, write};
use crate::client::PORT_TLS_DEFAULT;
use serde_json::json;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const HELP: &str = "Examples:
  tidegate tls init                                       for this machine, in the folder tls
  tidegate tls init /etc/tidegate/tls --name broker.example.org --client sensor-7 --client dashboard
  tidegate tls init --client one-more                     by the authority that is there
The authority (ca.pem, ca.key) is made once and kept. Whoever has ca.key can make certificates: it belongs on no broker.";

/// Files of the authority, its list and the server.
pub(super) const CA: &str = "ca.pem";
pub(super) const CA_KEY: &str = "ca.key";
pub(super) const CRL: &str = "crl.pem";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server.key";

/// Arguments of `tls init`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Init {
    /// Folder of the files
    #[arg(value_name = "FOLDER", default_value = "tls")]
    folder: PathBuf,
    /// Host name or IP address of the broker; may be repeated [default: localhost, its addresses and this machine's name]
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// Make a certificate for a client of this name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = file_name)]
    client: Vec<String>,
    /// How long the certificates are valid, in days
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Make anew what is there already, except the authority
    #[arg(long)]
    force: bool,
}

/// A name that is a file of the folder, and none of ours.
fn file_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(fits) {
        return Err("a name has up to 64 letters, digits, `.`, `_`, `-` and `@`, and does not begin with `.`".into());
    }
    match text {
        "ca" | "server" | "crl" => Err("this name is taken by a file of the authority or the server".into()),
        _ => Ok(text.into()),
    }
}

/// The authority of a folder.
pub(super) fn authority(folder: &Path) -> Result<Authority, CliError> {
    let (path, key_path) = (folder.join(CA), folder.join(CA_KEY));
    let text = |path: &Path| String::from_utf8(read(path)?).map_err(|_| of_file(path, &"it is no text"));
    Authority::read(text(&path)?, Zeroizing::new(text(&key_path)?)).map_err(|why| of_file(&path, &why))
}

impl Init {
    pub(super) fn run(&self, global: &Global) -> Result<Exit, CliError> {
        let folder = &self.folder;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| of_file(folder, &error))?;
        let folder = &fs::canonicalize(folder).map_err(|error| of_file(folder, &error))?;
        let server_is_there = folder.join(SERVER).exists() || folder.join(SERVER_KEY).exists();
        if !self.force {
            let asked = if self.name.is_empty() { None } else { Some("server") };
            for name in asked.into_iter().chain(self.client.iter().map(String::as_str)) {
                for path in [format!("{name}.pem"), format!("{name}.key")].map(|name| folder.join(name)) {
                    if path.exists() {
                        return Err(of_file(&path, &"it is there already; --force makes another"));
                    }
                }
            }
        }
        let authority = if folder.join(CA).exists() || folder.join(CA_KEY).exists() {
            authority(folder)?
        } else {
            let new = Authority::new(&format!("tidegate development authority of {}", host()))?;
            write(&folder.join(CA_KEY), new.key.as_bytes(), 0o600)?;
            write(&folder.join(CRL), new.revoke(&[])?.as_bytes(), 0o644)?;
            write(&folder.join(CA), new.pem.as_bytes(), 0o644)?;
            new
        };
        let mut made = Vec::new();
        if !server_is_there || self.force {
            put(folder, "server", &authority.server(&self.names(), self.days)?)?;
            made.push("server".to_owned());
        }
        for name in &self.client {
            put(folder, name, &authority.client(name, self.days)?)?;
            made.push(name.clone());
        }
        self.tell(global, folder, &made)?;
        Ok(Exit::Ok)
    }

    fn names(&self) -> Vec<String> {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        let host = host();
        if !names.contains(&host) && host.contains(|c: char| c.is_ascii_alphabetic()) {
            names.push(host);
        }
        names
    }

    fn tell(&self, global: &Global, folder: &Path, made: &[String]) -> Result<(), CliError> {
        let path = |name: &str| folder.join(name).display().to_string();
        if global.json {
            let clients: Vec<_> = self.client.iter().map(|name| json!({"name": name, "certificate": path(&format!("{name}.pem")), "key": path(&format!("{name}.key"))})).collect();
            return output::json(&json!({
                "folder": folder.display().to_string(),
                "ca": path(CA),
                "crl": path(CRL),
                "certificate": path(SERVER),
                "key": path(SERVER_KEY),
                "clients": clients,
                "made": made,
            }));
        }
        let what = if made.is_empty() { "nothing new".to_owned() } else { made.join(", ") };
        output::line(format!("made in {}: {what}", folder.display()))?;
        output::line("")?;
        output::line("for the broker's configuration:")?;
        output::line(format!("  listen:\n    tls: [\"0.0.0.0:{PORT_TLS_DEFAULT}\"]\n  tls:"))?;
        output::line(format!("    certificates: [{}]\n    keys: [\"file:{}\"]", path(SERVER), path(SERVER_KEY)))?;
        let asked = if self.client.is_empty() { "none" } else { "required" };
        output::line(format!("    client_certificates: {asked}"))?;
        if !self.client.is_empty() {
            output::line(format!("    client_ca: [{}]\n    client_crl: [{}]", path(CA), path(CRL)))?;
        }
        output::line("")?;
        output::line("for a client:")?;
        let host = self.name.first().map_or("localhost", String::as_str);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let shows = self
            .client
            .first()
            .map(|name| format!(" --cert {} --key {}", path(&format!("{name}.pem")), path(&format!("{name}.key"))));
        output::line(format!(
            "  tidegate --url tls://{host}:{PORT_TLS_DEFAULT} --ca {}{} status",
            path(CA),
            shows.unwrap_or_default()
        ))
    }
}

fn put(folder: &Path, name: &str, made: &Made) -> Result<(), CliError> {
    write(&folder.join(format!("{name}.key")), made.key.as_bytes(), 0o600)?;
    write(&folder.join(format!("{name}.pem")), made.pem.as_bytes(), 0o644)
}

/// This machine's name.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
