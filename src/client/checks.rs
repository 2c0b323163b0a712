//! What a reader demands of messages before it believes them.

use super::message::Incoming;
use crate::seal::{KeyId, PublicKeys, SealError, SealingKeys};

/// Whose signatures a reader trusts, and what it opens with. A message that does not satisfy them is to be treated as if it
/// had not come: acknowledge it or, of a queue, give it up, so that it becomes a dead letter.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// Keys one of which must have signed; `None` asks for no signature.
    pub verify: Option<PublicKeys>,
    /// Keys to open with; `None` leaves payloads as they are.
    pub open: Option<SealingKeys>,
}

impl Checks {
    /// Verifies and opens a message as demanded, and says who signed it. One that fails is left as it came.
    ///
    /// # Errors
    /// [`SealError`]: the first demand it does not satisfy.
    pub fn check(&self, message: &mut Incoming) -> Result<Option<KeyId>, SealError> {
        let signer = self.verify.as_ref().map(|keys| message.verify(keys)).transpose()?;
        if let Some(keys) = &self.open {
            message.open(keys)?;
        }
        Ok(signer)
    }
}
