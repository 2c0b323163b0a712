//! Limits the system puts on the process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of files the process may have open to what it is allowed to; returns it, `None` being no limit.
pub fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let before = limit.current;
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit.current = before;
        }
    }
    limit.current
}

#[cfg(test)]
mod tests {
    #[test]
    fn raised_once_is_raised() {
        let first = super::raise_open_files();
        assert_eq!(super::raise_open_files(), first);
        assert!(first.is_none_or(|n| n >= 64));
    }
}
