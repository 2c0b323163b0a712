//! Passwords: argon2id hashes as PHC strings, bounded in what they may cost, verified in the same time for unknown users.

use argon2::password_hash::{Encoding, PasswordHash, PasswordHasher, PasswordVerifier, Salt};
use argon2::{Algorithm, Argon2, Params, Version};

/// Most bytes of a password.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// Fewest characters of a new password (NIST SP 800-63B §5.1.1).
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// Memory of a new hash in KiB. As strong as 19 MiB with two passes, by OWASP's table, in half the memory: boxes have 64 MiB.
pub const MEMORY_KIB: u32 = 9 * 1_024;
/// Passes of a new hash.
pub const PASSES: u32 = 4;

/// Most memory of a hash that is verified, in KiB.
const MEMORY_KIB_MAX: u32 = 64 * 1_024;
/// Most passes.
const PASSES_MAX: u32 = 16;
/// Most lanes, which are done one after the other.
const LANES_MAX: u32 = 4;
/// Most memory passed over, in KiB: about a second of a small box.
const WORK_KIB_MAX: u32 = 256 * 1_024;
/// Fewest bytes of a hash.
const OUTPUT_BYTES_MIN: usize = 16;

/// A hash that was checked when it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Hashed(Box<str>);

impl std::fmt::Debug for Hashed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hashed")
    }
}

