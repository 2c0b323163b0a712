//! Exit codes, stable: what a script may rely on; and the one error type that carries them.

use crate::client::ClientError;
use crate::daemon::ServeError;
use crate::store::StoreError;
use crate::wire::Code;
use std::io;
use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed, for a reason without a number of its own.
    Failure = 1,
    /// The arguments are wrong.
    Usage = 2,
    /// The broker cannot be reached.
    Connect = 3,
    /// The broker, or who was asked, said no.
    Refused = 4,
    /// Time is over.
    Timeout = 5,
    /// The configuration is invalid.
    Config = 6,
    /// The store is damaged, locked, or from a newer release.
    Store = 7,
    /// The broker does not know who this is.
    Login = 8,
    /// Stopped by a signal.
    Interrupted = 130,
}

/// The table in `--help`.
pub(super) const TABLE: &str = "Exit codes:
  0    done
  1    failed
  2    wrong arguments
  3    cannot connect to the broker
  4    refused: the broker said no
  5    timed out
  6    the configuration is invalid
  7    the store is damaged, locked or from a newer release
  8    not let in: credentials are missing, refused or have ended
  130  interrupted

Example:
  tidegate serve &
  tidegate pub site/boiler/temp 71.5
  tidegate consume main --as dashboard --count 1";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: the exit code, and a sentence that says what to do. An empty one says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    /// The exit code.
    pub exit: Exit,
    /// The sentence.
    pub message: String,
}

impl CliError {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(super) fn failure(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Credentials(_) => Exit::Login,
            ClientError::Refused(refusal)
                if matches!(
                    refusal.code,
                    Some(Code::AuthFailed | Code::CredentialsExpired | Code::TooManyAttempts)
                ) =>
            {
                Exit::Login
            }
            ClientError::Connect(..) | ClientError::Tls(..) => Exit::Connect,
            ClientError::Refused(refusal) if refusal.code == Some(Code::DeadlineExceeded) => Exit::Timeout,
            ClientError::Refused(_) => Exit::Refused,
            ClientError::TimedOut => Exit::Timeout,
            ClientError::Address(_) | ClientError::Channel(_) | ClientError::Filter(_) | ClientError::Record(_) => {
                Exit::Usage
            }
            ClientError::Disconnected(_)
            | ClientError::Link(_)
            | ClientError::Closed
            | ClientError::Compression(_)
            | ClientError::Seal(_)
            | ClientError::Entropy
            | ClientError::TooLarge(..) => Exit::Failure,
        };
        let hint = match exit {
            Exit::Login => {
                " (--token-file, --key-file, --user with --password-file, a certificate, or the Unix socket)"
            }
            _ => "",
        };
        Self::new(exit, format!("{error}{hint}"))
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::Damaged(_) | StoreError::Gone(_) | StoreError::Locked(_) | StoreError::Newer(..) => Exit::Store,
            StoreError::Full(_) | StoreError::Io(_) => Exit::Failure,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Store(error) => error.into(),
            error @ (ServeError::Identities(_) | ServeError::Tls(_)) => Self::new(Exit::Config, error.to_string()),
            other => Self::failure(other.to_string()),
        }
    }
}

impl From<io::Error> for CliError {
    /// Of what a command prints: a reader that has gone, such as `head`, is no failure.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::failure(format!("cannot write the output: {error}"))
    }
}
