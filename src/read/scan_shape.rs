//! Finds the scan's rows and columns from what the user, the metadata and the clock say, and never guesses silently.
//!
//! The user's word is final. Otherwise all hints must agree; a perfect square is a suggestion and no hint. Then the
//! number of frames is compared with the shape, and a difference is an error unless the configuration allows it.

use std::fmt::Write as _;
use std::path::Path;

use super::{Confidence, Evidence};
use crate::axes::ScanShape;
use crate::config::{Excess, Incomplete, SourceConfig};
use crate::error::{Error, Result};

/// What a file holds, as far as whole frames go.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameCount {
    /// Complete frames in the file.
    pub(super) whole: usize,
    /// Bytes that the last, incomplete frame lacks; 0 when the file ends with a complete frame.
    pub(super) missing_bytes: u64,
}

impl FrameCount {
    /// A file that holds exactly these frames.
    pub(super) fn exactly(whole: usize) -> Self {
        Self { whole, missing_bytes: 0 }
    }
}

/// The scan shape that the reader uses.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) scan: ScanShape,
    /// Frames to skip at the start of the file.
    pub(super) skip: usize,
    pub(super) evidence: Vec<Evidence>,
    pub(super) warnings: Vec<String>,
}

/// Chooses the scan shape and applies the frame-count policy of the configuration.
pub(super) fn resolve(
    path: &Path,
    frames: FrameCount,
    mut evidence: Vec<Evidence>,
    options: &SourceConfig,
) -> Result<Resolved> {
    let skip = options.skip_frames;
    if skip >= frames.whole {
        return Err(nothing_left(path, frames, skip));
    }
    let present = frames.whole - skip;
    if let Some([rows, cols]) = options.scan {
        if rows == 0 || cols == 0 {
            return Err(Error::config(format!("a scan of {rows}×{cols} positions is empty")));
        }
        let scan = ScanShape::new(rows, cols);
        evidence.push(Evidence { source: "user".to_owned(), scan, confidence: Confidence::User });
    }
    evidence.sort_by_key(|e| e.confidence);
    let mut warnings = Vec::new();
    let chosen = choose(path, present, &evidence).or_else(|e| {
        if !options.unknown_scan_as_row {
            return Err(e);
        }
        warnings.push(format!("the scan shape is not known, all frames are shown as one row: {e}"));
        let scan = ScanShape::new(1, present);
        Ok(Evidence { source: "unknown".to_owned(), scan, confidence: Confidence::Suggestion })
    });
    note_truncation(path, frames, chosen.as_ref().ok(), present, options, &mut warnings)?;
    let chosen = chosen?;
    let scan = fit(path, present, &chosen, options, &mut warnings)?;
    if skip > 0 {
        warnings.push(format!("{skip} frames at the start of the file are skipped"));
    }
    let explicit = evidence.iter().find(|e| e.confidence == Confidence::Explicit);
    if let (Confidence::User, Some(other)) = (chosen.confidence, explicit.filter(|e| e.scan != chosen.scan)) {
        warnings.push(format!("the user's scan {} replaces {} from {}", chosen.scan, other.scan, other.source));
    }
    Ok(Resolved { scan, skip, evidence, warnings })
}

fn nothing_left(path: &Path, frames: FrameCount, skip: usize) -> Error {
    if frames.whole == 0 {
        return Error::input(path, "at least one complete frame", "none")
            .with_hint("the file is cut short: copy it again from where it was recorded");
    }
    Error::unresolved(format!(
        "`{}`: source.skip_frames = {skip} leaves none of the {} frames",
        path.display(),
        frames.whole
    ))
    .with_hint("choose a smaller source.skip_frames")
}

/// The hint to follow: the user's, or the best one when all agree.
fn choose(path: &Path, present: usize, evidence: &[Evidence]) -> Result<Evidence> {
    let mut hints = evidence.iter().filter(|e| e.confidence != Confidence::Suggestion);
    let Some(best) = hints.next() else {
        return Err(unknown(path, present, evidence));
    };
    if best.confidence == Confidence::User || hints.all(|e| e.scan == best.scan) {
        return Ok(best.clone());
    }
    let list: Vec<_> = evidence.iter().map(|e| format!("{} ({})", e.scan, e.source)).collect();
    Err(Error::unresolved(format!(
        "`{}`: the hints about the scan shape disagree: {}; the file holds {present} frames",
        path.display(),
        list.join(", ")
    ))
    .with_hint(HOW_TO_SAY))
}

const HOW_TO_SAY: &str = "say it with `--scan ROWS,COLS`, or with `scan = [ROWS, COLS]` under [source] in the config";

fn unknown(path: &Path, present: usize, evidence: &[Evidence]) -> Error {
    let mut candidates: Vec<_> = evidence.iter().map(|e| format!("{} ({})", e.scan, e.source)).collect();
    let root = present.isqrt();
    for scan in nearest_shapes(present, ScanShape::new(root.max(1), root.max(1)), 4) {
        let note = if scan.rows == scan.cols { " (perfect square)" } else { "" };
        candidates.push(format!("{scan}{note}"));
    }
    candidates.dedup();
    Error::unresolved(format!(
        "`{}` holds {present} frames, but nothing in it says how many scan rows and columns these are; possible: {}",
        path.display(),
        candidates.join(", ")
    ))
    .with_hint(HOW_TO_SAY)
}

