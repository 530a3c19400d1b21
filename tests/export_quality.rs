//! The drawings that tell how good an image is: arrows point the right way, lines lie where their numbers are, and
//! what is not there leaves no hole.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod export_common;

use std::path::Path;

use export_common::{Picture, run_of};
use stemstream::axes::{Calibration, Image, Plane};
use stemstream::cache::{Curve, Extra, Step};
use stemstream::export::{RunResults, contact_sheet, picture};

const CYAN: [u8; 3] = [70, 205, 235];
const AMBER: [u8; 3] = [240, 178, 70];
const GREEN: [u8; 3] = [150, 214, 120];
const RED: [u8; 3] = [255, 84, 84];
const BACKGROUND: [u8; 3] = [20, 21, 24];

/// A square run of which every pixel of the disk has no shift.
fn still() -> RunResults {
    let mut run = run_of(32, 32, 4);
    let none = run.no_shift();
    run.shift_y.fill(none[0]);
    run.shift_x.fill(none[1]);
    run
}

fn sheet(run: &RunResults) -> Picture {
    let dir = tempfile::tempdir().unwrap();
    Picture::read(&contact_sheet::write_contact_sheet(dir.path(), "a", run).unwrap())
}

fn plot(run: &RunResults) -> Picture {
    let dir = tempfile::tempdir().unwrap();
    let files = picture::write_pictures(dir.path(), "a", run).unwrap();
    Picture::read(files.iter().find(|f| f.ends_with(Path::new("a_frc.png"))).unwrap())
}

/// A ring correlation that is 1 up to half of the frequencies and 0 beyond.
fn frc(unit: &str, last: f64) -> Curve {
    let x: Vec<f64> = (0..=100).map(|i| last * f64::from(i) / 100.0).collect();
    let step: Vec<f64> = (0..=100).map(|i| f64::from(u8::from(i <= 50))).collect();
    Curve {
        name: "frc".into(),
        title: "Fourier ring correlation".into(),
        axis: ("spatial_frequency".into(), unit.into()),
        columns: vec![
            ("frc".into(), step),
            ("ssnr".into(), vec![1.0; 101]),
            ("half_bit".into(), x.iter().map(|x| 0.3 - 0.1 * x / last).collect()),
        ],
        x,
        step: Step::Reconstruct,
    }
}

fn extra(name: &str, plane: Plane, image: Image) -> (Extra, Image) {
    (Extra { name: name.into(), title: name.into(), units: String::new(), plane, step: Step::Shifts }, image)
}

fn residuals(run: &mut RunResults, value: f64) {
    let shape = run.shift_y.dim();
    for (name, v) in [("residual_y", value), ("residual_x", -value)] {
        run.extras.push(extra(name, Plane::Crop, Image::from_elem(shape, v)));
    }
}

/// Rows that hold at least `least` pixels of exactly this colour.
fn rows_of(picture: &Picture, color: [u8; 3], least: usize) -> Vec<usize> {
    (0..picture.height)
        .filter(|&y| (0..picture.width).filter(|&x| picture.at(x, y) == color).count() >= least)
        .collect()
}

fn cols_of(picture: &Picture, color: [u8; 3], least: usize) -> Vec<usize> {
    (0..picture.width)
        .filter(|&x| (0..picture.height).filter(|&y| picture.at(x, y) == color).count() >= least)
        .collect()
}

fn middle(places: &[usize]) -> f64 {
    assert!(!places.is_empty());
    places.iter().sum::<usize>() as f64 / places.len() as f64 + 0.5
}

#[test]
fn the_arrow_of_a_planted_shift_points_where_the_shift_does() {
    // One pixel keeps the scale the same in all sheets, another one is moved.
    let with = |dy: f64, dx: f64| {
        let mut run = still();
        run.shift_y[[1, 5]] += 2.0;
        run.shift_y[[4, 5]] += dy;
        run.shift_x[[4, 5]] += dx;
        sheet(&run)
    };
    let none = with(0.0, 0.0);
    for (dy, dx) in [(0.0, 1.9), (0.0, -1.9), (1.9, 0.0), (-1.9, 0.0)] {
        let moved = with(dy, dx);
        assert_eq!((moved.width, moved.height), (none.width, none.height));
        // The arrows are in the lowest row of the sheet, the shift maps in the highest.
        let changed: Vec<(usize, usize)> = (none.height / 2..none.height)
            .flat_map(|y| (0..none.width / 4).map(move |x| (x, y)))
            .filter(|&(x, y)| none.at(x, y) != moved.at(x, y))
            .collect();
        let xs: Vec<usize> = changed.iter().map(|p| p.0).collect();
        let ys: Vec<usize> = changed.iter().map(|p| p.1).collect();
        let size = |v: &[usize]| v.iter().max().unwrap() - v.iter().min().unwrap();
        let (along, across) = if dx == 0.0 { (size(&ys), size(&xs)) } else { (size(&xs), size(&ys)) };
        assert!(along > 2 * across, "{dy} {dx}: {along} along, {across} across");
        // The head, where the ink is broad, lies at the end.
        let broad = |places: &[usize], others: &[usize]| {
            let wide = |at: usize| places.iter().zip(others).filter(|(p, _)| **p == at).count();
            let (low, high) = (*places.iter().min().unwrap(), *places.iter().max().unwrap());
            let third = (high - low) / 3;
            let near = |from: usize, to: usize| (from..=to).map(wide).sum::<usize>();
            near(high - third, high) as f64 - near(low, low + third) as f64
        };
        let forward = if dx == 0.0 { broad(&ys, &xs) * dy } else { broad(&xs, &ys) * dx };
        assert!(forward > 0.0, "{dy} {dx}");
    }
}

