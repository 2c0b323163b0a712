//! redb's file format, as much as is needed to read a file that redb itself refuses. Pure, and total: any bytes give a value.
//!
//! The release is pinned in `Cargo.toml`; its design document describes the format (version 3). Nothing here is trusted
//! before its checksum was found right: a slot carries its own, a page's is held by whatever points to it.

use std::ops::Range;
use twox_hash::XxHash3_128;

/// Size of the smallest page, in bytes.
pub(super) const PAGE_BYTES: u64 = 4_096;
/// Header and both commit slots, in bytes.
pub(super) const HEADER_BYTES: usize = 320;
/// Pages of a region as redb makes them, for a header that does not say it any more.
const REGION_PAGES: u32 = 1 << 20;
const SLOTS_AT: [usize; 2] = [64, 192];
const SLOT_BYTES: usize = 128;
const CHECKSUM_BYTES: usize = 16;
/// A pointer to a tree: page, checksum and number of pairs.
const ROOT_BYTES: usize = 8 + CHECKSUM_BYTES + 8;
const FORMAT: u8 = 3;
const NORMAL_TABLE: u8 = 3;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// The checksum of a page or slot.
pub(super) fn checksum(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A page and the checksum it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    page: u64,
    pub(super) checksum: u128,
}

impl Child {
    fn read(bytes: &[u8], page_at: usize, checksum_at: usize) -> Option<Self> {
        Some(Self { page: u64_at(bytes, page_at)?, checksum: u128_at(bytes, checksum_at)? })
    }

    /// Where the page is in the file.
    pub(super) fn place(&self, geometry: &Geometry) -> Range<u64> {
        let order = self.page >> 59;
        let index = self.page & (0xF_FFFF >> order);
        let region = (self.page >> 20) & 0xF_FFFF;
        // At most 2^20 regions of 2^21 pages and an index of 2^20 smallest pages: below 2^54.
        let pages = 1
            + region * (u64::from(geometry.header_pages) + u64::from(geometry.data_pages))
            + u64::from(geometry.header_pages)
            + (index << order);
        pages * PAGE_BYTES..(pages + (1 << order)) * PAGE_BYTES
    }
}

/// How the file is cut into regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    header_pages: u32,
    data_pages: u32,
}

impl Geometry {
    /// As redb makes it.
    pub(super) const USUAL: Self = Self { header_pages: 0, data_pages: REGION_PAGES };

    /// As the header says; `None` when it cannot be so.
    pub(super) fn read(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (header_pages, data_pages) = (u32_at(header, 16)?, u32_at(header, 20)?);
        (header_pages <= REGION_PAGES && (1..=REGION_PAGES).contains(&data_pages))
            .then_some(Self { header_pages, data_pages })
    }
}

/// A commit slot whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Its transaction.
    pub(super) transaction: u64,
    /// The tree of tables; `None` when there are none.
    pub(super) root: Option<Child>,
}

/// Both slots; `None` for one that is damaged or of another format.
pub(super) fn slots(header: &[u8; HEADER_BYTES]) -> [Option<Slot>; 2] {
    SLOTS_AT.map(|at| {
        let slot = header.get(at..at + SLOT_BYTES)?;
        let sum_at = SLOT_BYTES - CHECKSUM_BYTES;
        if u128_at(slot, sum_at)? != checksum(&slot[..sum_at]) || slot[0] != FORMAT {
            return None;
        }
        let root = if slot[1] == 0 { None } else { Some(Child::read(slot, 8, 16)?) };
        Some(Slot { transaction: u64_at(slot, sum_at - 8)?, root })
    })
}

/// The root of a table of bytes to bytes, from its definition; `None` when it is another kind of table.
#[allow(clippy::option_option, reason = "a table without pairs has no root")]
pub(super) fn table_root(definition: &[u8]) -> Option<Option<Child>> {
    const ROOT_AT: usize = 10;
    const WIDTHS_AT: usize = ROOT_AT + ROOT_BYTES;
    let fixed = [definition.get(WIDTHS_AT)?, definition.get(WIDTHS_AT + 5)?];
    if definition[0] != NORMAL_TABLE || fixed != [&0, &0] {
        return None;
    }
    if definition[ROOT_AT - 1] == 0 {
        return Some(None);
    }
    Child::read(definition, ROOT_AT, ROOT_AT + 8).map(Some)
}

/// How many bytes of a page at its beginning say how many are in use; `None` when it is no page of a tree. At most
/// 2 MiB.
pub(super) fn index_bytes(page: &[u8]) -> Option<usize> {
    let count = usize::from(u16_at(page, 2)?);
    match *page.first()? {
        _ if count == 0 => None,
        LEAF => Some(4 + 8 * count),
        BRANCH => Some(8 + (CHECKSUM_BYTES + 8) * (count + 1) + 4 * count),
        _ => None,
    }
}

/// Bytes of a page that are in use and which its checksum covers; `page` has [`index_bytes`].
pub(super) fn used_bytes(page: &[u8]) -> Option<usize> {
    let index = index_bytes(page)?;
    let end = u32_at(page, index.checked_sub(4)?)? as usize;
    (end >= index).then_some(end)
}

/// A page of a tree whose keys and values are of any length.
pub(super) enum Node<'a> {
    /// Pairs.
    Leaf(Leaf<'a>),
    /// Further pages, in the order of their keys.
    Branch(Vec<Child>),
}

impl<'a> Node<'a> {
    /// Reads what is in use of a page.
    pub(super) fn read(page: &'a [u8]) -> Option<Self> {
        let count = usize::from(u16_at(page, 2)?);
        if index_bytes(page)? > page.len() {
            return None;
        }
        if page[0] == LEAF {
            return Some(Self::Leaf(Leaf { page, count }));
        }
        let pages_at = 8 + CHECKSUM_BYTES * (count + 1);
        let children = (0..=count).map(|n| Child::read(page, pages_at + 8 * n, 8 + CHECKSUM_BYTES * n));
        children.collect::<Option<_>>().map(Self::Branch)
    }
}

/// A page of pairs.
#[derive(Clone, Copy)]
pub(super) struct Leaf<'a> {
    page: &'a [u8],
    count: usize,
}

impl<'a> Leaf<'a> {
    /// How many pairs there should be.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// The n-th pair; `None` when it lies outside of the page.
    pub(super) fn pair(&self, n: usize) -> Option<(&'a [u8], &'a [u8])> {
        let end = |at: usize| u32_at(self.page, 4 + 4 * at).map(|end| end as usize);
        if n >= self.count {
            return None;
        }
        let key_start = if n == 0 { 4 + 8 * self.count } else { end(n - 1)? };
        // The values follow the last key, and their ends follow those of the keys.
        let value_start = end(self.count + n - 1)?;
        Some((self.page.get(key_start..end(n)?)?, self.page.get(value_start..end(self.count + n)?)?))
    }
}
