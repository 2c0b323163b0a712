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