#[test]
fn the_one_seventh_line_lies_at_one_seventh() {
    let mut run = still();
    run.curves.push(frc("1/Å", 0.5));
    let picture = plot(&run);
    let curve = rows_of(&picture, CYAN, 200);
    let (one, zero) = curve.iter().partition::<Vec<usize>, _>(|y| **y < picture.height / 2);
    let line = middle(&rows_of(&picture, GREEN, 200));
    let expected = middle(&zero) + (middle(&one) - middle(&zero)) / 7.0;
    assert!((line - expected).abs() <= 1.5, "{line} {expected}");
}

#[test]
fn resolutions_and_the_nyquist_frequency_are_marked_at_their_frequencies() {
    // In 1/Å with a resolution in Å, and in cycles per scan pixel with one in scan pixels: the same place.
    let angstrom = ("1/Å", 0.5, "resolution_half_bit_angstrom", 8.0);
    let pixels = ("cycles per scan pixel", 2.0, "resolution_half_bit", 2.0);
    for (unit, last, finding, length) in [angstrom, pixels] {
        let mut run = still();
        run.curves.push(frc(unit, last));
        run.findings.push((finding.into(), length));
        let picture = plot(&run);
        // The curve falls in the middle of the axis, the scan's Nyquist frequency is 0.125 1/Å: a quarter of it, and
        // so is the resolution of 8 Å.
        let fall = middle(&cols_of(&picture, CYAN, 30));
        let mark = middle(&cols_of(&picture, AMBER, 200));
        let left = rows_of(&picture, CYAN, 200);
        let start = (0..picture.width).find(|&x| left.iter().any(|&y| picture.at(x, y) == CYAN)).unwrap() as f64;
        // Skip the piece in the legend: the curve begins at the axis, left of everything.
        let quarter = start + (fall - start) * 0.25 / 0.505;
        assert!((mark - quarter).abs() < 6.0, "{unit}: {mark} {quarter}");
    }
}

/// The longest side of a square of the sheet, within its margins and below the text, on which nothing is.
fn largest_hole(sheet: &Picture) -> usize {
    let (margin, mut best) = (28, 0);
    let text = 130;
    let mut above = vec![0usize; sheet.width];
    for y in margin + text..sheet.height - margin {
        let mut row = above.clone();
        for x in margin..sheet.width - margin {
            let corner = if x > margin { above[x - 1].min(above[x]).min(row[x - 1]) } else { 0 };
            row[x] = if sheet.at(x, y) == BACKGROUND { corner + 1 } else { 0 };
            best = best.max(row[x]);
        }
        above = row;
    }
    best
}

#[test]
fn what_is_missing_leaves_no_hole_in_the_sheet() {
    for present in 0..16 {
        let mut run = still();
        run.findings.clear();
        run.warnings.clear();
        if present & 1 > 0 {
            run.curves.push(frc("1/Å", 0.5));
        }
        if present & 2 > 0 {
            residuals(&mut run, 0.1);
        }
        if present & 4 > 0 {
            run.findings.push(("c10_angstrom".into(), -1500.0));
        }
        if present & 8 > 0 {
            for name in ["superres_ssb", "superres_phase_flipped"] {
                run.extras.push(extra(name, Plane::Superres, run.superres_image.clone()));
            }
        }
        let hole = largest_hole(&sheet(&run));
        assert!(hole < 150, "with {present:04b} there is nothing on {hole} × {hole} pixels");
    }
}

