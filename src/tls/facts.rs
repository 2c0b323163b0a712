//! What a certificate or a revocation list says, taken out of its DER once.

use super::provider;
use crate::model::Wall;
use ring::digest::{SHA256, digest};
use rustls::pki_types::PrivateKeyDer;
use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is, as text.
    pub subject: String,
    /// The first common name of the subject.
    pub common_name: Option<String>,
    /// Who signed it, as text.
    pub issuer: String,
    /// Whether subject and issuer are the same.
    pub self_issued: bool,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
    /// URIs.
    pub uris: Vec<String>,
    /// Mail addresses.
    pub mails: Vec<String>,
    /// Whether it has alternative names at all.
    pub has_alternative_names: bool,
    /// Valid from.
    pub not_before: Wall,
    /// Valid until.
    pub not_after: Wall,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// What its key is, as text.
    pub key: String,
    /// What it may be used for, as text.
    pub usages: Vec<&'static str>,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// SHA-256 of its DER.
    pub fingerprint: [u8; 32],
    /// SHA-256 of its public key with the algorithm (SPKI).
    pub key_fingerprint: [u8; 32],
}

impl CertificateFacts {
    /// Reads DER.
    ///
    /// # Errors
    /// What is malformed.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(&error))?;
        let mut facts = Self {
            subject: certificate.subject().to_string(),
            common_name: common_name(certificate.subject()),
            issuer: certificate.issuer().to_string(),
            self_issued: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            dns: Vec::new(),
            addresses: Vec::new(),
            uris: Vec::new(),
            mails: Vec::new(),
            has_alternative_names: false,
            not_before: wall(certificate.validity().not_before),
            not_after: wall(certificate.validity().not_after),
            is_ca: certificate.is_ca(),
            key: key_of(&certificate),
            usages: Vec::new(),
            serial: certificate.raw_serial().to_vec(),
            fingerprint: sha256(der),
            key_fingerprint: sha256(certificate.public_key().raw),
        };
        let names = certificate.subject_alternative_name().map_err(|error| malformed(&error))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            facts.has_alternative_names = true;
            match name {
                GeneralName::DNSName(name) => facts.dns.push((*name).into()),
                GeneralName::URI(uri) => facts.uris.push((*uri).into()),
                GeneralName::RFC822Name(mail) => facts.mails.push((*mail).into()),
                GeneralName::IPAddress(bytes) => facts.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        if let Ok(Some(usage)) = certificate.extended_key_usage() {
            let usage = usage.value;
            for (set, word) in [(usage.server_auth, "server"), (usage.client_auth, "client"), (usage.any, "any")] {
                if set {
                    facts.usages.push(word);
                }
            }
        }
        Ok(facts)
    }

    /// Who a client with this certificate may be: DNS names, URIs and mail addresses; the common name where it has no
    /// alternative names.
    #[must_use]
    pub fn client_names(&self) -> Vec<String> {
        if self.has_alternative_names {
            return [&self.dns, &self.uris, &self.mails].into_iter().flatten().cloned().collect();
        }
        self.common_name.iter().cloned().collect()
    }

    /// The names a server may be called by, as text.
    #[must_use]
    pub fn server_names(&self) -> Vec<String> {
        self.dns.iter().cloned().chain(self.addresses.iter().map(ToString::to_string)).collect()
    }

    /// Why it is not valid at this time.
    #[must_use]
    pub fn out_of_date(&self, now: Wall) -> Option<String> {
        if now > self.not_after {
            return Some(format!("it expired on {}", day(self.not_after)));
        }
        (now < self.not_before).then(|| format!("it is not valid before {}", day(self.not_before)))
    }
}

/// What a revocation list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFacts {
    /// Whose it is.
    pub issuer: String,
    /// When it was made.
    pub made: Wall,
    /// When the next one is due.
    pub next: Option<Wall>,
    /// Serial numbers it revokes, each since a time.
    pub revoked: Vec<(Vec<u8>, Wall)>,
}

impl CrlFacts {
    /// Reads DER.
    ///
    /// # Errors
    /// What is malformed.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| malformed(&error))?;
        Ok(Self {
            issuer: list.issuer().to_string(),
            made: wall(list.last_update()),
            next: list.next_update().map(wall),
            revoked: list
                .iter_revoked_certificates()
                .map(|one| (one.raw_serial().to_vec(), wall(one.revocation_date)))
                .collect(),
        })
    }
}

/// What a private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Its algorithm.
    pub kind: String,
    /// SHA-256 of its public half with the algorithm (SPKI).
    pub fingerprint: [u8; 32],
}

impl KeyFacts {
    /// Reads a key.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(key: &PrivateKeyDer<'static>) -> Result<Self, String> {
        let key = provider().key_provider.load_private_key(key.clone_key()).map_err(|error| error.to_string())?;
        let public = key.public_key().ok_or("its public half is not known")?;
        Ok(Self { kind: format!("{:?}", key.algorithm()), fingerprint: sha256(&public) })
    }
}

/// Whether the second certificate signed the first.
#[must_use]
pub fn signed_by(der: &[u8], above: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, above))) = (X509Certificate::from_der(der), X509Certificate::from_der(above))
    else {
        return false;
    };
    certificate.issuer().as_raw() == above.subject().as_raw()
        && certificate.verify_signature(Some(above.public_key())).is_ok()
}

/// A serial number as hexadecimal bytes with colons.
#[must_use]
pub fn serial_text(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A time as people write days, in UTC.
#[must_use]
pub fn day(at: Wall) -> String {
    let civil = at.civil();
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        civil.year, civil.month, civil.day, civil.hour, civil.minute, civil.second
    )
}

fn malformed(error: &impl std::fmt::Display) -> String {
    format!("its DER is malformed ({error})")
}

fn sha256(der: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, der).as_ref());
    fingerprint
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().find_map(|name| name.as_str().ok().map(str::to_owned))
}

/// Before 1970 is 1970.
fn wall(at: ASN1Time) -> Wall {
    Wall(u64::try_from(at.timestamp()).unwrap_or(0).saturating_mul(1_000))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn key_of(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA of {} bits", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("ECDSA of {} bits", point.key_size()),
        _ if certificate.public_key().algorithm.algorithm.to_id_string() == "1.3.101.112" => "Ed25519".into(),
        _ => format!("of algorithm {}", certificate.public_key().algorithm.algorithm),
    }
}
