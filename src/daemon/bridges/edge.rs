//! Who this broker is to its upstreams: a name that no other has, and that it never changes because of an error.
//!
//! What a hub has it tells by this name. Under another one everything would be sent again, and places of old would be nobody's:
//! so no bridge starts before the name is known, and the rest of the broker does not wait for it.

use crate::model::Mono;
use crate::model::limits::NAME_BYTES_MAX;
use crate::runtime::errands::{Desk, Errands, Kind};
use crate::runtime::reactor::Timer;
use crate::runtime::{clock, identity};
use ring::digest::{SHA256, digest};
use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

/// Bytes of a name that tells this broker from others, as hexadecimal digits and a hyphen.
const SUFFIX_BYTES: usize = 9;
/// What could not be read is read again after this, in milliseconds.
const RETRY_MS: u64 = 5_000;
/// And the log says so this often, in milliseconds.
const SAY_EVERY_MS: u64 = 60_000;

/// The ids of the machine and of the data folder, or why they cannot be told.
type Ids = Result<(String, String), String>;

/// Finds out who this broker is.
pub(super) struct Edge {
    folder: PathBuf,
    ids: Desk<(), Ids>,
    known: OnceCell<String>,
    said: Cell<Option<Mono>>,
    retry_ms: u64,
}

/// Blocks as files do.
fn look(folder: &Path) -> Ids {
    let machine = identity::machine().map_err(|error| error.to_string())?;
    let own = identity::folder(folder).map_err(|error| error.to_string())?;
    Ok((machine.unwrap_or_default(), own))
}

impl Edge {
    /// Of the broker with this data folder.
    pub(super) fn new(folder: &Path, errands: &Errands) -> Self {
        let ids = Desk::new(errands, Kind::Files, 0);
        Self { folder: folder.into(), ids, known: OnceCell::new(), said: Cell::new(None), retry_ms: RETRY_MS }
    }

    /// The name, made of the configured one the first time: waits until what it is made of can be read. Each time that it cannot
    /// be, `tell` hears why, and after how many milliseconds it is tried again.
    pub(super) async fn name(&self, configured: &str, tell: &dyn Fn(&str, u64)) -> String {
        loop {
            if let Some(name) = self.known.get() {
                return name.clone();
            }
            let folder = self.folder.clone();
            let found = match self.ids.ask((), move || look(&folder)).await {
                Ok(found) => found,
                Err(error) => Err(format!("the system gives no thread: {error}")),
            };
            match found {
                Ok((machine, own)) => {
                    return self.known.get_or_init(|| join_name(configured, &machine, &own)).clone();
                }
                Err(why) => {
                    self.say(&why);
                    tell(&format!("who this broker is cannot be read: {why}"), self.retry_ms);
                }
            }
            Timer::after_ms(self.retry_ms).await;
        }
    }

    fn say(&self, why: &str) {
        let now = clock::mono();
        if self.said.get().is_none_or(|at| now.ms_since(at) >= SAY_EVERY_MS) {
            self.said.set(Some(now));
            log::error!("bridges do not start, as who this broker is cannot be read; it is tried again: {why}");
        }
    }
}

/// A name that no other broker has: the configured one, and a digest of the machine's id and the data folder's. Boxes made of
/// one image have the one or the other of their own.
fn join_name(name: &str, machine: &str, own: &str) -> String {
    let hash = digest(&SHA256, format!("{machine}\n{own}").as_bytes());
    let suffix: String = hash.as_ref().iter().take(SUFFIX_BYTES / 2).map(|byte| format!("{byte:02x}")).collect();
    let mut end = name.len().min(NAME_BYTES_MAX - SUFFIX_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{suffix}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::reactor::block_on;
    use std::fs;

    #[test]
    fn the_edge_of_a_cloned_image_or_of_a_second_folder_has_another_name() {
        let name = join_name("pump-7", "a", "b");
        assert_eq!(name, join_name("pump-7", "a", "b"));
        assert!(name.starts_with("pump-7-") && name.len() == "pump-7-".len() + 8, "{name}");
        for (machine, own) in [("", "b"), ("a", ""), ("c", "b"), ("a", "c"), ("ab", "")] {
            assert_ne!(join_name("pump-7", machine, own), name);
        }
        let long = join_name(&"ä".repeat(100), "a", "b");
        assert!(long.len() <= NAME_BYTES_MAX && long.len() > NAME_BYTES_MAX - 3, "{long}");
    }

    #[test]
    fn an_edge_keeps_its_name_over_an_identity_that_cannot_be_read_for_a_while() {
        let place = tempfile::tempdir().expect("a folder");
        let edge = || Edge { retry_ms: 1, ..Edge::new(place.path(), &Errands::default()) };
        let quiet = |why: &str, _| panic!("{why}");
        let name = block_on(edge().name("pump-7", &quiet)).expect("a reactor");
        let path = place.path().join(identity::FILE);
        let id = fs::read(&path).expect("made");
        // At the next start it is damaged, then something that is no file, then itself again.
        fs::write(&path, "damaged").expect("written");
        let told = Cell::new(0);
        let tell = |why: &str, retry_ms| {
            assert!(why.contains(identity::FILE) && retry_ms == 1, "{why}");
            told.set(told.get() + 1);
            match told.get() {
                1 => {
                    assert_eq!(fs::read(&path).expect("kept"), b"damaged");
                    fs::remove_file(&path).expect("removed");
                    fs::create_dir(&path).expect("in its place");
                }
                2 => {
                    assert!(path.is_dir(), "kept");
                    fs::remove_dir(&path).expect("removed");
                    fs::write(&path, &id).expect("put back");
                }
                _ => panic!("{why}"),
            }
        };
        let edge = edge();
        assert_eq!(block_on(edge.name("pump-7", &tell)).expect("a reactor"), name);
        assert_eq!(told.get(), 2);
        // Known for good, whatever it is called later.
        assert_eq!(block_on(edge.name("renamed", &quiet)).expect("a reactor"), name);
    }
}
