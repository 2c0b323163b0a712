//! Certificates, keys and revocation lists out of PEM and DER, with words for what is not one.

use rustls::pki_types::pem::{Error, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// Largest file taken, in bytes; revocation lists grow.
pub const FILE_BYTES_MAX: u64 = 16 * 1_024 * 1_024;

/// Why bytes are not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemError {
    /// It is no PEM, or broken PEM.
    Broken(String),
    /// It has nothing of what was looked for: that, and what it has.
    Nothing(&'static str, String),
    /// A private key behind a passphrase.
    Encrypted,
    /// More than one private key.
    SeveralKeys,
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(why) => write!(f, "it cannot be read as PEM: {why}"),
            Self::Nothing(what, has) if has.is_empty() => write!(f, "it holds no {what}"),
            Self::Nothing(what, has) => write!(f, "it holds no {what} but {has}"),
            Self::Encrypted => f.write_str(
                "the key is encrypted; tidegate asks nobody for a passphrase: `openssl pkcs8 -in FILE -out PLAIN` decrypts it",
            ),
            Self::SeveralKeys => f.write_str("it holds several private keys; expected one"),
        }
    }
}

impl std::error::Error for PemError {}

/// All certificates of a PEM file, in order.
///
/// # Errors
/// [`PemError`] when there is none.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| broken(&e))?;
    if found.is_empty() { Err(nothing("certificate", pem)) } else { Ok(found) }
}

/// The one private key of a PEM file: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
/// [`PemError`] when there is none, or more than one.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let mut keys = PrivateKeyDer::pem_slice_iter(pem);
    let first = match keys.next() {
        Some(key) => key.map_err(|e| broken(&e))?,
        None if holds(pem, "ENCRYPTED PRIVATE KEY") => return Err(PemError::Encrypted),
        None => return Err(nothing("private key", pem)),
    };
    if holds(pem, "Proc-Type: 4,ENCRYPTED") {
        return Err(PemError::Encrypted);
    }
    match keys.next() {
        None => Ok(first),
        Some(_) => Err(PemError::SeveralKeys),
    }
}

/// All revocation lists of a PEM file, or the one of a DER file.
///
/// # Errors
/// [`PemError`] when there is none.
pub fn revocation_lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    // DER begins with a SEQUENCE, PEM with text.
    if bytes.first() == Some(&0x30) && !holds(bytes, "-----BEGIN ") {
        return Ok(vec![CertificateRevocationListDer::from(bytes.to_vec())]);
    }
    let found: Vec<_> =
        CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|e| broken(&e))?;
    if found.is_empty() { Err(nothing("revocation list", bytes)) } else { Ok(found) }
}

/// Something in a file.
#[derive(Debug)]
pub enum Part {
    /// A certificate.
    Certificate(CertificateDer<'static>),
    /// A private key.
    Key(PrivateKeyDer<'static>),
    /// A revocation list.
    List(CertificateRevocationListDer<'static>),
    /// What is not used here.
    Other(&'static str),
}

/// All that is in a file, in order; the one thing of a DER file.
///
/// # Errors
/// [`PemError`] when there is nothing.
pub fn parts(bytes: &[u8]) -> Result<Vec<Part>, PemError> {
    if bytes.first() == Some(&0x30) && !holds(bytes, "-----BEGIN ") {
        if X509Certificate::from_der(bytes).is_ok() {
            return Ok(vec![Part::Certificate(CertificateDer::from(bytes.to_vec()))]);
        }
        if CertificateRevocationList::from_der(bytes).is_ok() {
            return Ok(vec![Part::List(CertificateRevocationListDer::from(bytes.to_vec()))]);
        }
        let key = PrivateKeyDer::try_from(bytes.to_vec());
        return key.map(|key| vec![Part::Key(key)]).map_err(|_| PemError::Broken("nor as DER".into()));
    }
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|error| broken(&error))?;
        found.push(match kind {
            SectionKind::Certificate => Part::Certificate(CertificateDer::from(der)),
            SectionKind::Crl => Part::List(CertificateRevocationListDer::from(der)),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                Part::Key(PrivateKeyDer::from_pem(kind, der).ok_or(PemError::Broken("a key is malformed".into()))?)
            }
            SectionKind::PublicKey => Part::Other("a public key"),
            SectionKind::Csr => Part::Other("a request to sign a certificate"),
            _ => Part::Other("something else"),
        });
    }
    match found.is_empty() {
        true if holds(bytes, "ENCRYPTED PRIVATE KEY") => Err(PemError::Encrypted),
        true => Err(PemError::Nothing("certificate, key or revocation list", String::new())),
        false => Ok(found),
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn broken(error: &Error) -> PemError {
    PemError::Broken(match error {
        Error::MissingSectionEnd { .. } => "a section has no end: the file is cut off".into(),
        Error::IllegalSectionStart { .. } => "a line that begins a section is malformed".into(),
        Error::Base64Decode(why) => format!("its base64 is damaged ({why})"),
        other => other.to_string(),
    })
}

/// Names what a file has instead.
fn nothing(what: &'static str, bytes: &[u8]) -> PemError {
    let mut has: Vec<&str> = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).map_while(Result::ok) {
        let name = match section.0 {
            SectionKind::Certificate => "certificates",
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => "a private key",
            SectionKind::Crl => "a revocation list",
            SectionKind::PublicKey => "a public key",
            SectionKind::Csr => "a request to sign a certificate",
            _ => "something else",
        };
        if !has.contains(&name) {
            has.push(name);
        }
    }
    if has.is_empty() && bytes.first() == Some(&0x30) {
        return PemError::Nothing(what, "DER: `openssl x509 -inform der` and the like turn it into PEM".into());
    }
    PemError::Nothing(what, has.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_says_what_it_is() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let text = certificates(key.serialize_pem().as_bytes()).expect_err("a key").to_string();
        assert_eq!(text, "it holds no certificate but a private key");
        assert_eq!(certificates(b"hello").expect_err("text"), PemError::Nothing("certificate", String::new()));
        let der = certificates(key.serialized_der()).expect_err("DER").to_string();
        assert!(der.contains("DER"), "{der}");
        let pem = rcgen::generate_simple_self_signed(vec!["a".into()]).expect("made").cert.pem();
        assert_eq!(certificates(pem.as_bytes()).expect("whole").len(), 1);
        let cut = certificates(&pem.as_bytes()[..pem.len() - 30]).expect_err("cut").to_string();
        assert!(cut.contains("cut off"), "{cut}");
        let damaged = pem.replacen('\n', "\n!!", 1);
        assert!(matches!(certificates(damaged.as_bytes()), Err(PemError::Broken(_))));
    }

    #[test]
    fn a_file_has_one_key_that_needs_no_passphrase() {
        let (a, b) = (rcgen::KeyPair::generate().expect("a key"), rcgen::KeyPair::generate().expect("a key"));
        private_key(a.serialize_pem().as_bytes()).expect("one key");
        let two = a.serialize_pem() + &b.serialize_pem();
        assert_eq!(private_key(two.as_bytes()).expect_err("two"), PemError::SeveralKeys);
        let locked = a.serialize_pem().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert_eq!(private_key(locked.as_bytes()).expect_err("locked"), PemError::Encrypted);
    }
}
