//! Keys, tokens, passwords, certificates' names and users of this machine to principals: who somebody is, and nothing else.
//!
//! An edge room: it reads files, at [`Authenticator::load`] and nowhere later. Time is an argument, and so is randomness. What
//! a principal may do is not decided here.
//!
//! Tokens are verified here, on ring, and not by a library: those that there are read the machine's clock themselves, install
//! their cryptography for the whole process, and panic where nobody did. What is left of a library without these is base64 and
//! a serde struct.

mod authenticator;

pub mod edit;
mod error;
mod file;
pub mod identities;
pub mod keys;
pub mod name;
pub mod password;
pub mod secret;
pub mod token;
pub mod utc;

pub use authenticator::{Authenticator, files};
pub use error::AuthError;
pub use secret::{Secret, SecretError};

#[cfg(test)]
mod tests;