impl Hashed {
    /// Takes a PHC string: argon2id, version 19, with salt and hash, not too expensive.
    ///
    /// # Errors
    /// What was found and what was expected, without the hash.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected a hash as `tidegate passwd` writes it: $argon2id$v=19$m=...,t=...,p=...$SALT$HASH";
        let hash = PasswordHash::parse(text, Encoding::B64)
            .map_err(|_| format!("found something that is no hash of a password; {expected}"))?;
        if hash.algorithm != argon2::ARGON2ID_IDENT {
            return Err(format!("found another algorithm; {expected}"));
        }
        if hash.version != Some(19) {
            return Err(format!("found another version of argon2; {expected}"));
        }
        if hash.params.iter().any(|(name, _)| !matches!(name.as_str(), "m" | "t" | "p")) {
            return Err(format!("found further parameters; {expected}"));
        }
        let params =
            Params::try_from(&hash).map_err(|_| format!("found parameters argon2 does not take; {expected}"))?;
        let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
            return Err(format!(
                "found m={memory},t={passes},p={lanes}; expected at most m={MEMORY_KIB_MAX},t={PASSES_MAX},p={LANES_MAX}"
            ));
        }
        if memory.saturating_mul(passes) > WORK_KIB_MAX {
            return Err(format!("found m={memory} times t={passes}; expected at most {WORK_KIB_MAX}"));
        }
        if hash.hash.is_none_or(|output| output.len() < OUTPUT_BYTES_MIN) {
            return Err(format!("found less than {OUTPUT_BYTES_MIN} bytes of hash; {expected}"));
        }
        if hash.salt.is_none_or(|salt| salt.as_str().len() < 11) {
            return Err(format!("found less than 8 bytes of salt; {expected}"));
        }
        Ok(Self(text.into()))
    }

    /// Hashes a new password with a salt that nobody had before.
    ///
    /// # Errors
    /// The password is longer than [`PASSWORD_BYTES_MAX`].
    pub fn new(password: &[u8], salt: &[u8; SALT_BYTES]) -> Result<Self, String> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(format!("found {} bytes; expected at most {PASSWORD_BYTES_MAX}", password.len()));
        }
        Ok(Self::with(password, salt, MEMORY_KIB, PASSES))
    }

    pub(super) fn with(password: &[u8], salt: &[u8; SALT_BYTES], memory_kib: u32, passes: u32) -> Self {
        let mut buffer = [0; 22];
        let encoded =
            base64::engine::Engine::encode_slice(&base64::engine::general_purpose::STANDARD_NO_PAD, salt, &mut buffer);
        let len = encoded.expect("16 bytes are 22 characters");
        let salt = std::str::from_utf8(&buffer[..len]).expect("base64 is ASCII");
        let params = Params::new(memory_kib, passes, 1, None).expect("parameters within argon2's bounds");
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let salt = Salt::from_b64(salt).expect("16 bytes are a salt");
        let hash = hasher.hash_password(password, salt).expect("parameters and lengths are within argon2's bounds");
        Self(hash.to_string().into())
    }

    /// The PHC string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Memory in KiB times passes: what verifying costs.
    #[must_use]
    pub fn work(&self) -> u32 {
        self.params().map_or(0, |params| params.m_cost().saturating_mul(params.t_cost()))
    }

    fn params(&self) -> Option<Params> {
        let hash = PasswordHash::parse(&self.0, Encoding::B64).ok()?;
        Params::try_from(&hash).ok()
    }

    /// Whether it is of this password. Takes the memory its parameters say, and tens of milliseconds: run it off the broker's
    /// thread, one at a time. Hashes are compared in constant time.
    #[must_use]
    pub fn fits(&self, password: &[u8]) -> bool {
        let Ok(hash) = PasswordHash::parse(&self.0, Encoding::B64) else { return false };
        password.len() <= PASSWORD_BYTES_MAX && Argon2::default().verify_password(password, &hash).is_ok()
    }

    /// One that costs the same and that nobody knows the password of: what unknown users are tried with.
    #[must_use]
    pub fn dummy_like(&self) -> Self {
        let Ok(hash) = PasswordHash::parse(&self.0, Encoding::B64) else { return self.clone() };
        // The same string with another hash: all zero bytes, which no password has.
        let zero = "A".repeat(hash.hash.map_or(43, |output| (output.len() * 8).div_ceil(6)));
        let upto = self.0.rfind('$').map_or(0, |at| at + 1);
        Self(format!("{}{zero}", &self.0[..upto]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that tests can afford.
    fn cheap(password: &str) -> Hashed {
        Hashed::with(password.as_bytes(), &[7; SALT_BYTES], 16, 1)
    }

    #[test]
    fn a_password_fits_its_hash_alone() {
        let hash = Hashed::new(b"correct horse", &[1; SALT_BYTES]).expect("short enough");
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=9216,t=4,p=1$"), "{}", hash.as_str());
        assert_eq!(Hashed::parse(hash.as_str()).as_ref(), Ok(&hash));
        assert!(hash.fits(b"correct horse"));
        assert!(!hash.fits(b"correct horsf") && !hash.fits(&[b'x'; PASSWORD_BYTES_MAX + 1]));
        assert!(Hashed::new(&[b'x'; PASSWORD_BYTES_MAX + 1], &[1; SALT_BYTES]).is_err());
    }

    /// Of the reference implementation's own tests (`test.c`): argon2id, version 19, 2^8 KiB, two passes, one lane.
    #[test]
    fn hashes_of_the_reference_implementation_are_verified() {
        let text = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let hash = Hashed::parse(text).expect("within the bounds");
        assert!(hash.fits(b"password") && !hash.fits(b"Password"));
    }

    #[test]
    fn a_hash_cannot_ask_for_gigabytes_or_for_nothing() {
        let tail = "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        for (head, told) in [
            ("$argon2id$v=19$m=4194304,t=2,p=1", "at most m=65536"),
            ("$argon2id$v=19$m=4294967295,t=2,p=1", "at most m=65536"),
            ("$argon2id$v=19$m=65536,t=5,p=1", "expected at most 262144"),
            ("$argon2id$v=19$m=16,t=4294967295,p=1", "at most m=65536,t=16"),
            ("$argon2id$v=19$m=65536,t=2,p=64", "p=4"),
            ("$argon2id$v=19$m=1,t=1,p=1", "does not take"),
            ("$argon2i$v=19$m=65536,t=2,p=1", "another algorithm"),
            ("$argon2d$v=19$m=65536,t=2,p=1", "another algorithm"),
            ("$pbkdf2-sha256$i=1000", "another algorithm"),
            ("$argon2id$v=16$m=65536,t=2,p=1", "another version"),
            ("$argon2id$m=65536,t=2,p=1", "another version"),
            ("$argon2id$v=19$m=65536,t=2,p=1,data=AAAA", "further parameters"),
        ] {
            let error = Hashed::parse(&format!("{head}{tail}")).expect_err(head);
            assert!(error.contains(told), "{head}: {error}");
        }
        for text in ["", "hunter2", "$argon2id$v=19$m=16,t=1,p=1", "$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ"] {
            let error = Hashed::parse(text).expect_err(text);
            assert!(!error.contains("hunter2"), "{error}");
        }
        let short = "$argon2id$v=19$m=16,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFQ";
        assert!(Hashed::parse(short).expect_err("10 bytes").contains("less than 16 bytes"));
    }

    #[test]
    fn unknown_users_are_tried_with_a_hash_that_costs_the_same_and_fits_nothing() {
        let real = cheap("correct horse");
        let dummy = real.dummy_like();
        assert_ne!(real, dummy);
        assert_eq!(Hashed::parse(dummy.as_str()).expect("a hash").work(), real.work());
        assert!(real.fits(b"correct horse") && !dummy.fits(b"correct horse"));
    }

    #[test]
    fn a_hash_is_not_shown() {
        assert_eq!(format!("{:?}", cheap("x")), "Hashed");
    }
}
