//! Whom client commands trust over TLS, and what they show: from arguments and the environment.

use crate::tls::Trust;
use std::path::PathBuf;

/// Arguments of every command that connects.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct TlsOptions {
    /// Authorities to trust, a PEM file; may be repeated [default: those of this system]
    #[arg(long, env = "TIDEGATE_CA", global = true, value_name = "FILE", help_heading = super::super::COMMON)]
    ca: Vec<PathBuf>,
    /// Revocation lists of these authorities, PEM or DER; may be repeated
    #[arg(long, env = "TIDEGATE_CRL", global = true, value_name = "FILE", help_heading = super::super::COMMON)]
    crl: Vec<PathBuf>,
    /// Certificate to show, a PEM file with its chain
    #[arg(long, env = "TIDEGATE_CERT", global = true, value_name = "FILE", help_heading = super::super::COMMON)]
    cert: Option<PathBuf>,
    /// Its private key, a PEM file that others may not read
    #[arg(long, env = "TIDEGATE_KEY", global = true, value_name = "FILE", help_heading = super::super::COMMON)]
    key: Option<PathBuf>,
    /// Name the broker's certificate must have, instead of the host in the URL
    #[arg(long, env = "TIDEGATE_SERVER_NAME", global = true, value_name = "NAME", help_heading = super::super::COMMON)]
    server_name: Option<String>,
}

impl TlsOptions {
    pub(in crate::cli) fn trust(&self) -> Trust {
        Trust {
            ca: self.ca.clone(),
            crl: self.crl.clone(),
            certificate: self.cert.clone(),
            key: self.key.clone(),
            server_name: self.server_name.clone(),
        }
    }
}
