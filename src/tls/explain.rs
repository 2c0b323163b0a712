//! Every way a handshake fails, in words: what is wrong, with which certificate, and what to do about it.

use super::facts::{CertificateFacts, day, serial_text};
use crate::model::Wall;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use std::cell::Cell;
use std::fmt;
use std::io;

/// Why there is no TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The reason, as a counter's label.
    pub reason: &'static str,
    /// The whole story, and what to do.
    pub text: String,
}

impl TlsError {
    pub(super) fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TlsError {}

/// Which end we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that connects.
    Client,
    /// The one that listens.
    Broker,
}

thread_local! {
    /// The certificate that was just refused, until it is explained.
    static BLAMED: Cell<Option<Box<CertificateFacts>>> = const { Cell::new(None) };
}

/// Remembers the certificate that a verifier refuses: rustls does not tell.
pub fn blame(certificate: &CertificateDer<'_>) {
    BLAMED.set(CertificateFacts::read(certificate).ok().map(Box::new));
}

/// What a broken connection means; `first` is what the peer began with. Call it where the error came from, before anything
/// else is read on this thread.
#[must_use]
pub fn explain_io(error: &io::Error, side: Side, first: &[u8]) -> TlsError {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return explain(error, side, first);
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        let text = match side {
            Side::Client => "it hung up during the handshake; does it speak TLS on this port?",
            Side::Broker => "it hung up during the handshake",
        };
        return TlsError::new("hung-up", text);
    }
    TlsError::new("connection", error.to_string())
}

/// What a mistake of the peer means.
#[must_use]
pub fn explain(error: &Error, side: Side, first: &[u8]) -> TlsError {
    let leaf = BLAMED.take();
    match error {
        Error::InvalidCertificate(error) => certificate(error, side, leaf.as_deref()),
        Error::AlertReceived(alert) => alert_of(*alert, side),
        Error::NoCertificatesPresented => TlsError::new("no-certificate", "it shows no certificate, and must"),
        Error::NoApplicationProtocol => {
            TlsError::new("application-protocol", "it wants to speak another protocol on this port (ALPN)")
        }
        // A record begins with its type: 20 to 23.
        Error::InvalidMessage(_) if first.first().is_some_and(|byte| !(20..=23).contains(byte)) => plain(side, first),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            plain(side, first)
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // TLS 1.1 and older have no such extension.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => TlsError::new("version", "it speaks TLS 1.1 or older; expected TLS 1.2 or 1.3"),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            TlsError::new("cipher", "it offers no cipher suite with forward secrecy that is spoken here")
        }
        Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => {
            TlsError::new("incompatible", "it takes no signature that the key of this certificate can make")
        }
        Error::PeerIncompatible(why) => TlsError::new("incompatible", format!("its TLS does not fit ours ({why:?})")),
        Error::PeerMisbehaved(why) => TlsError::new("misbehaved", format!("it breaks the rules of TLS ({why:?})")),
        Error::InvalidCertRevocationList(why) => {
            TlsError::new("revocation-list", format!("a revocation list cannot be used ({why:?})"))
        }
        other => TlsError::new("other", other.to_string()),
    }
}

/// Somebody who does not speak TLS.
fn plain(side: Side, first: &[u8]) -> TlsError {
    let spoken = match first {
        [b'T', b'G', ..] => "frames without TLS",
        [b'G', b'E', b'T', b' ', ..] | [b'P', b'O', b'S', b'T', ..] | [b'H', b'T', b'T', b'P', ..] => {
            "HTTP without TLS"
        }
        [b'S', b'S', b'H', b'-', ..] => "SSH",
        [0x80, ..] => "SSL 2",
        _ => "no TLS",
    };
    let advice = match side {
        Side::Client => "is this its plain port? tcp:// instead of tls:// speaks without TLS",
        Side::Broker => "a client of this port begins with TLS: tls:// instead of tcp://",
    };
    TlsError::new("plaintext", format!("it speaks {spoken}; {advice}"))
}

fn wall(at: UnixTime) -> Wall {
    Wall(at.as_secs().saturating_mul(1_000))
}

