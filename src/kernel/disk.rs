//! The bright-field disk: its centre and radius in the mean diffraction pattern.
//!
//! First guess: the largest connected region above Otsu's threshold of the median-filtered pattern (which a hot pixel
//! cannot move; dead rows and columns are left out). Then a least-squares fit of a disk with a soft edge,
//! `background + height / (1 + exp((r - radius) / softness))`, to the pixels around the edge, by Levenberg–Marquardt.
//! The edge, not the content, decides: structure inside the disk would pull a centre of mass.

mod levels;

use ndarray::Array2;

use self::levels::{median3, middle, missing, otsu};
use crate::axes::Image;

/// A bright-field disk in detector pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disk {
    /// Row of the centre.
    pub row: f64,
    /// Column of the centre.
    pub col: f64,
    /// Radius at half height.
    pub radius: f64,
    /// Height of the disk above the background, in units of the fit's residual: how sure the fit is.
    pub contrast: f64,
}

/// What the user already knows about the disk; those values are kept fixed in the fit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct KnownDisk {
    /// Centre `[row, col]`.
    pub center: Option<[f64; 2]>,
    /// Radius.
    pub radius: Option<f64>,
}

/// How well a disk is to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// As well as the pattern says.
    Full,
    /// To some hundredths of a pixel, in less than half of the time.
    Rough,
}

impl Care {
    /// How often pixels around the edge are chosen, and the part of the residual squares below which a step is the last.
    fn effort(self) -> (usize, f64) {
        match self {
            Self::Full => (2, 1e-12),
            Self::Rough => (1, 1e-4),
        }
    }
}

/// Rows and columns of which a rough look needs no more.
const ENOUGH: usize = 128;
/// Radius, in the pixels that are looked at, of a disk whose edge is none below it.
const SMALLEST: f64 = 4.0;

/// Fits the disk in `pattern` (`[det row, det col]`, any unit). `None` when there is nothing like a disk.
pub fn find(pattern: &Image, known: KnownDisk, care: Care) -> Option<Disk> {
    if let (Some([row, col]), Some(radius)) = (known.center, known.radius) {
        return Some(Disk { row, col, radius, contrast: f64::INFINITY });
    }
    let by = pattern.nrows().min(pattern.ncols()) / ENOUGH;
    if care == Care::Rough && by > 1 {
        let seen = find_in(&binned(pattern, by), known.binned(by), care);
        if let Some(disk) = seen.filter(|disk| disk.radius >= SMALLEST) {
            let of = |place: f64| (place + 0.5) * by as f64 - 0.5;
            return Some(Disk { row: of(disk.row), col: of(disk.col), radius: disk.radius * by as f64, ..disk });
        }
    }
    find_in(pattern, known, care)
}

impl KnownDisk {
    /// In pixels of `by` × `by`.
    fn binned(self, by: usize) -> Self {
        let of = |place: f64| (place + 0.5) / by as f64 - 0.5;
        Self { center: self.center.map(|center| center.map(of)), radius: self.radius.map(|radius| radius / by as f64) }
    }
}

/// Means of `by` × `by` pixels; what is left at the far edges is left out.
fn binned(pattern: &Image, by: usize) -> Image {
    let (rows, cols) = (pattern.nrows() / by, pattern.ncols() / by);
    let mut means = Image::zeros((rows, cols));
    for (row, mut means) in means.rows_mut().into_iter().enumerate() {
        for line in row * by..(row + 1) * by {
            let line = pattern.row(line);
            for (mean, part) in means.iter_mut().zip(line.exact_chunks(by)) {
                *mean += part.sum();
            }
        }
    }
    means / (by * by) as f64
}

/// As [`find`], in the pattern as it is.
fn find_in(pattern: &Image, known: KnownDisk, care: Care) -> Option<Disk> {
    let missing = missing(pattern);
    let smooth = median3(pattern, &missing);
    let guess = first_guess(&smooth)?;
    let [row, col] = known.center.unwrap_or([guess.row, guess.col]);
    let start = Disk { row, col, radius: known.radius.unwrap_or(guess.radius), contrast: 0.0 };
    let free = [known.center.is_none(), known.center.is_none(), known.radius.is_none(), true, true, true];
    let disk = fit_edge(&smooth, &missing, start, (free, care))?;
    let (rows, cols) = pattern.dim();
    let inside = (-0.5..rows as f64 - 0.5).contains(&disk.row) && (-0.5..cols as f64 - 0.5).contains(&disk.col);
    let plausible = disk.radius >= 0.75 && disk.radius <= (rows as f64).hypot(cols as f64);
    (inside && plausible && disk.contrast > 2.0).then_some(disk)
}

