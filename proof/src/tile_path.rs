//! Tiles and entry bundles: their paths, and what they are made of (C2SP tlog-tiles).

use std::fmt;

use crate::tree::TILE_WIDTH;

/// How a number is written in a path: three digits an element.
const BASE: u64 = 1000;
/// Levels go up to this one in paths, and no further than 7 in any tree.
const TOP_LEVEL: u8 = 63;
/// No path of a number of 64 bits is longer.
const LONGEST: usize = 64;

/// Which tile is meant by `<L>/<N>[.p/<W>]`, or which bundle by `entries/<N>[.p/<W>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TilePath {
    /// The level of a tile; nothing for a bundle of entries, which has the places of level 0.
    pub level: Option<u8>,
    /// Its place in the level, from 0: it begins at the hash or entry `index * 256`.
    pub index: u64,
    /// How many hashes or entries it has: 256, or fewer where it is the last.
    pub width: u16,
}

impl TilePath {
    /// Reads what follows `/tile/`. There is one way to write each; any other is none.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > LONGEST {
            return None;
        }
        let (level, rest) = path.split_once('/')?;
        let level = if level == "entries" { None } else { Some(level.parse().ok()?) };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok()?),
            None => (rest, TILE_WIDTH as u16),
        };
        let index = number.split('/').try_fold(0_u64, |index, element| {
            let digits: u64 = element.strip_prefix('x').unwrap_or(element).parse().ok()?;
            index.checked_mul(BASE)?.checked_add(digits)
        })?;
        let tile = Self { level, index, width };
        let is_there = level.unwrap_or(0) <= TOP_LEVEL && (1..=TILE_WIDTH as u16).contains(&width);
        (is_there && tile.to_string() == path).then_some(tile)
    }

    /// Whether it is full, so that it never changes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// How many leaves a tree must have for this to be in it; nothing where no tree has so many.
    #[must_use]
    pub fn needs(&self) -> Option<u64> {
        let hashes = self.index.checked_mul(TILE_WIDTH)?.checked_add(u64::from(self.width))?;
        let leaves = TILE_WIDTH.checked_pow(u32::from(self.level.unwrap_or(0)))?;
        hashes.checked_mul(leaves)
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "{level}/")?,
            None => f.write_str("entries/")?,
        }
        let mut above = Vec::new();
        let mut left = self.index / BASE;
        while left > 0 {
            above.push(left % BASE);
            left /= BASE;
        }
        for element in above.iter().rev() {
            write!(f, "x{element:03}/")?;
        }
        write!(f, "{:03}", self.index % BASE)?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// A bundle of entries: each leaf's canonical bytes after their length in two bytes. A leaf is never
/// longer than these can say ([`MAX_LEAF`](crate::MAX_LEAF)).
#[must_use]
pub fn entry_bundle(leaves: &[Vec<u8>]) -> Vec<u8> {
    let mut bundle = Vec::with_capacity(leaves.iter().map(|leaf| leaf.len() + 2).sum());
    for leaf in leaves {
        let length = u16::try_from(leaf.len()).unwrap_or(u16::MAX);
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend(leaf.iter().take(usize::from(length)));
    }
    bundle
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tile(level: u8, index: u64, width: u16) -> TilePath {
        TilePath { level: Some(level), index, width }
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        let entries = TilePath { level: None, index: 273, width: 112 };
        for (path, tile) in [
            ("0/000", tile(0, 0, 256)),
            ("0/x001/x234/067", tile(0, 1_234_067, 256)),
            ("2/000.p/1", tile(2, 0, 1)),
            ("63/999.p/255", tile(63, 999, 255)),
            ("0/x001/000", tile(0, 1_000, 256)),
            ("entries/273.p/112", entries),
        ] {
            assert_eq!(TilePath::parse(path), Some(tile), "{path}");
            assert_eq!(tile.to_string(), path);
        }
        for path in [
            "",
            "0",
            "0/",
            "0/0",
            "0/0000",
            "00/000",
            "64/000",
            "-1/000",
            "+1/000",
            "x/000",
            "data/000",
            "0/001/000",
            "0/x000/000",
            "0/x001/x000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "0/000.p",
            "0/000/",
            "/0/000",
            "0/+01",
            "0/xx01",
            "0/x018/x446/x744/x073/x709/x551/616",
            "Entries/000",
        ] {
            assert_eq!(TilePath::parse(path), None, "{path}");
        }
    }

    /// The tree of 70,000 leaves that the specification describes.
    #[test]
    fn a_tile_is_in_the_trees_that_are_large_enough() {
        let has = |tile: TilePath| tile.needs().is_some_and(|leaves| leaves <= 70_000);
        for (there, beyond) in [
            (tile(0, 273, 112), tile(0, 273, 113)),
            (tile(0, 272, 256), tile(0, 273, 256)),
            (tile(1, 0, 256), tile(1, 1, 256)),
            (tile(1, 1, 17), tile(1, 1, 18)),
            (tile(2, 0, 1), tile(2, 0, 2)),
        ] {
            assert!(has(there) && !has(beyond), "{there} {beyond}");
        }
        assert_eq!(tile(8, 0, 1).needs(), None);
        assert_eq!(tile(0, u64::MAX, 1).needs(), None);
    }

    #[test]
    fn a_bundle_has_each_entry_after_its_length() {
        let bundle = entry_bundle(&[b"one".to_vec(), Vec::new(), vec![7; 300]]);
        assert_eq!(bundle[..7], *b"\0\x03one\0\0");
        assert_eq!(bundle[7..9], [1, 44]);
        assert_eq!(bundle[9..], [7; 300]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(level in 0..=63_u8, index: u64, width in 1..=256_u16) {
            let path = tile(level, index, width);
            prop_assert_eq!(TilePath::parse(&path.to_string()), Some(path));
            // The port of Go writes the height too.
            let theirs = tlog_tiles::Tile::new(8, level, index, u32::from(width), false).path();
            prop_assert_eq!(format!("tile/8/{path}"), theirs);
        }

        #[test]
        fn nothing_is_read_that_would_be_written_otherwise(path in "[0-9a-z./+-]{0,20}|[0-9]/(x[0-9]{3}/){0,2}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = TilePath::parse(&path) {
                prop_assert_eq!(tile.to_string(), path);
            }
        }
    }
}
