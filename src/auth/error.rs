//! What is wrong with the files that say who may come in: where, what was found, what was expected.

use crate::config::{Place, Problem};
use std::fmt;
use std::path::Path;

/// Every mistake found, in the order of the settings and of the lines. Displayed a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl AuthError {
    /// One mistake of a file; line 0 means the whole file.
    #[must_use]
    pub fn file(path: &Path, line: u32, message: impl Into<String>) -> Self {
        Self { problems: vec![problem(path, line, message.into())] }
    }
}

/// A mistake of a file; line 0 means the whole file.
pub(super) fn problem(path: &Path, line: u32, message: String) -> Problem {
    let file = path.display().to_string().into();
    Problem { place: Some(Place::File { file, line, column: 0 }), key: String::new(), message }
}

/// A mistake of a setting.
pub(super) fn setting(key: String, message: String) -> Problem {
    Problem { place: None, key, message }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for AuthError {}
