//! How blocks of frames are cut for the corner turn.

use crate::axes::DetShape;
use crate::memory::CACHE_LINE;

/// Bytes of frames that are summed and turned together: they stay in a core's own cache meanwhile.
const PIECE_BYTES: usize = 512 << 10;

/// How a block of frames is cut into pieces of half a MiB.
#[derive(Debug, Clone, Copy)]
pub struct Pieces {
    /// Frames in a piece: so many that they fill whole cache lines of a detector pixel.
    pub frames: usize,
    /// Detector rows in a piece: all of them, unless the frames that fill one cache line are too large already.
    pub rows: usize,
}

impl Pieces {
    /// For a block of `block` frames with samples of `sample` bytes that become `stored` bytes.
    pub fn of(det: DetShape, (sample, stored): (usize, usize), block: usize) -> Self {
        let line = CACHE_LINE / stored;
        let row_bytes = (det.cols * sample).max(1);
        let frames = (PIECE_BYTES / (row_bytes * det.rows.max(1)) / line * line).max(line).min(block.max(1));
        Self { frames, rows: (PIECE_BYTES / (frames * row_bytes)).clamp(1, det.rows.max(1)) }
    }

    /// Bytes that a piece of this block, or of a shorter one, may take as it lies in a file, whose frames are `frame_bytes`
    /// long: the first detector rows come with what lies before them.
    pub fn most_bytes(det: DetShape, samples: (usize, usize), block: usize, frame_bytes: usize) -> usize {
        let frames = Self::of(det, samples, block).frames;
        let row_bytes = det.cols * samples.0;
        let image_bytes = det.rows * row_bytes;
        // Fewer frames have more rows.
        PIECE_BYTES.max(frames * row_bytes).min(block * image_bytes) + frames * frame_bytes.saturating_sub(image_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_fill_cache_lines_and_stay_small_where_frames_let_them() {
        let shapes = [(1, 1), (16, 1), (64, 2), (128, 2), (256, 2), (256, 4), (1024, 8), (4096, 4)];
        for ((side, sample), stored) in shapes.into_iter().flat_map(|s| [(s, s.1), (s, 1)]) {
            let det = DetShape::new(side, side);
            let line = CACHE_LINE / stored;
            for block in [1, 7, 100, 4096] {
                let Pieces { frames, rows } = Pieces::of(det, (sample, stored), block);
                assert!(
                    (frames.is_multiple_of(line) || frames == block) && (1..=side).contains(&rows),
                    "{det}: {frames} frames, {rows} rows"
                );
                let bytes = frames * rows * side * sample;
                assert!(bytes <= PIECE_BYTES || rows == 1 && frames <= line, "{det}: {bytes}");
                let half = rows == side || 2 * bytes > PIECE_BYTES;
                assert!(half, "{det}, blocks of {block}: pieces of {bytes}");
                // Shorter blocks have room too.
                let most = Pieces::most_bytes(det, (sample, stored), block, side * side * sample + 384);
                for shorter in [1, block / 2 + 1, block] {
                    let Pieces { frames, rows } = Pieces::of(det, (sample, stored), shorter);
                    assert!(frames * (rows * side * sample + 384) <= most, "{det}, {shorter} of {block}");
                }
            }
        }
    }
}