fn first_guess(pattern: &Image) -> Option<Disk> {
    let level = otsu(pattern)?;
    let (rows, cols) = pattern.dim();
    let mut seen = vec![false; rows * cols];
    let (mut best_area, mut best) = (0usize, None);
    for start in 0..rows * cols {
        if seen[start] || pattern[[start / cols, start % cols]] <= level {
            continue;
        }
        let (mut area, mut sum_r, mut sum_c) = (0usize, 0usize, 0usize);
        let mut open = vec![start];
        seen[start] = true;
        while let Some(at) = open.pop() {
            let (r, c) = (at / cols, at % cols);
            area += 1;
            sum_r += r;
            sum_c += c;
            let mut visit = |r: usize, c: usize| {
                let index = r * cols + c;
                if !seen[index] && pattern[[r, c]] > level {
                    seen[index] = true;
                    open.push(index);
                }
            };
            if r > 0 {
                visit(r - 1, c);
            }
            if r + 1 < rows {
                visit(r + 1, c);
            }
            if c > 0 {
                visit(r, c - 1);
            }
            if c + 1 < cols {
                visit(r, c + 1);
            }
        }
        if area > best_area {
            best_area = area;
            let n = area as f64;
            let radius = (n / std::f64::consts::PI).sqrt();
            best = Some(Disk { row: sum_r as f64 / n, col: sum_c as f64 / n, radius, contrast: 0.0 });
        }
    }
    best
}

/// Length of a vector of detector pixels; `hypot` would take care of numbers that no detector has, and several times as
/// long.
fn distance(rows: f64, cols: f64) -> f64 {
    (rows * rows + cols * cols).sqrt()
}

/// The model's six parameters: row, col, radius, log of the softness, background, height.
type Parameters = [f64; 6];

/// The model at one pixel, and its gradient in the parameters. `softness` is that of the parameters, not its logarithm:
/// the same for all pixels.
#[inline]
fn model(p: &Parameters, softness: f64, r: f64, c: f64) -> (f64, Parameters) {
    let (dr, dc) = (r - p[0], c - p[1]);
    let distance = distance(dr, dc).max(1e-9);
    let t = (distance - p[2]) / softness;
    let edge = 1.0 / (1.0 + t.clamp(-500.0, 500.0).exp());
    let slope = -edge * (1.0 - edge) / softness;
    let gradient = [
        -p[5] * slope * dr / distance,
        -p[5] * slope * dc / distance,
        -p[5] * slope,
        -p[5] * slope * t * softness,
        1.0,
        edge,
    ];
    (p[4] + p[5] * edge, gradient)
}

fn fit_edge(pattern: &Image, missing: &Array2<bool>, start: Disk, (free, care): ([bool; 6], Care)) -> Option<Disk> {
    let (mut lo, mut hi) = (Vec::new(), Vec::new());
    for ((r, c), &v) in pattern.indexed_iter() {
        let distance = distance(r as f64 - start.row, c as f64 - start.col);
        if distance < start.radius { hi.push(v) } else { lo.push(v) }
    }
    let inside = middle(&mut hi)?;
    let outside = middle(&mut lo).unwrap_or(0.0);
    let mut p: Parameters = [start.row, start.col, start.radius, 0.5f64.ln(), outside, inside - outside];
    // With full care the annulus is chosen again once, around the improved disk.
    let mut residual = f64::INFINITY;
    let (rounds, enough) = care.effort();
    for _ in 0..rounds {
        let reach = (0.5 * p[2]).max(3.0);
        // Not all pixels of a large detector need to be looked at.
        let near = |center: f64, len: usize| {
            let (low, high) = (center - p[2] - reach, center + p[2] + reach);
            (low.max(0.0) as usize).min(len)..((high.max(0.0) as usize).saturating_add(1)).min(len)
        };
        let (rows, cols) = (near(p[0], pattern.nrows()), near(p[1], pattern.ncols()));
        let pixels: Vec<(f64, f64, f64)> = rows
            .flat_map(|r| cols.clone().map(move |c| (r, c)))
            .filter(|at| !missing[*at])
            .map(|(r, c)| (r as f64, c as f64, pattern[[r, c]]))
            .filter(|&(r, c, v)| (distance(r - p[0], c - p[1]) - p[2]).abs() <= reach && v.is_finite())
            .collect();
        if pixels.len() < 8 {
            return None;
        }
        residual = levenberg_marquardt(&mut p, free, &pixels, enough);
    }
    let contrast = if residual > 0.0 { p[5] / residual } else { f64::INFINITY };
    p.iter().all(|v| v.is_finite()).then_some(Disk { row: p[0], col: p[1], radius: p[2], contrast })
}

