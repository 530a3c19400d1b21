//! Which images of a stack on disk are fetched before they are asked for.
//!
//! The steps go through the detector pixels in order, several workers at once, each in a part of its own; some look at a
//! few pixels far apart. The system sees pages in many files and cannot guess either. So the first pixel of a row of
//! requests is fetched alone with its neighbour, and a second one near it starts a read-ahead.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Bytes that are fetched ahead at once, over all slabs.
const AHEAD_BYTES: usize = 8 << 20;
/// Rows of requests that are told apart; more than there are workers.
const STREAMS: usize = 64;
/// Pixels that may be skipped within one row of requests.
const GAP: usize = 4;

/// Remembers what was announced. Any number of threads may ask.
#[derive(Debug)]
pub(super) struct ReadAhead {
    pixels: usize,
    group: usize,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    /// Pixels that were announced to each row of requests.
    announced: Vec<Range<usize>>,
    /// The one that is forgotten next.
    oldest: usize,
}

impl ReadAhead {
    /// For a stack of so many images of so many bytes.
    pub(super) fn new(pixels: usize, image_bytes: usize) -> Self {
        let group = (AHEAD_BYTES / image_bytes.max(1)).clamp(2, pixels.max(2));
        Self { pixels, group, streams: Mutex::default() }
    }

    /// The pixels to announce when this one is asked for.
    pub(super) fn of(&self, pixel: usize) -> Option<Range<usize>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let near = |r: &&mut Range<usize>| r.start <= pixel && pixel < r.end + GAP;
        if let Some(stream) = streams.announced.iter_mut().find(near) {
            // Early enough that the disk is done before the worker comes there.
            let first = pixel == stream.start;
            if first || pixel + self.group / 2 < stream.end || stream.end >= self.pixels {
                return None;
            }
            let more = stream.end.max(pixel)..(stream.end.max(pixel) + self.group).min(self.pixels);
            // What lies behind may be asked for again in another pass.
            *stream = pixel..more.end;
            return Some(more);
        }
        let alone = pixel..(pixel + 2).min(self.pixels);
        if streams.announced.len() < STREAMS {
            streams.announced.push(alone.clone());
        } else {
            let oldest = streams.oldest;
            streams.announced[oldest] = alone.clone();
            streams.oldest = (oldest + 1) % STREAMS;
        }
        Some(alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes through these pixels and returns what was announced: how much in all, and whether everything was that was
    /// asked for, before it was.
    fn through(ahead: &ReadAhead, pixels: impl Iterator<Item = usize>) -> (usize, bool) {
        let (mut total, mut seen, mut all) = (0, std::collections::BTreeSet::new(), true);
        for pixel in pixels {
            if let Some(range) = ahead.of(pixel) {
                total += range.len();
                seen.extend(range);
            }
            all &= seen.contains(&pixel);
        }
        (total, all)
    }

    #[test]
    fn images_in_order_are_announced_once_and_in_time() {
        let ahead = ReadAhead::new(1000, 1 << 20);
        assert_eq!(through(&ahead, 0..1000), (1000, true));
        // A second pass, after the first was forgotten.
        let again = ReadAhead::new(1000, 1 << 20);
        let (total, all) = through(&again, (0..1000).step_by(2));
        assert!(all && total <= 1000, "{total}");
    }

    #[test]
    fn two_workers_do_not_disturb_each_other() {
        let ahead = ReadAhead::new(1000, 1 << 20);
        let both = (0..500).flat_map(|i| [i, 500 + i]);
        let (total, all) = through(&ahead, both);
        assert!(all && total <= 1016, "{total}");
    }

    #[test]
    fn images_far_apart_are_fetched_alone() {
        let ahead = ReadAhead::new(4000, 1 << 20);
        assert_eq!(through(&ahead, (0..4000).step_by(40)), (200, true));
    }

    #[test]
    fn a_small_stack_is_announced_without_end() {
        let ahead = ReadAhead::new(1, 100);
        assert_eq!(ahead.of(0), Some(0..1));
        assert_eq!(ahead.of(0), None);
    }
}
