//! Axes with round numbers.

use super::tone::number;

/// A range of numbers along one side of a plot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

/// A place on an axis, 0 its beginning to 1 its end, and what is written there.
pub(super) type Tick = (f64, String);

impl Scale {
    /// From `low` to `high`; about `low` where that is no range.
    pub(super) fn linear(low: f64, high: f64) -> Self {
        let (low, high) = match (low.is_finite(), high.is_finite()) {
            (true, true) if high > low && (high - low).is_finite() => (low, high),
            (true, _) if low.abs() < 1e300 => (low - 0.5 * low.abs().max(1.0), low + 0.5 * low.abs().max(1.0)),
            _ => (0.0, 1.0),
        };
        Self { low, high, log: false }
    }

    /// Equal steps for equal factors, from `low` to `high` (both above zero), at least one factor of ten.
    pub(super) fn log(low: f64, high: f64) -> Self {
        let usable = |v: f64| v.is_finite() && v > 0.0;
        let (low, high) = if usable(low) && usable(high) { (low.log10(), high.log10()) } else { (-1.0, 0.0) };
        let middle = 0.5 * (low + high);
        let (low, high) = if high >= low + 1.0 { (low, high) } else { (middle - 0.5, middle + 0.5) };
        Self { low, high, log: true }
    }

    /// Where `value` lies: 0 at the beginning, 1 at the end, beyond either outside.
    pub(super) fn position(self, value: f64) -> f64 {
        let value = if self.log { if value > 0.0 { value.log10() } else { f64::NAN } } else { value };
        (value - self.low) / (self.high - self.low)
    }

    /// Round numbers within the range, at most `most` (but two where that is fewer).
    pub(super) fn ticks(self, most: usize) -> Vec<Tick> {
        let least = if self.log { 1.0 } else { 0.0 };
        let step = round_step((self.high - self.low) / most.max(2) as f64).max(least);
        let step = if self.log { step.ceil() } else { step };
        let (first, last) = ((self.low / step - 1e-9).ceil(), (self.high / step + 1e-9).floor());
        let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        (0..=(last - first).clamp(0.0, 50.0) as usize)
            .map(|i| (first + i as f64) * step)
            .filter(|value| *value >= self.low - 1e-9 * step && *value <= self.high + 1e-9 * step)
            .map(|value| {
                let text = if self.log {
                    power_of_ten(value)
                } else if (1e-4..1e6).contains(&step) {
                    // No minus sign before a zero.
                    format!("{:.digits$}", value + 0.0)
                } else {
                    number(value)
                };
                ((value - self.low) / (self.high - self.low), text)
            })
            .collect()
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * decade).find(|&s| s >= least * (1.0 - 1e-9)).unwrap_or(decade)
}

fn power_of_ten(exponent: f64) -> String {
    if (-2.0..=3.0).contains(&exponent) { number(10f64.powf(exponent)) } else { format!("1e{exponent:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: Scale, most: usize) -> Vec<String> {
        scale.ticks(most).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers_at_their_places() {
        assert_eq!(texts(Scale::linear(0.0, 0.47), 5), ["0.0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!(texts(Scale::linear(-0.1, 1.0), 6), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(Scale::linear(0.0, 900.0), 4), ["0", "500"]);
        assert_eq!(texts(Scale::log(3e-4, 2e2), 10), ["1e-3", "0.01", "0.1", "1", "10", "100"]);
        let (at, text) = Scale::linear(0.0, 0.4).ticks(4)[1].clone();
        assert!((at - 0.25).abs() < 1e-12 && text == "0.1", "{at} {text}");
    }

    #[test]
    fn whatever_the_range_there_are_few_ticks_and_they_lie_on_the_axis() {
        let odd = [0.0, -1.0, 1e-300, 1e300, -1e300, f64::NAN, f64::INFINITY, f64::MAX, f64::MIN, 5e-324, 1e-7, 3.0];
        for low in odd {
            for high in odd {
                for scale in [Scale::linear(low, high), Scale::log(low, high)] {
                    let ticks = scale.ticks(6);
                    assert!(ticks.len() <= 8, "{low} {high}: {ticks:?}");
                    assert!(ticks.iter().all(|(at, _)| (-1e-6..=1.000_001).contains(at)), "{low} {high}: {ticks:?}");
                }
            }
        }
    }
}