/// The sum of squared residuals, and the normal equations of a step from there.
struct Normals {
    cost: f64,
    matrix: [[f64; 6]; 6],
    right: [f64; 6],
}

impl Normals {
    fn of(p: &Parameters, pixels: &[(f64, f64, f64)]) -> Self {
        let softness = p[3].exp();
        let mut sums = Self { cost: 0.0, matrix: [[0.0; 6]; 6], right: [0.0; 6] };
        for &(r, c, v) in pixels {
            let (value, gradient) = model(p, softness, r, c);
            let residual = v - value;
            sums.cost += residual * residual;
            for i in 0..6 {
                sums.right[i] += gradient[i] * residual;
                for j in i..6 {
                    sums.matrix[i][j] += gradient[i] * gradient[j];
                }
            }
        }
        let upper = sums.matrix;
        for (i, row) in sums.matrix.iter_mut().enumerate() {
            row[..i].iter_mut().zip(&upper).for_each(|(lower, column)| *lower = column[i]);
        }
        sums
    }

    /// The step of the free parameters that these equations suggest.
    fn step(&self, free: [bool; 6], damping: f64) -> Option<Parameters> {
        let (mut matrix, mut right) = (self.matrix, self.right);
        for i in 0..6 {
            matrix[i][i] = matrix[i][i] * (1.0 + damping) + 1e-300;
            if !free[i] {
                matrix[i] = std::array::from_fn(|j| f64::from(u8::from(i == j)));
                right[i] = 0.0;
            }
        }
        solve(matrix, right)
    }
}

/// Minimises the sum of squared residuals until a step takes less than the part `enough` of it away; returns their root mean
/// square.
fn levenberg_marquardt(p: &mut Parameters, free: [bool; 6], pixels: &[(f64, f64, f64)], enough: f64) -> f64 {
    let mut damping = 1e-3;
    let mut now = Normals::of(p, pixels);
    for _ in 0..60 {
        let Some(step) = now.step(free, damping) else { break };
        let mut next = *p;
        next.iter_mut().zip(step).zip(free).filter(|(_, free)| *free).for_each(|((x, s), _)| *x += s);
        // Softness between a twentieth of a pixel and the radius keeps the model a disk.
        next[3] = next[3].clamp(0.05f64.ln(), next[2].max(0.1).ln());
        next[2] = next[2].max(0.1);
        // Most steps are taken: the next one's equations cost little more than knowing how good this one is.
        let after = Normals::of(&next, pixels);
        if after.cost < now.cost {
            let done = now.cost - after.cost < enough * now.cost;
            (*p, now, damping) = (next, after, damping * 0.3);
            if done {
                break;
            }
        } else {
            damping *= 5.0;
            if damping > 1e9 {
                break;
            }
        }
    }
    (now.cost / pixels.len() as f64).sqrt()
}

