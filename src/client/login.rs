//! One session's login: answers the broker's challenges, and renews before the credentials end.

use super::credentials::{Credentials, Shown};
use super::error::ClientError;
use super::link::Event;
use crate::wire::{Auth, Code, FrameType, NONCE_BYTES, Reauth, append, auth_method};

/// How often a file is looked at for a newer token while the old one is about to end, in milliseconds.
const LOOK_MS: u64 = 1_000;

/// What was shown, and when to look for newer.
pub(super) struct Login<'s> {
    credentials: Option<&'s Credentials>,
    shown: Option<Shown>,
    /// The broker's challenge: a key signs it again to renew.
    nonce: Option<[u8; NONCE_BYTES]>,
    look_at: Option<u64>,
    /// Shown again without being newer, which helps at most once.
    repeated: bool,
}

impl<'s> Login<'s> {
    pub(super) const fn new(credentials: Option<&'s Credentials>, shown: Option<Shown>) -> Self {
        Self { credentials, shown, nonce: None, look_at: None, repeated: false }
    }

    /// The method the hello names.
    pub(super) fn method(&self) -> Option<u8> {
        self.shown.as_ref().map(Shown::method)
    }

    /// A frame came. Appends the frame it asks for and says where it begins; it is to be sealed.
    ///
    /// # Errors
    /// The broker asks for what there is not.
    pub(super) fn handle(
        &mut self,
        event: &Event<'_>,
        now_ms: u64,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, ClientError> {
        match event {
            Event::Challenge { method, data } => {
                let Some(shown) = self.shown.as_ref().filter(|shown| shown.method() == *method) else {
                    let wanted = match *method {
                        auth_method::TOKEN => "a token",
                        auth_method::PASSWORD => "a password",
                        auth_method::KEY => "a key",
                        _ => "credentials",
                    };
                    let what = if self.shown.is_some() { "these" } else { "any" };
                    return Err(ClientError::Credentials(format!(
                        "the broker asks for {wanted}, and has not got {what}"
                    )));
                };
                self.nonce = (*data).try_into().ok();
                let data = shown.data(self.nonce.as_ref(), false).map_err(ClientError::Credentials)?;
                let start = out.len();
                append(out, FrameType::Auth, 0, 0, Some(&Auth { method: *method, data: &data }), &[]);
                Ok(Some(start))
            }
            Event::Goaway(goaway) if goaway.code == Code::CredentialsExpired as u16 => {
                self.look_at = self.shown.is_some().then_some(now_ms);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// When to call [`Login::handle_timeout`].
    pub(super) const fn poll_timeout(&self) -> Option<u64> {
        self.look_at
    }

    /// Looks for newer credentials when it is time to. Appends a frame that shows them and says where it begins.
    pub(super) fn handle_timeout(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Option<usize> {
        if self.look_at.is_none_or(|at| at > now_ms) {
            return None;
        }
        self.look_at = Some(now_ms + LOOK_MS);
        let found = match self.credentials?.read() {
            Ok(found) => found,
            Err(why) => {
                log::debug!("no newer credentials: {why}");
                return None;
            }
        };
        let newer = self.shown.as_ref().is_none_or(|shown| found.differs(shown));
        // A token's end is in it: the same one again would be refused. Of the others the broker knows the end, perhaps a new one.
        if !newer && (found.method() == auth_method::TOKEN || std::mem::replace(&mut self.repeated, true)) {
            return None;
        }
        let data = match found.data(self.nonce.as_ref(), true) {
            Ok(data) => data,
            Err(why) => {
                log::warn!("the credentials cannot be renewed: {why}");
                return None;
            }
        };
        self.look_at = None;
        let start = out.len();
        append(out, FrameType::Reauth, 0, 0, Some(&Reauth { method: found.method(), data: &data }), &[]);
        self.shown = Some(found);
        Some(start)
    }
}
