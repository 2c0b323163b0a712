//! Walks the trees of a damaged file and gives out the pairs that are certainly as they were written.
//!
//! A page counts only when whatever points to it holds its checksum, up to a slot of the header that holds its own, so
//! nothing stale comes back. What does not verify is left out with all below it, and counted. Memory: the pages on the
//! way from the root to one leaf, and a bit for each page of the file. No page of a tree is looked into twice, whatever the
//! bytes say, so the work is bounded by the file's length.

use super::format::used_bytes;
use super::format::{Child, Geometry, HEADER_BYTES, Node, PAGE_BYTES, Slot, checksum, index_bytes, slots, table_root};
use std::ops::ControlFlow;

/// Levels of a tree. Real ones have a handful.
const DEPTH_MAX: usize = 32;
/// Most bytes of a page: more than any message has. A page that says it is larger counts as damaged.
const NODE_BYTES_MAX: usize = 256 << 20;

/// Most bytes read at once.
const STEP_BYTES: usize = 1 << 20;

/// Bytes that can be read anywhere.
pub(in super::super) trait Source {
    /// Fills `out` from `at`; false when the file ends before, or cannot be read there.
    fn read(&self, at: u64, out: &mut [u8]) -> bool;
}

impl Source for &[u8] {
    fn read(&self, at: u64, out: &mut [u8]) -> bool {
        let found = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..out.len()));
        found.map(|found| out.copy_from_slice(found)).is_some()
    }
}

/// Takes a key and its value.
pub(super) type Visit<'a, E> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<E>;

/// A commit of a file, of which the tree of tables can be read at least in part.
pub(super) struct Walk<'a> {
    source: &'a dyn Source,
    geometry: Geometry,
    tables: Option<Child>,
    /// A bit for each page seen.
    seen: Vec<u64>,
    /// Pages that did not verify; what was below each is unknown.
    pub(super) broken: u64,
    /// Whether what is given out is the newest that was written, as far as can be told.
    pub(super) newest: bool,
}