/// Gaussian elimination with partial pivoting.
fn solve(mut a: [[f64; 6]; 6], mut b: [f64; 6]) -> Option<[f64; 6]> {
    for i in 0..6 {
        let pivot = (i..6).max_by(|&x, &y| a[x][i].abs().total_cmp(&a[y][i].abs()))?;
        a.swap(i, pivot);
        b.swap(i, pivot);
        if a[i][i] == 0.0 || !a[i][i].is_finite() {
            return None;
        }
        for k in i + 1..6 {
            let factor = a[k][i] / a[i][i];
            let row = a[i];
            a[k].iter_mut().zip(row).skip(i).for_each(|(x, y)| *x -= factor * y);
            b[k] -= factor * b[i];
        }
    }
    for i in (0..6).rev() {
        let rest: f64 = (i + 1..6).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - rest) / a[i][i];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Axis;
    use proptest::prelude::*;

    fn soft_disk(rows: usize, cols: usize, row: f64, col: f64, radius: f64) -> Image {
        Image::from_shape_fn((rows, cols), |(r, c)| {
            let edge = (radius - (r as f64 - row).hypot(c as f64 - col) + 0.5).clamp(0.0, 1.0);
            // Structure inside the disk and a scattered background that falls off.
            let structure = 1.0 + 0.08 * (0.7 * r as f64).sin() * (0.4 * c as f64).cos();
            3.0 + 5.0 / (1.0 + (r as f64 - row).hypot(c as f64 - col) / radius) + 100.0 * edge * structure
        })
    }

    proptest! {
        #[test]
        fn a_planted_disk_is_found(row in 20.0..28f64, col in 24.0..36f64, radius in 6.0..16f64) {
            let disk = find(&soft_disk(48, 60, row, col, radius), KnownDisk::default(), Care::Full).expect("a disk");
            prop_assert!((disk.row - row).abs() < 0.1 && (disk.col - col).abs() < 0.1, "{:?}", disk);
            prop_assert!((disk.radius - radius).abs() < 0.3, "{:?} {}", disk, radius);
        }

        #[test]
        fn a_rough_look_sees_the_same(
            row in 20.0..28f64, col in 24.0..36f64, radius in 6.0..16f64, fine in prop::sample::select(vec![1usize, 6]),
            known in 0..3,
        ) {
            // Finer pixels are looked at several at a time.
            let scale = fine as f64;
            let (row, col, radius) = (row * scale, col * scale, radius * scale);
            let pattern = soft_disk(48 * fine, 60 * fine + fine / 2, row, col, radius);
            let known = KnownDisk {
                center: (known == 1).then_some([row, col]),
                radius: (known == 2).then_some(radius),
            };
            let [full, rough] = [Care::Full, Care::Rough].map(|care| find(&pattern, known, care));
            let (full, rough) = (full.expect("a disk"), rough.expect("a disk"));
            for (full, rough) in [(full.row, rough.row), (full.col, rough.col), (full.radius, rough.radius)] {
                prop_assert!((full - rough).abs() < 0.03, "{} {}", full, rough);
            }
        }
    }

    #[test]
    fn a_hot_pixel_does_not_move_the_disk() {
        let mut pattern = soft_disk(48, 48, 23.0, 24.5, 12.0);
        pattern[[3, 3]] = 1e7;
        pattern[[20, 30]] = 1e7;
        let disk = find(&pattern, KnownDisk::default(), Care::Full).expect("a disk");
        assert!((disk.row - 23.0).abs() < 0.1 && (disk.col - 24.5).abs() < 0.1 && (disk.radius - 12.0).abs() < 0.3);
    }

    proptest! {
        #[test]
        fn hot_pixels_and_dead_rows_do_not_move_the_disk(
            row in 20.0..28f64, col in 24.0..36f64, radius in 6.0..16f64, lines in 1usize..3, offset in -0.9..0.9f64,
            upright in any::<bool>(), hot in prop::array::uniform2((0usize..48, 0usize..60)), factor in 10.0..1e5f64,
        ) {
            let mut pattern = soft_disk(48, 60, row, col, radius);
            for at in hot {
                pattern[at] *= factor;
            }
            for (line, axis) in (0..lines).zip([usize::from(upright); 2]) {
                let center = if upright { col } else { row };
                let dead = (center + offset * radius) as usize + line;
                pattern.index_axis_mut(Axis(axis), dead).fill(0.0);
            }
            let disk = find(&pattern, KnownDisk::default(), Care::Full).expect("a disk");
            prop_assert!((disk.row - row).abs() < 0.25 && (disk.col - col).abs() < 0.25, "{:?}", disk);
            prop_assert!((disk.radius - radius).abs() < 0.4, "{:?} {}", disk, radius);
        }
    }

    #[test]
    fn no_disk_is_found_where_there_is_none() {
        assert_eq!(find(&Image::zeros((32, 32)), KnownDisk::default(), Care::Full), None);
        assert_eq!(find(&Image::from_elem((32, 32), 5.0), KnownDisk::default(), Care::Full), None);
    }

    #[test]
    fn what_the_user_knows_stays() {
        let pattern = soft_disk(48, 48, 23.0, 24.5, 12.0);
        let known = KnownDisk { center: Some([23.2, 24.4]), radius: None };
        let disk = find(&pattern, known, Care::Full).expect("a disk");
        assert_eq!((disk.row, disk.col), (23.2, 24.4));
        assert!((disk.radius - 12.0).abs() < 0.4, "{disk:?}");
        let both = KnownDisk { center: Some([1.0, 2.0]), radius: Some(3.0) };
        assert_eq!(find(&Image::zeros((8, 8)), both, Care::Full).map(|d| d.radius), Some(3.0));
    }
}
