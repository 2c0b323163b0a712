//! Authorities, certificates and revocation lists made by a test for itself.

#![allow(dead_code, clippy::unwrap_used)]

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

const DAY_S: i64 = 24 * 3_600;

/// Seconds since 1970 of a moment so many days from now.
fn at(days: i64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    now.checked_add_signed(days * DAY_S).expect("after 1970")
}

fn next_serial() -> SerialNumber {
    static LAST: AtomicU16 = AtomicU16::new(1_000);
    SerialNumber::from_slice(&LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes())
}

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    name: String,
}

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct Made {
    pub chain: String,
    pub key: String,
    pub serial: SerialNumber,
}

/// What a certificate is to be.
#[derive(Clone)]
pub struct Wanted<'a> {
    /// Host names, IP addresses, or URIs.
    pub names: &'a [&'a str],
    pub common_name: &'a str,
    /// Days from now.
    pub from: i64,
    pub until: i64,
    pub client: bool,
}

impl<'a> Wanted<'a> {
    /// Of a server, valid for a month.
    pub fn server(names: &'a [&'a str]) -> Self {
        Self { names, common_name: "a server", from: -1, until: 30, client: false }
    }

    /// Of a client, valid for a month.
    pub fn client(common_name: &'a str) -> Self {
        Self { names: &[], common_name, from: -1, until: 30, client: true }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        for name in self.names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into().expect("ASCII")),
                Err(_) => SanType::DnsName((*name).try_into().expect("ASCII")),
            });
        }
        params.distinguished_name.push(DnType::CommonName, self.common_name);
        params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(at(self.from));
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(at(self.until));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usage = if self.client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth };
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(next_serial());
        params
    }

    /// Signed by its own key.
    pub fn by_itself(&self) -> Made {
        let (params, key) = (self.params(), KeyPair::generate().expect("a key"));
        let certificate = params.self_signed(&key).expect("signed");
        let serial = params.serial_number.expect("given");
        Made { chain: certificate.pem(), key: key.serialize_pem(), serial }
    }
}

impl Authority {
    /// One of its own.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(Self::params(name), key).expect("signed");
        Self { issuer, name: name.into() }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(at(-100));
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(at(3_000));
        params.serial_number = Some(next_serial());
        params
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs.
    pub fn make(&self, wanted: &Wanted<'_>) -> Made {
        let (params, key) = (wanted.params(), KeyPair::generate().expect("a key"));
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let serial = params.serial_number.expect("given");
        Made { chain: certificate.pem(), key: key.serialize_pem(), serial }
    }

    /// A list that revokes these, due so many days from now; as PEM and DER.
    pub fn revokes(&self, serials: &[SerialNumber], due: i64) -> (String, Vec<u8>) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: date_time_ymd(2024, 6, 17),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + Duration::from_secs(at(due - 10)),
            next_update: date_time_ymd(1970, 1, 1) + Duration::from_secs(at(due)),
            crl_number: next_serial(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("signed");
        (list.pem().expect("PEM"), list.der().to_vec())
    }
}

/// Writes a file in one step, for its owner only.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).expect("written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("ours");
    fs::rename(&new, path).expect("renamed");
}

/// Writes `NAME.pem` and `NAME.key`.
pub fn put(folder: &Path, name: &str, made: &Made) -> (PathBuf, PathBuf) {
    let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    write(&key, &made.key);
    write(&chain, &made.chain);
    (chain, key)
}