impl<'a> Walk<'a> {
    /// Finds the newest commit whose tree of tables begins with a page that verifies; `None` when there is none.
    pub(super) fn begin(source: &'a dyn Source) -> Option<Self> {
        let mut header = [0; HEADER_BYTES];
        if !source.read(0, &mut header) {
            return None;
        }
        let mut slots = slots(&header);
        let whole = slots.iter().all(Option::is_some);
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.map(|s| s.transaction)));
        for (n, Slot { root, .. }) in slots.into_iter().flatten().enumerate() {
            for geometry in Geometry::read(&header).into_iter().chain([Geometry::USUAL]) {
                let newest = whole && n == 0;
                let mut walk = Self { source, geometry, tables: root, seen: Vec::new(), broken: 0, newest };
                if root.is_none_or(|root| walk.page(root).is_some()) {
                    walk.seen.clear();
                    return Some(walk);
                }
            }
        }
        None
    }

    /// Every pair of a table that verifies, in the order of their keys. A table that is not there has none.
    pub(super) fn table<E>(&mut self, name: &str, visit: Visit<'_, E>) -> ControlFlow<E> {
        let Some(tables) = self.tables else { return ControlFlow::Continue(()) };
        // The tree of tables is read anew for each, but what is wrong with it is counted once.
        let before = self.broken;
        let mut root = None;
        self.seen.clear();
        let _ = self.tree::<()>(tables, 0, &mut |key, definition| {
            if key == name.as_bytes() {
                root = Some(table_root(definition));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        match root {
            Some(Some(root)) => {
                self.broken = before;
                root.map_or(ControlFlow::Continue(()), |root| self.tree(root, 0, visit))
            }
            // Every store has every table, so it stood in what does not verify.
            _ => {
                self.broken = before + 1;
                ControlFlow::Continue(())
            }
        }
    }

    fn tree<E>(&mut self, at: Child, depth: usize, visit: Visit<'_, E>) -> ControlFlow<E> {
        let page = if depth < DEPTH_MAX { self.page(at) } else { None };
        let Some(node) = page.as_deref().and_then(Node::read) else {
            self.broken += 1;
            return ControlFlow::Continue(());
        };
        match node {
            Node::Leaf(leaf) => {
                for n in 0..leaf.len() {
                    match leaf.pair(n) {
                        Some((key, value)) => visit(key, value)?,
                        None => {
                            self.broken += 1;
                            break;
                        }
                    }
                }
            }
            Node::Branch(children) => {
                drop(page);
                for child in children {
                    self.tree(child, depth + 1, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// What is in use of a page, if it has the checksum it must have and was not seen before.
    fn page(&mut self, at: Child) -> Option<Vec<u8>> {
        let place = at.place(&self.geometry);
        let most = usize::try_from(place.end - place.start).unwrap_or(usize::MAX).min(NODE_BYTES_MAX);
        let mut bytes = Vec::new();
        // Read as far as each part says that the next one goes: nothing is allocated that is not there.
        self.read_to(&mut bytes, place.start, PAGE_BYTES as usize, most)?;
        let index = index_bytes(&bytes)?;
        self.read_to(&mut bytes, place.start, index, most)?;
        let used = used_bytes(&bytes)?;
        self.read_to(&mut bytes, place.start, used, most)?;
        bytes.truncate(used);
        (checksum(&bytes) == at.checksum && self.is_new(place.start / PAGE_BYTES)).then_some(bytes)
    }

    /// Makes `bytes` those from `start` on, at least `len` of them, in steps; `None` when they are not there.
    fn read_to(&self, bytes: &mut Vec<u8>, start: u64, len: usize, most: usize) -> Option<()> {
        let len = Some(len).filter(|len| *len <= most)?;
        while bytes.len() < len {
            let from = bytes.len();
            bytes.resize(len.min(from + STEP_BYTES), 0);
            self.source.read(start + from as u64, &mut bytes[from..]).then_some(())?;
        }
        Some(())
    }

    /// Marks a page as seen; false when it was. Pages that verify are in the file, so their numbers are bounded by it.
    fn is_new(&mut self, page: u64) -> bool {
        let Ok(word) = usize::try_from(page / 64) else { return false };
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1 << (page % 64);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::file::Disk;
    use super::super::super::redb::{BLOCKS, ROWS, RedbStore};
    use super::super::super::testing::{FaultyDisk, Lost};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

    /// A file with trees of several levels, large pages, and what older commits left.
    static FILE: LazyLock<(Vec<u8>, [Pairs; 2])> = LazyLock::new(|| {
        let mut rng = fastrand::Rng::with_seed(4);
        let disk = FaultyDisk::new();
        let store = RedbStore::open(&disk, "f", 1 << 20).unwrap().store;
        let mut known = [Pairs::new(), Pairs::new()];
        for _ in 0..30 {
            let txn = store.inner().db.begin_write().unwrap();
            for (known, (table, most)) in known.iter_mut().zip([(BLOCKS, 9_000), (ROWS, 60)]) {
                let mut table = txn.open_table(table).unwrap();
                for _ in 0..60 {
                    let key = [&[200], &rng.u16(..2_000).to_be_bytes()[..]].concat();
                    let value: Vec<u8> = (0..rng.usize(..most)).map(|_| rng.u8(..)).collect();
                    table.insert(&key[..], &value[..]).unwrap();
                    known.insert(key, value);
                }
            }
            txn.commit().unwrap();
        }
        drop(store);
        disk.power_on(Lost::None);
        assert_eq!(disk.names().unwrap(), ["f"]);
        (disk.bytes("f"), known)
    });

    type Found = Vec<(Vec<u8>, Vec<u8>)>;

    /// What is found, how many pages are broken, and whether it is the newest.
    fn read(bytes: &[u8]) -> Option<([Found; 2], u64, bool)> {
        let mut walk = Walk::begin(&bytes)?;
        let found = ["blocks", "rows"].map(|name| {
            let mut found = Vec::new();
            let flow = walk.table::<()>(name, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            });
            assert!(flow.is_continue());
            found
        });
        Some((found, walk.broken, walk.newest))
    }

    #[test]
    fn of_a_sound_file_every_pair_is_given_out_in_order() {
        let (bytes, known) = &*FILE;
        let (found, broken, newest) = read(bytes).unwrap();
        assert_eq!((broken, newest), (0, true));
        for (found, known) in found.into_iter().zip(known) {
            assert!(found.is_sorted());
            let found: Pairs = found.into_iter().filter(|(key, _)| key[0] == 200).collect();
            assert!(found == *known);
        }
    }

    #[test]
    fn nothing_is_a_file_too() {
        for len in [0, 1, 319, 320, 5_000] {
            assert!(read(&vec![0; len]).is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn whatever_is_damaged_only_what_was_written_is_given_out(
            spots in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, any::<u8>()), 1..12),
            cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            let (good, known) = &*FILE;
            let mut bytes = good.clone();
            for (at, kind, byte) in spots {
                let at = at.index(bytes.len());
                let end = (at + PAGE_BYTES as usize).min(bytes.len());
                match kind {
                    0 => bytes[at] ^= byte,
                    1 => bytes[at..end].fill(byte),
                    _ => bytes.copy_within(..end - at, at),
                }
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Some((found, broken, newest)) = read(&bytes) {
                for (found, known) in found.iter().zip(known) {
                    let (ours, theirs) = (found.iter().filter(|(key, _)| key[0] == 200), known);
                    prop_assert!(found.is_sorted_by(|a, b| a.0 < b.0), "each once");
                    let count = ours.clone().count();
                    // The commit before holds older values, and that is said.
                    prop_assert!(!newest || ours.clone().all(|(key, value)| theirs.get(key) == Some(value)));
                    prop_assert!(count == theirs.len() || broken > 0 || !newest, "what is missing is counted");
                }
            }
        }

        #[test]
        fn any_bytes_are_a_page_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3u8, count in 0..9u8) {
            if let Some(head) = bytes.first_chunk_mut::<4>() {
                *head = [kind, 0, count, 0];
            }
            let _ = used_bytes(&bytes);
            let _ = table_root(&bytes);
            match Node::read(&bytes) {
                Some(Node::Leaf(leaf)) => prop_assert!(leaf.pair(leaf.len()).is_none() && (0..leaf.len()).filter_map(|n| leaf.pair(n)).count() <= leaf.len()),
                Some(Node::Branch(children)) => {
                    for child in children {
                        let place = child.place(&Geometry::USUAL);
                        prop_assert!(place.start >= PAGE_BYTES && place.start < place.end);
                    }
                }
                None => {}
            }
        }
    }
}