/// Refuses a cut last frame unless the configuration makes it harmless; then says so.
fn note_truncation(
    path: &Path,
    frames: FrameCount,
    chosen: Option<&Evidence>,
    present: usize,
    options: &SourceConfig,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if frames.missing_bytes == 0 {
        return Ok(());
    }
    let not_needed = options.excess == Excess::Ignore
        && chosen.and_then(|e| e.scan.rows.checked_mul(e.scan.cols)).is_some_and(|n| n <= present);
    let text = format!("{} complete frames and a last one that lacks {} bytes", frames.whole, frames.missing_bytes);
    if options.incomplete == Incomplete::Error && !not_needed {
        return Err(Error::input(path, "a whole number of frames", text).with_hint(
            "the recording was interrupted or the file was cut; `--set source.incomplete=trim` keeps the complete scan rows",
        ));
    }
    warnings.push(format!("the file holds {text}; the incomplete frame is left out"));
    Ok(())
}

/// The chosen shape, cut to the complete rows where that is allowed.
fn fit(
    path: &Path,
    present: usize,
    chosen: &Evidence,
    options: &SourceConfig,
    warnings: &mut Vec<String>,
) -> Result<ScanShape> {
    let scan = chosen.scan;
    let Some(expected) = scan.rows.checked_mul(scan.cols) else {
        return Err(mismatch(path, present, chosen));
    };
    if expected == present {
        return Ok(scan);
    }
    if present > expected {
        if options.excess == Excess::Error {
            return Err(mismatch(path, present, chosen));
        }
        warnings.push(format!("{} frames after the {scan} scan are left out", present - expected));
        return Ok(scan);
    }
    if options.incomplete == Incomplete::Error {
        if chosen.confidence == Confidence::User {
            return Err(mismatch(path, present, chosen));
        }
        let found = format!("{present} frames");
        return Err(Error::input(path, format!("{expected} frames for the scan {scan} ({})", chosen.source), found)
            .with_hint("the recording was interrupted; `--set source.incomplete=trim` keeps the complete scan rows"));
    }
    let rows = present / scan.cols;
    if rows == 0 {
        let found = format!("{present} frames");
        return Err(Error::input(path, format!("at least one complete scan row of {} frames", scan.cols), found));
    }
    warnings
        .push(format!("the scan {scan} is incomplete: {rows} complete rows are kept, {} are lost", scan.rows - rows));
    Ok(ScanShape::new(rows, scan.cols))
}

fn mismatch(path: &Path, present: usize, chosen: &Evidence) -> Error {
    let scan = chosen.scan;
    let near: Vec<_> = nearest_shapes(present, scan, 4).iter().map(ToString::to_string).collect();
    let mut message = format!(
        "`{}` holds {present} frames, but the scan {scan} ({}) has {} positions; shapes that fit: {}",
        path.display(),
        chosen.source,
        scan.rows as u128 * scan.cols as u128,
        near.join(", ")
    );
    let per_line = (1..=2).find(|&k| scan.cols.checked_add(k).and_then(|c| c.checked_mul(scan.rows)) == Some(present));
    if let Some(k) = per_line {
        let _ = write!(message, "; {scan} would fit if every line had {k} extra fly-back frames");
    }
    let hint = if scan.rows as u128 * scan.cols as u128 > present as u128 {
        "give the right shape with `--scan ROWS,COLS`, or keep the complete scan rows with `--set source.incomplete=trim`"
    } else {
        "give the right shape with `--scan ROWS,COLS`, or leave frames out with `--set source.skip_frames=N` and `--set source.excess=ignore`"
    };
    Error::unresolved(message).with_hint(hint)
}

/// Shapes with exactly `frames` positions, those most like `like` first.
fn nearest_shapes(frames: usize, like: ScanShape, count: usize) -> Vec<ScanShape> {
    let mut shapes: Vec<_> = (1..=frames.isqrt().min(1 << 20))
        .filter(|&rows| frames.is_multiple_of(rows))
        .flat_map(|rows| [ScanShape::new(rows, frames / rows), ScanShape::new(frames / rows, rows)])
        .collect();
    let distance = |s: &ScanShape| {
        let ratio = |a: usize, b: usize| (a as f64 / b.max(1) as f64).ln().abs();
        ratio(s.rows, like.rows) + ratio(s.cols, like.cols)
    };
    shapes.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.rows.cmp(&b.rows)));
    shapes.dedup();
    shapes.truncate(count);
    shapes
}

