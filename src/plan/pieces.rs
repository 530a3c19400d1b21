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
    /// For frames with samples of `sample` bytes that become `stored` bytes.
    pub fn of(det: DetShape, sample: usize, stored: usize) -> Self {
        let line = CACHE_LINE / stored;
        let row_bytes = (det.cols * sample).max(1);
        let frames = (PIECE_BYTES / (row_bytes * det.rows.max(1)) / line * line).max(line);
        Self { frames, rows: (PIECE_BYTES / (frames * row_bytes)).clamp(1, det.rows.max(1)) }
    }

    /// Bytes that a piece may take as it lies in a file, whose frames are `frame_bytes` long: the first detector rows come
    /// with what lies before them.
    pub fn bytes(self, det: DetShape, sample: usize, frame_bytes: usize) -> usize {
        let row_bytes = det.cols * sample;
        self.frames * (frame_bytes.saturating_sub(det.rows * row_bytes) + self.rows * row_bytes)
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
            let pieces = Pieces::of(det, sample, stored);
            let Pieces { frames, rows } = pieces;
            assert!(
                (frames * stored).is_multiple_of(CACHE_LINE) && (1..=side).contains(&rows),
                "{det}: {frames} frames, {rows} rows"
            );
            let bytes = frames * rows * side * sample;
            assert!(bytes <= PIECE_BYTES || rows == 1 && frames * stored == CACHE_LINE, "{det}: {bytes}");
            assert_eq!(pieces.bytes(det, sample, side * side * sample + 384), bytes + frames * 384);
        }
    }
}
