//! The detector pixels on a lattice, and the phase factors `exp(i w·k)` there.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use num_complex::Complex;

use super::{Half, HalfSets, Run};

/// Numbers that are multiplied side by side.
pub(super) const LANES: usize = 8;

/// The detector pixels of both colours on a lattice whose step is half the spacing of a run.
#[derive(Debug, Default)]
pub(super) struct Lattice {
    origin: [f64; 2],
    pub(super) step: f64,
    /// Rows, and places of one kind along a row, whole blocks of them.
    rows: usize,
    places: usize,
    pub(super) columns: [Vec<Columns>; 2],
}

/// Neighbouring columns of the detector, those of even or those of odd places along a row, and the runs that reach them.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) odd: bool,
    /// The first of them.
    pub(super) first: usize,
    pub(super) pieces: Vec<Piece>,
}

/// Part of a run: a block of lanes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) run: usize,
    /// The run's row on the lattice, and from the disk's centre.
    pub(super) line: usize,
    pub(super) row: f32,
    /// The block's first lane from the run's first pixel; other runs' pixels may lie before it and behind it.
    pub(super) from: i32,
    /// Its place in a spectrum that has a block of lanes before it.
    pub(super) start: usize,
}

impl Lattice {
    pub(super) fn of(halves: &[Half; 2], spacing: f64) -> Self {
        let step = 0.5 * spacing;
        let runs = || halves.iter().flat_map(|h| &h.runs);
        let least = |of: fn(&Run) -> f64| runs().map(of).fold(f64::INFINITY, f64::min);
        let origin = [least(|r| r.row), least(|r| r.col)];
        let place = |at: f64, axis: usize| ((at - origin[axis]) / step).round() as usize;
        let rows = runs().map(|r| place(r.row, 0) + 1).max().unwrap_or(0);
        let places = runs().map(|r| place(r.col, 1) / 2 + r.len).max().unwrap_or(0).next_multiple_of(LANES);
        let columns = halves.each_ref().map(|half| {
            let blocks = [false, true].into_iter().flat_map(|odd| (0..places).step_by(LANES).map(move |at| (odd, at)));
            let columns = blocks.map(|(odd, first)| {
                let reaching = half.runs.iter().enumerate().filter_map(|(index, run)| {
                    let col = place(run.col, 1);
                    let from = first as i32 - (col / 2) as i32;
                    let reaches = (col % 2 == 1) == odd && from > -(LANES as i32) && from < run.len as i32;
                    let start = (run.start + LANES).wrapping_add_signed(from as isize);
                    let line = place(run.row, 0);
                    reaches.then_some(Piece { run: index, line, row: run.row as f32, from, start })
                });
                Columns { odd, first, pieces: reaching.collect() }
            });
            columns.filter(|columns| !columns.pieces.is_empty()).collect()
        });
        Self { origin, step, rows, places, columns }
    }

    /// Column of a place along a row, from the disk's centre.
    #[inline(always)]
    pub(super) fn column(&self, odd: bool, place: usize) -> f64 {
        self.origin[1] + self.step * (2 * place + usize::from(odd)) as f64
    }
}

/// `exp(i w·k)` on the lattice: all rows share the columns' factors, and all columns the rows'.
pub(super) struct Phases<'a> {
    pub(super) lattice: &'a Lattice,
    pub(super) rows: [Vec<f64>; 2],
    /// Every other place along a row, from its beginning.
    along: [Vec<f64>; 2],
    /// Real and imaginary parts for even and for odd places along a row.
    pub(super) cols: [[Vec<f32>; 2]; 2],
}

impl<'a> Phases<'a> {
    pub(super) fn of(sets: &'a HalfSets) -> Self {
        let lattice = &sets.lattice;
        let wide = |n: usize| [vec![0.0; n], vec![0.0; n]];
        let cols = || [vec![0.0; lattice.places], vec![0.0; lattice.places]];
        Self { lattice, rows: wide(lattice.rows), along: wide(lattice.places), cols: [cols(), cols()] }
    }

    #[inline(always)]
    pub(super) fn fill(&mut self, w: [f64; 2]) {
        let Lattice { origin, step, .. } = self.lattice;
        powers(&mut self.rows, w[0] * origin[0], w[0] * step);
        powers(&mut self.along, w[1] * origin[1], 2.0 * w[1] * step);
        let (sin, cos) = (w[1] * step).sin_cos();
        let n = self.along[0].len();
        let [from_re, from_im] = self.along.each_ref().map(|part| &part[..n]);
        let [[even_re, even_im], [odd_re, odd_im]] =
            self.cols.each_mut().map(|cols| cols.each_mut().map(|c| &mut c[..n]));
        for i in 0..n {
            let (re, im) = (from_re[i], from_im[i]);
            (even_re[i], even_im[i]) = (re as f32, im as f32);
            (odd_re[i], odd_im[i]) = ((re * cos - im * sin) as f32, (re * sin + im * cos) as f32);
        }
    }
}

/// `exp(i (start + j turn))` for each place `j`. What is there is copied with one more turn, so that the parts double and
/// fill the lanes.
#[inline(always)]
fn powers([re, im]: &mut [Vec<f64>; 2], start: f64, turn: f64) {
    let n = re.len();
    if n == 0 {
        return;
    }
    (im[0], re[0]) = start.sin_cos();
    let mut step = Complex::cis(turn);
    let mut done = 1;
    while done < n {
        let more = done.min(n - done);
        let ((from_re, to_re), (from_im, to_im)) = (re.split_at_mut(done), im.split_at_mut(done));
        let (from_re, from_im) = (&from_re[..more], &from_im[..more]);
        let (to_re, to_im) = (&mut to_re[..more], &mut to_im[..more]);
        for i in 0..more {
            to_re[i] = from_re[i] * step.re - from_im[i] * step.im;
            to_im[i] = from_re[i] * step.im + from_im[i] * step.re;
        }
        step *= step;
        done += more;
    }
}
