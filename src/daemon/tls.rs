//! The files behind TLS: read at start, again on SIGHUP and when they change; a bad new set leaves the old in force.

use crate::auth::Secret;
use crate::config::TlsSettings;
use crate::model::{Mono, Wall};
use crate::runtime::clock;
use crate::tls::{FILE_BYTES_MAX, day};
use crate::transport::{Material, MaterialError, Named, Source, Tls};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files are looked at this often, in milliseconds.
pub(super) const LOOK_EVERY_MS: u64 = 1_000;
/// Ends of certificates are looked at this often, in milliseconds.
const ENDS_EVERY_MS: u64 = 24 * 3_600 * 1_000;
/// A certificate that ends within this time is said, in milliseconds.
const ENDS_SOON_MS: u64 = 14 * 24 * 3_600 * 1_000;

/// Reads all files and checks them.
///
/// # Errors
/// The first that cannot be used.
pub(super) fn load(settings: &TlsSettings, folder: &Path, now: Wall) -> Result<Material, MaterialError> {
    let mut source = Source { client_certificates: settings.client_certificates, ..Source::default() };
    for (certificate, key) in settings.certificates.iter().zip(&settings.keys) {
        let chain = read(&folder.join(certificate))?;
        let secret = Secret::load(key, folder)
            .map_err(|error| MaterialError { name: error.source.into_string(), why: error.message })?;
        source.certificates.push((chain, Named { name: key.clone(), bytes: secret }));
    }
    if source.certificates.is_empty() {
        return Err(MaterialError { name: "tls.certificates".into(), why: "there is none".into() });
    }
    for path in &settings.client_ca {
        source.client_ca.push(read(&folder.join(path))?);
    }
    for path in &settings.client_crl {
        source.client_crl.push(read(&folder.join(path))?);
    }
    Material::new(source, now)
}

fn read(path: &Path) -> Result<Named<Vec<u8>>, MaterialError> {
    let name = path.display().to_string();
    match read_bounded(path) {
        Ok(bytes) => Ok(Named { name, bytes }),
        Err(error) => Err(MaterialError { name, why: error.to_string() }),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let len = fs::metadata(path)?.len();
    if len > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {len} bytes; at most {FILE_BYTES_MAX} are taken")));
    }
    fs::read(path)
}

/// The files as the worker watches them.
pub(super) struct Watched {
    settings: TlsSettings,
    folder: PathBuf,
    /// As they were when they were read.
    read: Vec<Stamp>,
    /// As they were at the last look, when that was different.
    changing: Option<Vec<Stamp>>,
}

/// What tells one state of a file from another.
type Stamp = Option<(u64, i64, i64, u64)>;

impl Watched {
    /// From now on.
    pub(super) fn new(settings: TlsSettings, folder: &Path) -> Self {
        let mut this = Self { settings, folder: folder.into(), read: Vec::new(), changing: None };
        this.read = this.stamps();
        this
    }

    fn stamps(&self) -> Vec<Stamp> {
        let secrets = self.settings.keys.iter().filter_map(|key| Secret::file(key, &self.folder));
        let plain = [&self.settings.certificates, &self.settings.client_ca, &self.settings.client_crl];
        let plain = plain.into_iter().flatten().map(|path| self.folder.join(path));
        plain.chain(secrets).map(|path| stamp(&path)).collect()
    }

    /// Reads them again, now that others are named.
    pub(super) fn renew(&mut self, settings: TlsSettings) -> Result<Material, MaterialError> {
        self.settings = settings;
        self.again(self.stamps())
    }

    fn again(&mut self, stamps: Vec<Stamp>) -> Result<Material, MaterialError> {
        (self.read, self.changing) = (stamps, None);
        load(&self.settings, &self.folder, clock::wall())
    }

    /// Reads them again if they changed and then stayed as they are for one look: who replaces a certificate and its key
    /// does so one after the other.
    pub(super) fn look(&mut self) -> Option<Result<Material, MaterialError>> {
        let stamps = self.stamps();
        if stamps == self.read {
            self.changing = None;
            return None;
        }
        if self.changing.as_ref() == Some(&stamps) {
            return Some(self.again(stamps));
        }
        self.changing = Some(stamps);
        None
    }
}

fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

/// The TLS of the listeners, as the conductor keeps it.
pub(super) struct Keeper {
    tls: Tls,
    /// When to look at the files.
    next_look: Mono,
    /// When to look at the ends of certificates.
    next_ends: Mono,
}

impl Keeper {
    /// Says what is odd about the material of the start.
    pub(super) fn new(tls: Tls, now: Mono) -> Self {
        let material = tls.material();
        said(&material);
        Self { tls, next_look: now.plus_ms(LOOK_EVERY_MS), next_ends: now }
    }

    /// What was read again comes into force, unless something is wrong with it; tells whether it does.
    pub(super) fn renewed(&mut self, result: Result<Material, MaterialError>, now: Wall) -> bool {
        match result.and_then(|material| match material.out_of_date(now) {
            Some(why) => Err(why),
            None => Ok(material),
        }) {
            Ok(material) => {
                for (name, leaf) in material.leaves() {
                    log::info!("{name}: shown from now on, valid until {}", day(leaf.not_after));
                }
                said(&material);
                self.tls.replace(material);
                say_ends(&self.tls.material(), now);
                true
            }
            Err(error) => {
                log::error!("TLS: the new files are refused, the old ones stay in force: {error}");
                false
            }
        }
    }

    /// When something is due.
    pub(super) fn next(&self) -> Mono {
        self.next_look.min(self.next_ends)
    }

    /// Does what is due; true when the files are to be looked at.
    pub(super) fn due(&mut self, mono: Mono, wall: Wall) -> bool {
        if self.next_ends <= mono {
            self.next_ends = mono.plus_ms(ENDS_EVERY_MS);
            say_ends(&self.tls.material(), wall);
        }
        let look = self.next_look <= mono;
        if look {
            self.next_look = mono.plus_ms(LOOK_EVERY_MS);
        }
        look
    }
}

fn said(material: &Material) {
    for warning in material.warnings() {
        log::warn!("TLS: {warning}");
    }
}

fn say_ends(material: &Material, now: Wall) {
    for (name, leaf) in material.leaves() {
        if let Some(why) = leaf.out_of_date(now) {
            log::error!("TLS: {name}: {why}: clients refuse it");
        } else if leaf.not_after.ms_since(now) < ENDS_SOON_MS {
            let days = leaf.not_after.ms_since(now) / (24 * 3_600 * 1_000);
            log::warn!("TLS: {name}: it ends in {days} days, on {}", day(leaf.not_after));
        }
    }
}