/// Scan columns from the times of successive frames, `times` in ns.
///
/// The first frame of a line comes later than the others by the fly-back time. A difference counts as a jump when it
/// exceeds the median by more than 1 µs and by 20 times the jitter (median absolute deviation, at least the clock's
/// 10 ns grain). Columns are accepted only if the jumps sit exactly at multiples of them; then the number of jumps
/// comes along, because a single one is weak evidence.
pub(super) fn columns_from_times(times: &[i64]) -> Option<(usize, usize)> {
    let steps: Vec<i64> = times.windows(2).map(|w| w[1].checked_sub(w[0])).collect::<Option<_>>()?;
    if steps.len() < 3 {
        return None;
    }
    let median = |mut v: Vec<i64>| {
        v.sort_unstable();
        v[v.len() / 2]
    };
    let typical = median(steps.clone());
    let spread = median(steps.iter().map(|s| s.saturating_sub(typical).saturating_abs()).collect());
    let noise = (spread as f64 * 1.48).max(10.0);
    let threshold = (20.0 * noise).max(1000.0);
    let late = |s: &i64| s.saturating_sub(typical) as f64 > threshold;
    let jumps: Vec<usize> = steps.iter().enumerate().filter(|(_, s)| late(s)).map(|(i, _)| i + 1).collect();
    let cols = *jumps.first()?;
    let regular = jumps.iter().enumerate().all(|(k, &at)| at == (k + 1) * cols);
    let complete = jumps.len() == (times.len() - 1) / cols;
    (cols >= 2 && regular && complete && times.len() >= 2 * cols).then_some((cols, jumps.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(rows: usize, cols: usize, confidence: Confidence) -> Evidence {
        Evidence { source: format!("{confidence:?}"), scan: ScanShape::new(rows, cols), confidence }
    }

    fn options(scan: Option<[usize; 2]>) -> SourceConfig {
        SourceConfig { scan, ..SourceConfig::default() }
    }

    fn try_resolve(frames: usize, hints: Vec<Evidence>, options: &SourceConfig) -> Result<ScanShape> {
        resolve(Path::new("a.mib"), FrameCount::exactly(frames), hints, options).map(|r| r.scan)
    }

    #[test]
    fn the_users_word_beats_metadata_that_disagree() {
        let hints = vec![hint(2, 6, Confidence::Explicit), hint(3, 4, Confidence::Timing)];
        assert_eq!(try_resolve(12, hints, &options(Some([4, 3]))).unwrap(), ScanShape::new(4, 3));
    }

    #[test]
    fn hints_that_disagree_are_an_error_that_lists_them() {
        let hints = vec![hint(3, 4, Confidence::Timing), hint(2, 6, Confidence::Explicit)];
        let error = try_resolve(12, hints, &options(None)).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("2×6 (Explicit), 3×4 (Timing)"), "{error}");
    }

    #[test]
    fn a_perfect_square_is_only_suggested() {
        let error = try_resolve(64, vec![], &options(None)).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("8×8 (perfect square)"), "{error}");
        assert!(error.hint().unwrap().contains("--scan ROWS,COLS"));
    }

    #[test]
    fn a_user_shape_that_does_not_fit_lists_the_nearest_ones() {
        for shape in [[3, 3], [2, 3], [usize::MAX, 2]] {
            let error = try_resolve(8, vec![], &options(Some(shape))).unwrap_err();
            assert_eq!(error.exit_code(), 4);
            assert!(error.to_string().contains("2×4"), "{error}");
        }
    }

    #[test]
    fn trim_keeps_the_complete_rows_and_ignore_leaves_the_rest_out() {
        let trim = SourceConfig { incomplete: Incomplete::Trim, ..SourceConfig::default() };
        let hints = vec![hint(4, 4, Confidence::Explicit)];
        assert_eq!(try_resolve(15, hints.clone(), &trim).unwrap(), ScanShape::new(3, 4));
        assert_eq!(try_resolve(15, hints.clone(), &options(None)).unwrap_err().exit_code(), 3);
        assert_eq!(try_resolve(17, hints.clone(), &options(None)).unwrap_err().exit_code(), 4);
        let ignore = SourceConfig { excess: Excess::Ignore, skip_frames: 1, ..SourceConfig::default() };
        assert_eq!(try_resolve(18, hints, &ignore).unwrap(), ScanShape::new(4, 4));
    }

    #[test]
    fn a_fly_back_of_twenty_microseconds_gives_the_columns() {
        let times = |rows: i64, cols: i64, flyback: i64| -> Vec<i64> {
            (0..rows * cols).map(|i| i * 102_000_000 + (i / cols) * flyback + (i * 7 % 3 - 1) * 10).collect()
        };
        assert_eq!(columns_from_times(&times(2, 4, 20_820)), Some((4, 1)));
        assert_eq!(columns_from_times(&times(16, 16, 20_820)), Some((16, 15)));
        assert_eq!(columns_from_times(&times(16, 16, 300)), None);
    }

    #[test]
    fn a_single_hiccup_of_the_clock_is_no_evidence() {
        let mut times: Vec<i64> = (0..64).map(|i| i * 1_000_000).collect();
        for t in &mut times[40..] {
            *t += 50_000;
        }
        assert_eq!(columns_from_times(&times), None);
    }
}
