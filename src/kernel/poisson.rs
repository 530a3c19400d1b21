//! Poisson counts by the hundred million: tables of ready-made distributions, one for each level of expectation.
//!
//! A scan that is written at the speed of a disk needs a count every few nanoseconds, for which no general method is
//! fast enough. So expectations are rounded to 256 levels, equally spaced in their square root (hence in units of the
//! count's own standard deviation), and each level has an alias table (Walker 1977, Vose 1991): one random number
//! chooses a column, the rest of it decides between the column's two values. The rounding is done once for each
//! expectation, up or down at random, so that on average it changes nothing; what it adds to the noise is at most half
//! a level's step, [`step_sigma`](PoissonTables::step_sigma).
//!
//! Random numbers are a hash of a key and a counter (`SplitMix64`): any count can be drawn again alone, in any order, on
//! any thread.

/// Levels of expectation.
const LEVELS: usize = 256;
/// Standard deviations on either side of the mean that a table holds; beyond lies less than 1e-12.
const REACH: f64 = 8.0;
/// Values added above that, for small means, whose tail is longer.
const TAIL: f64 = 12.0;

/// The increment of `SplitMix64`, 2⁶⁴ divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A well mixed 64-bit number from any other: the finaliser of `SplitMix64`. A bijection.
pub fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key of a stream of random numbers: one for each `index` of each `seed`.
pub fn stream_key(seed: u64, index: u64) -> u64 {
    mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(index.wrapping_mul(GOLDEN)).wrapping_add(1))
}