fn certificate(error: &CertificateError, side: Side, leaf: Option<&CertificateFacts>) -> TlsError {
    use CertificateError as E;
    let whose = match (side, leaf) {
        (Side::Client, _) => "the broker's certificate".to_owned(),
        (Side::Broker, Some(leaf)) => {
            format!("its certificate ({}, serial {})", leaf.subject, serial_text(&leaf.serial))
        }
        (Side::Broker, None) => "its certificate".to_owned(),
    };
    let client = side == Side::Client;
    match error {
        E::Expired | E::ExpiredContext { .. } => {
            let when = match error {
                E::ExpiredContext { not_after, .. } => format!(" on {}", day(wall(*not_after))),
                _ => String::new(),
            };
            let advice = if client { "it must be renewed there, unless the clock here is wrong" } else { "renew it" };
            TlsError::new("expired", format!("{whose}, or one above it, expired{when}: {advice}"))
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            let when = match error {
                E::NotValidYetContext { not_before, .. } => format!(" before {}", day(wall(*not_before))),
                _ => String::new(),
            };
            let advice = if client {
                "is the clock of this machine right?"
            } else {
                "is the clock of the broker's machine right?"
            };
            TlsError::new("not-yet-valid", format!("{whose}, or one above it, is not valid{when}: {advice}"))
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            let names = leaf.map(CertificateFacts::server_names).unwrap_or_default();
            let names = if names.is_empty() { "no host at all".to_owned() } else { names.join(", ") };
            let asked = match error {
                E::NotValidForNameContext { expected, .. } => format!(", not for {}", expected.to_str()),
                _ => String::new(),
            };
            let text =
                format!("{whose} is for {names}{asked}: connect by a name it has, or say which with --server-name");
            TlsError::new("wrong-host", text)
        }
        E::Revoked => TlsError::new("revoked", format!("{whose} was revoked by its authority: another is needed")),
        E::UnknownIssuer => match leaf {
            Some(leaf) if leaf.self_issued => {
                let advice = if client {
                    "if you know it, give it with --ca"
                } else {
                    "only certificates signed by an authority of tls.client_ca are believed"
                };
                TlsError::new("self-signed", format!("{whose} is signed by itself: {advice}"))
            }
            leaf => {
                let issuer = leaf.map_or("an authority".to_owned(), |leaf| format!("\"{}\"", leaf.issuer));
                let advice = if client {
                    "give the authority's certificate with --ca, or have the broker show the whole chain"
                } else {
                    "that is none of tls.client_ca, or the client does not show its whole chain"
                };
                TlsError::new(
                    "unknown-ca",
                    format!("{whose} is signed by {issuer}, which is not trusted here: {advice}"),
                )
            }
        },
        E::UnknownRevocationStatus => {
            let lists = if client { "--crl" } else { "tls.client_crl" };
            let text = format!("{whose}, or one above it, has an authority of which {lists} has no revocation list");
            TlsError::new("revocation-unknown", text)
        }
        // Issuers are found by name, so the usual reason is an authority that was made again.
        E::BadSignature if client => {
            let text = format!(
                "{whose} is not signed by an authority that is trusted here: one of the same name has another key; give \
                 the right one with --ca. If it is the right one, the certificate was forged or damaged"
            );
            TlsError::new("bad-signature", text)
        }
        E::BadSignature => {
            TlsError::new("bad-signature", format!("{whose} has a signature that is wrong: it was forged or damaged"))
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            let purpose = if client { "servers" } else { "clients" };
            TlsError::new("wrong-purpose", format!("{whose} is not made for {purpose} (extended key usage)"))
        }
        E::BadEncoding => TlsError::new("malformed", format!("{whose} is malformed")),
        other => TlsError::new("certificate", format!("{whose} is not accepted: {other}")),
    }
}

/// The peer says what is wrong with us.
fn alert_of(alert: AlertDescription, side: Side) -> TlsError {
    use AlertDescription as A;
    let client = side == Side::Client;
    let text = match alert {
        A::CertificateRequired | A::NoCertificate if client => {
            "it wants a certificate of this client: give one with --cert and --key"
        }
        A::CertificateExpired if client => {
            "the broker refused this client's certificate: it has expired or is not valid yet; renew it"
        }
        A::CertificateExpired => "it refused this broker's certificate: it has expired or is not valid yet",
        A::CertificateRevoked if client => {
            "the broker refused this client's certificate: it was revoked; another is needed"
        }
        A::CertificateRevoked => "it refused this broker's certificate: it was revoked",
        A::UnknownCA if client => {
            "the broker refused this client's certificate: it does not know who signed it; one signed by an authority of its \
             tls.client_ca is needed, with the whole chain"
        }
        A::UnknownCA => {
            "it refused this broker's certificate: it does not know who signed it; give it the authority's certificate"
        }
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied if client => {
            "the broker refused this client's certificate; its log says why"
        }
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => {
            "it refused this broker's certificate, perhaps because it connects by a name that is not in it"
        }
        A::ProtocolVersion => "it speaks none of TLS 1.2 and 1.3",
        A::HandshakeFailure | A::InsufficientSecurity => "it found nothing in common: no cipher suite, or no signature",
        A::NoApplicationProtocol if client => {
            "it does not speak this protocol on that port (ALPN): is it the right port?"
        }
        A::UnrecognisedName if client => "it does not know the name it was called by",
        other => return TlsError::new("alert", format!("it refused the connection (alert {other:?})")),
    };
    TlsError::new("alert", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_by_another_key_of_the_authoritys_name_says_that_the_authority_is_another() {
        let wrong = Error::InvalidCertificate(CertificateError::BadSignature);
        let told = explain(&wrong, Side::Client, &[]).text;
        let (authority, forged) = (told.find("not signed by an authority that is trusted here"), told.find("forged"));
        assert!(authority.is_some() && authority < forged && told.contains("--ca"), "{told}");
        assert!(!explain(&wrong, Side::Broker, &[]).text.contains("--ca"));
    }
}
