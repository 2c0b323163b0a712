//! A development authority: makes itself, signs, revokes.

use super::super::exit::CliError;
use crate::model::Wall;
use crate::runtime::clock;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use std::fmt::Display;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long an authority and its revocation list are good for, in days.
pub(super) const AUTHORITY_DAYS: u32 = 3_650;
/// Made valid so long ago, in seconds, for clocks that are a little behind.
const BEFORE_S: u64 = 3_600;
const DAY_S: u64 = 24 * 3_600;

/// Seconds since 1970 as rcgen wants them: the crate of its type is none of ours.
macro_rules! time {
    ($seconds:expr) => {
        date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
    };
}

/// An authority with its key.
pub(in crate::cli) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub(in crate::cli) pem: String,
    /// Its key.
    pub(in crate::cli) key: Zeroizing<String>,
}

/// A certificate with its key, in PEM.
pub(in crate::cli) struct Made {
    pub(in crate::cli) pem: String,
    pub(in crate::cli) key: Zeroizing<String>,
}

fn failed(why: impl Display) -> CliError {
    CliError::failure(format!("the certificate cannot be made: {why}"))
}

fn now_s() -> u64 {
    clock::wall().0 / 1_000
}

fn params(common_name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = time!(now_s().saturating_sub(BEFORE_S));
    params.not_after = time!(now_s() + u64::from(days) * DAY_S);
    params.use_authority_key_identifier_extension = true;
    params
}

fn new_key() -> Result<(KeyPair, Zeroizing<String>), CliError> {
    let key = KeyPair::generate().map_err(failed)?;
    let pem = Zeroizing::new(key.serialize_pem());
    Ok((key, pem))
}

impl Authority {
    /// A new one of this name.
    pub(in crate::cli) fn new(name: &str) -> Result<Self, CliError> {
        let mut params = params(name, AUTHORITY_DAYS);
        params.use_authority_key_identifier_extension = false;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let (key, key_pem) = new_key()?;
        let pem = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, key: key_pem })
    }

    /// One that was made before.
    ///
    /// # Errors
    /// What is wrong with its certificate or key.
    pub(super) fn read(pem: String, key: Zeroizing<String>) -> Result<Self, String> {
        let pair = KeyPair::from_pem(&key).map_err(|error| error.to_string())?;
        let issuer = Issuer::from_ca_cert_pem(&pem, pair).map_err(|error| error.to_string())?;
        Ok(Self { issuer, pem, key })
    }

    /// A server's: for these DNS names and IP addresses.
    pub(in crate::cli) fn server(&self, names: &[String], days: u32) -> Result<Made, CliError> {
        let mut params = params(names.first().map_or("tidegate", String::as_str), days);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    name.as_str().try_into().map_err(|_| CliError::usage(format!("{name:?} is no host name")))?,
                ),
            });
        }
        self.leaf(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's: its name is the common name.
    pub(super) fn client(&self, name: &str, days: u32) -> Result<Made, CliError> {
        self.leaf(params(name, days), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn leaf(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Made, CliError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let (key, key_pem) = new_key()?;
        let pem = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Made { pem, key: key_pem })
    }

    /// A list that revokes the certificates of these serial numbers, each since a time.
    pub(super) fn revoke(&self, revoked: &[(Vec<u8>, Wall)]) -> Result<String, CliError> {
        let one = |(serial, since): &(Vec<u8>, Wall)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: time!(since.0 / 1_000),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: time!(now_s().saturating_sub(BEFORE_S)),
            next_update: time!(now_s() + u64::from(AUTHORITY_DAYS) * DAY_S),
            // Grows with each list.
            crl_number: SerialNumber::from(now_s()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(failed)
    }
}