#[test]
fn bad_pixels_are_crossed_out_on_the_mean_pattern() {
    let mut run = still();
    let before = sheet(&run).count(RED);
    let mut bad = Image::zeros((14, 16));
    run.extras.push(extra("bad_pixels", Plane::Detector, bad.clone()));
    assert_eq!((before, sheet(&run).count(RED)), (0, 0), "no bad pixel, no cross");
    bad[[2, 13]] = 1.0;
    run.extras[0].1 = bad;
    let picture = sheet(&run);
    let places: Vec<usize> = (0..picture.width * picture.height)
        .filter(|i| picture.at(i % picture.width, i / picture.width) == RED)
        .collect();
    let mean = |f: &dyn Fn(usize) -> usize| places.iter().map(|i| f(*i) as f64).sum::<f64>() / places.len() as f64;
    // The panel is 280 pixels wide for 16 columns; its left edge is the sheet's margin.
    let x = mean(&|i| i % picture.width) + 0.5;
    assert!((x - (28.0 + 13.5 * 17.5)).abs() < 1.0, "{x}");
    let y = mean(&|i| i / picture.width) + 0.5;
    assert!(y < 420.0, "{y}");
}

#[test]
fn a_finer_pattern_is_seen_in_the_detail_and_beyond_the_nyquist_frame() {
    let mut run = still();
    // Stripes of four super-resolved pixels: one scan position, invisible to the scan.
    run.superres_image = Image::from_shape_fn((128, 128), |(_, c)| if c % 4 < 2 { 1.0 } else { 0.0 });
    run.standard_bf.fill(0.5);
    let picture = sheet(&run);
    // The second column of the third row: columns of black and white in turn.
    let left = 28 + 390 + 24;
    let band = (0..picture.height).find(|&y| {
        let changes = (left..left + 383).filter(|&x| picture.at(x, y) != picture.at(x + 1, y)).count();
        (60..=64).contains(&changes)
    });
    assert!(band.is_some(), "32 positions with a dark and a bright stripe each");
}

#[test]
fn curves_residuals_and_marks_are_drawn_whatever_their_numbers() {
    let odd = [f64::NAN, f64::INFINITY, -1e300, 0.0, 5e-324];
    for (number, value) in odd.into_iter().enumerate() {
        for (rows, cols, upscale) in [(1, 1, 1), (1, 40, 4), (40, 1, 3), (16, 24, 2), (15, 10, 32)] {
            let mut run = run_of(rows, cols, upscale);
            run.calibration = if number == 3 { Calibration::default() } else { run.calibration };
            run.curves.push(frc("1/Å", value));
            let mut broken = frc("", 1.0);
            broken.columns = vec![("frc".into(), vec![value; 3]), ("a very long name ".repeat(9), vec![])];
            run.curves.push(Curve { name: "of/its own".into(), ..broken });
            run.findings =
                ["c10_angstrom", "c12a_angstrom", "c12b_angstrom", "resolution_half_bit", "fit_rotation_deg"]
                    .map(|name| (name.to_owned(), value))
                    .to_vec();
            residuals(&mut run, value);
            run.extras.push(extra("bad_pixels", Plane::Crop, Image::from_elem((9, 11), value)));
            run.extras.push(extra("superres_ssb", Plane::Superres, Image::from_elem((rows, cols), value)));
            run.superres_image[[0, 0]] = value;
            run.standard_bf[[0, 0]] = value;
            run.shift_x[[4, 5]] = value;
            let picture = sheet(&run);
            assert!(picture.width == 1688 && picture.height < 6000, "{value} {rows}×{cols}");
            let dir = tempfile::tempdir().unwrap();
            let files = picture::write_pictures(dir.path(), "a", &run).unwrap();
            assert_eq!(files.len(), 9 + 4 + 2, "nine results, four extras, two curves");
        }
    }
}

#[test]
fn the_size_of_the_sheet_does_not_depend_on_the_scan() {
    let heights: Vec<usize> = [(32, 32), (64, 64), (128, 128)].map(|(r, c)| sheet(&run_of(r, c, 4)).height).to_vec();
    assert!(heights.iter().all(|h| *h == heights[0]), "{heights:?}");
}

#[test]
fn letters_below_the_last_plot_of_the_sheet_are_whole() {
    const DIM: [u8; 3] = [158, 160, 166];
    let mut run = still();
    run.curves.push(frc("1/Å", 0.5));
    let sheet = sheet(&run);
    let rows = rows_of(&sheet, DIM, 1);
    let lowest = rows.iter().rev().zip(1..).take_while(|(row, below)| **row + below == rows[rows.len() - 1] + 1);
    // "spatial frequency (1/Å)": eleven rows of dots of two pixels, the ring of Å and what hangs from p, q and y included.
    assert_eq!(lowest.count(), 22, "rows of the lowest line of text");
}
