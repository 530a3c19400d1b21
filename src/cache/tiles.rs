//! Sets of tile numbers, stored as ranges.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of tiles of a known number of tiles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TileSet {
    done: Vec<bool>,
}

impl TileSet {
    /// No tile of `count`.
    pub fn empty(count: usize) -> Self {
        Self { done: vec![false; count] }
    }

    /// How many tiles there are, in the set or not.
    pub fn count(&self) -> usize {
        self.done.len()
    }

    /// How many tiles are in the set.
    pub fn len(&self) -> usize {
        self.done.iter().filter(|&&d| d).count()
    }

    /// Whether no tile is in the set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all tiles are in the set.
    pub fn is_full(&self) -> bool {
        self.done.iter().all(|&d| d)
    }

    /// Whether this tile is in the set; numbers beyond the count are not.
    pub fn contains(&self, tile: usize) -> bool {
        self.done.get(tile).copied().unwrap_or(false)
    }

    /// Adds a tile.
    ///
    /// # Panics
    /// When the number is not below the count.
    pub fn insert(&mut self, tile: usize) {
        self.done[tile] = true;
    }
}

/// On disk: the count and the ranges `[first, end)` that are in the set.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ranges {
    count: usize,
    ranges: Vec<[usize; 2]>,
}

impl Serialize for TileSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ranges: Vec<[usize; 2]> = Vec::new();
        for (i, _) in self.done.iter().enumerate().filter(|(_, done)| **done) {
            match ranges.last_mut() {
                Some(range) if range[1] == i => range[1] = i + 1,
                _ => ranges.push([i, i + 1]),
            }
        }
        Ranges { count: self.done.len(), ranges }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TileSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const MOST: usize = 1 << 26;
        let Ranges { count, ranges } = Ranges::deserialize(deserializer)?;
        if count > MOST || ranges.iter().any(|&[a, b]| a > b || b > count) {
            return Err(serde::de::Error::custom("a tile range lies outside the tile count"));
        }
        let mut set = Self::empty(count);
        for [a, b] in ranges {
            set.done[a..b].fill(true);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_survives_the_disk(done in prop::collection::vec(any::<bool>(), 0..60)) {
            let set = TileSet { done };
            let text = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<TileSet>(&text).unwrap(), set);
        }
    }

    #[test]
    fn ranges_outside_the_count_are_refused() {
        assert!(serde_json::from_str::<TileSet>(r#"{"count": 3, "ranges": [[1, 4]]}"#).is_err());
        assert!(serde_json::from_str::<TileSet>(r#"{"count": 99999999999, "ranges": []}"#).is_err());
    }
}