/// Number `counter` of the stream with this key, uniform over all 64-bit numbers.
pub fn random(key: u64, counter: u64) -> u64 {
    mix(key.wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// Where one level's table lies.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// First entry; there are `2^(32 - shift)`.
    start: u32,
    /// A random 32-bit number shifted right by this is a column.
    shift: u8,
    /// The count of column 0.
    base: u16,
}

/// Alias tables for 256 expectations between 0 and a ceiling. Threads may share them.
#[derive(Debug, Clone)]
pub struct PoissonTables {
    ceiling: f64,
    /// Expectation of each level.
    means: Vec<f64>,
    levels: Vec<Level>,
    /// Upper 16 bits: the part (of 2¹⁶) of a column that is its own value; lower 16 bits: the column of the rest.
    entries: Vec<u32>,
}

impl PoissonTables {
    /// Tables for expectations from 0 to `ceiling` counts; counts end at 65535.
    ///
    /// # Panics
    /// When the ceiling is not a positive finite number.
    pub fn new(ceiling: f64) -> Self {
        assert!(ceiling.is_finite() && ceiling > 0.0, "a ceiling of {ceiling} counts");
        let place = |level: usize| level as f64 / (LEVELS - 1) as f64;
        Self::of(ceiling, (0..LEVELS).map(|level| ceiling * place(level).powi(2)).collect())
    }

    /// The table for one expectation alone, as level 0.
    ///
    /// # Panics
    /// When it is not a positive finite number.
    pub fn single(mean: f64) -> Self {
        assert!(mean.is_finite() && mean > 0.0, "an expectation of {mean} counts");
        Self::of(mean, vec![mean])
    }

    fn of(ceiling: f64, means: Vec<f64>) -> Self {
        let (mut levels, mut entries) = (Vec::with_capacity(means.len()), Vec::new());
        for &mean in &means {
            let (base, weights) = distribution(mean);
            let columns = weights.len().next_power_of_two().max(2);
            let start = entries.len() as u32;
            levels.push(Level { start, shift: (32 - columns.trailing_zeros()) as u8, base });
            entries.extend(alias(&weights, columns));
        }
        Self { ceiling, means, levels, entries }
    }

    /// The expectation of a level in counts.
    pub fn mean(&self, level: u8) -> f64 {
        self.means[usize::from(level)]
    }

    /// Distance of neighbouring levels in standard deviations of a count.
    pub fn step_sigma(&self) -> f64 {
        2.0 * self.ceiling.sqrt() / (LEVELS - 1) as f64
    }

    /// The level for an expectation (clamped to the ceiling): the one below or the one above, so that the mean over
    /// uniform `random` numbers is the expectation itself. What is not positive is nothing.
    pub fn level(&self, expected: f64, random: u64) -> u8 {
        let expected = expected.max(0.0).min(self.ceiling);
        let place = (expected / self.ceiling).sqrt() * (LEVELS - 1) as f64;
        let below = (place as usize).min(LEVELS - 2) as u8;
        let (low, high) = (self.mean(below), self.mean(below + 1));
        let part = (expected - low) / (high - low);
        // The upper 53 bits are a number in [0, 1).
        let dice = (random >> 11) as f64 / (1u64 << 53) as f64;
        below + u8::from(dice < part)
    }

    /// One count of a level, from 32 random bits.
    #[inline(always)]
    fn draw(&self, level: u8, random: u32) -> u16 {
        let Level { start, shift, base } = self.levels[usize::from(level)];
        let column = random >> shift;
        let entry = self.entries[(start + column) as usize];
        let column = if random & 0xFFFF < entry >> 16 { column } else { entry & 0xFFFF };
        base + column as u16
    }

    /// Draws a count for each level into `out` as big-endian bytes, from random numbers `first`, `first + 1` … of the
    /// stream; two counts share one. Gives the counter behind the last one.
    ///
    /// # Panics
    /// When `out` does not have two bytes for each level.
    pub fn fill_be(&self, levels: &[u8], key: u64, first: u64, out: &mut [u8]) -> u64 {
        assert_eq!(out.len(), 2 * levels.len(), "two bytes for each count");
        let mut counter = first;
        let (pairs, rest) = levels.as_chunks::<2>();
        let (four, last) = out.split_at_mut(4 * pairs.len());
        for (&[a, b], slot) in pairs.iter().zip(four.as_chunks_mut::<4>().0) {
            let dice = random(key, counter);
            let [a, b] = [self.draw(a, dice as u32), self.draw(b, (dice >> 32) as u32)].map(u16::to_be_bytes);
            *slot = [a[0], a[1], b[0], b[1]];
            counter += 1;
        }
        if let (&[level], [high, low]) = (rest, last) {
            [*high, *low] = self.draw(level, random(key, counter) as u32).to_be_bytes();
            counter += 1;
        }
        counter
    }
}

/// The first count and the probabilities of it and the following ones.
fn distribution(mean: f64) -> (u16, Vec<f64>) {
    if mean <= 0.0 {
        return (0, vec![1.0]);
    }
    let reach = REACH * mean.sqrt();
    let most = f64::from(u16::MAX);
    let low = (mean - reach).floor().max(0.0).min(most) as usize;
    let high = (mean + reach + TAIL).ceil().min(most) as usize;
    // From the largest one to both sides, so that nothing underflows; then to a sum of 1.
    let mode = (mean.floor() as usize).clamp(low, high);
    let mut weights = vec![0.0; high - low + 1];
    weights[mode - low] = 1.0;
    for k in mode + 1..=high {
        weights[k - low] = weights[k - 1 - low] * mean / k as f64;
    }
    for k in (low..mode).rev() {
        weights[k - low] = weights[k + 1 - low] * (k + 1) as f64 / mean;
    }
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    (low as u16, weights)
}

/// Vose's alias table of `columns` columns: pairs one column that has too little with one that has too much, until
/// every column holds two values and the same probability as all others.
fn alias(weights: &[f64], columns: usize) -> Vec<u32> {
    let mut share: Vec<f64> = weights.iter().map(|w| w * columns as f64).collect();
    share.resize(columns, 0.0);
    let mut entries = vec![0u32; columns];
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..columns).partition(|&c| share[c] < 1.0);
    while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
        let own = (share[poor] * 65536.0).round().min(65535.0) as u32;
        entries[poor] = own << 16 | rich as u32;
        share[rich] -= 1.0 - share[poor];
        if share[rich] < 1.0 {
            large.pop();
            small.push(rich);
        }
    }
    // What rounding left over is as good as full.
    for full in small.into_iter().chain(large) {
        entries[full] = 0xFFFF << 16 | full as u32;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The probability of every count, by the definition `m^k e^-m / k!`.
    fn naive(mean: f64, count: usize) -> f64 {
        let log: f64 = (1..=count).map(|k| (mean / k as f64).ln()).sum();
        (log - mean).exp()
    }

    /// The probability with which the tables give every count.
    fn tabulated(tables: &PoissonTables, level: u8) -> Vec<f64> {
        let Level { start, shift, base } = tables.levels[usize::from(level)];
        let columns = 1usize << (32 - shift);
        let mut found = vec![0.0; usize::from(base) + columns];
        for column in 0..columns {
            let entry = tables.entries[start as usize + column];
            let own = f64::from(entry >> 16) / 65536.0;
            found[usize::from(base) + column] += own / columns as f64;
            found[usize::from(base) + (entry & 0xFFFF) as usize] += (1.0 - own) / columns as f64;
        }
        found
    }

    #[test]
    fn tables_hold_the_distribution_to_the_precision_of_their_entries() {
        for ceiling in [0.3, 40.0, 900.0] {
            let tables = PoissonTables::new(ceiling);
            for level in [0, 1, 17, 90, 200, 255] {
                let found = tabulated(&tables, level);
                let mean = tables.mean(level);
                let worst = found.iter().enumerate().map(|(k, p)| (p - naive(mean, k)).abs()).fold(0.0, f64::max);
                // Every column that sends its rest to a count may be wrong by half a unit of 2⁻¹⁶.
                assert!(worst < 0.6 / 65536.0 + 1e-9, "level {level} of {ceiling}: {worst}");
            }
        }
    }

    #[test]
    fn the_largest_counts_have_tables_too() {
        let tables = PoissonTables::new(65535.0 * 4.0);
        assert!(tables.mean(127) > 65e3 && tables.entries.len() < 4 << 20);
        let mut out = [0; 2];
        tables.fill_be(&[255], 3, 0, &mut out);
        assert_eq!(u16::from_be_bytes(out), u16::MAX);
    }

    #[test]
    fn counts_have_the_mean_and_the_variance_of_their_expectation() {
        let tables = PoissonTables::new(300.0);
        for expected in [0.02, 3.0, 117.0] {
            let n = 200_000;
            let levels: Vec<u8> = (0..n).map(|i| tables.level(expected, random(1, i))).collect();
            let mut bytes = vec![0; 2 * levels.len()];
            assert_eq!(tables.fill_be(&levels, stream_key(5, 9), 0, &mut bytes), n / 2);
            let counts: Vec<f64> = bytes.as_chunks::<2>().0.iter().map(|b| f64::from(u16::from_be_bytes(*b))).collect();
            let mean = counts.iter().sum::<f64>() / n as f64;
            let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / n as f64;
            // Five standard deviations of the mean; the rounding to levels adds a quarter of its step squared at most.
            let most = 1.0 + tables.step_sigma().powi(2) / 4.0;
            assert!((mean - expected).abs() < 5.0 * (expected / n as f64).sqrt(), "{mean} of {expected}");
            assert!((0.97..1.03 * most).contains(&(variance / expected)), "{variance} of {expected}");
        }
    }

    #[test]
    fn nothing_gives_nothing() {
        let tables = PoissonTables::new(10.0);
        assert_eq!([0.0, -1.0, f64::NAN].map(|e| tables.level(e, 0)), [0, 0, 0]);
        let mut out = [7; 6];
        tables.fill_be(&[0, 0, 0], 1, 0, &mut out);
        assert_eq!(out, [0; 6]);
    }

    proptest! {
        #[test]
        fn a_count_does_not_depend_on_what_is_drawn_with_it(
            levels in proptest::collection::vec(any::<u8>(), 2..40),
            key in any::<u64>(),
        ) {
            let tables = PoissonTables::new(50.0);
            let mut all = vec![0; 2 * levels.len()];
            tables.fill_be(&levels, key, 0, &mut all);
            for (i, &level) in levels.iter().enumerate() {
                let dice = random(key, i as u64 / 2) >> (32 * (i % 2));
                prop_assert_eq!(tables.draw(level, dice as u32).to_be_bytes(), &all[2 * i..2 * i + 2]);
            }
        }

        #[test]
        fn levels_bracket_their_expectation(expected in 0.0..100.0f64, dice in any::<u64>()) {
            let tables = PoissonTables::new(100.0);
            let level = tables.level(expected, dice);
            let (below, above) = (tables.mean(level.saturating_sub(1)), tables.mean(level.saturating_add(1)));
            prop_assert!(below <= expected + 1e-9 && expected <= above + 1e-9);
        }
    }
}
