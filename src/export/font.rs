//! A small built-in typeface, so that pictures carry their labels on every machine.
//!
//! The letters are drawn in `font_5x9.txt`, sixteen to a band: five columns and nine rows each, the last two rows
//! for descenders. Change a letter there and it changes in all pictures.

/// Height of a letter without and with its descender.
pub(super) const CAP_HEIGHT: usize = 7;
const ROWS: usize = 9;
/// From one letter to the next: five columns and a gap.
pub(super) const ADVANCE: usize = 6;
/// A space at which no line ends.
pub(super) const NO_BREAK: char = '\u{a0}';
const PER_BAND: usize = 16;
const EXTRA: &str = "Å°±×µ·−–…²σχ";
const ART: &str = include_str!("font_5x9.txt");

/// Whether the letter has ink at each of nine rows of five columns. Unknown letters are question marks.
pub(super) fn glyph(letter: char) -> [[bool; 5]; ROWS] {
    let index = index_of(letter).or_else(|| index_of('?')).unwrap_or(0);
    let (band, column) = (index / PER_BAND, index % PER_BAND * ADVANCE);
    let mut ink = [[false; 5]; ROWS];
    for (row, line) in ink.iter_mut().zip(ART.lines().skip(band * (ROWS + 1))) {
        for (dot, &mark) in row.iter_mut().zip(line.as_bytes().iter().skip(column)) {
            *dot = mark == b'#';
        }
    }
    ink
}

fn index_of(letter: char) -> Option<usize> {
    match letter {
        ' '..='~' => Some(letter as usize - ' ' as usize),
        NO_BREAK => Some(0),
        // The Greek mu looks like the micro sign.
        'μ' => index_of('µ'),
        _ => EXTRA.chars().position(|c| c == letter).map(|at| 95 + at),
    }
}

/// Width of a line of text in pixels when each dot is `scale` pixels wide.
pub(super) fn width(text: &str, scale: usize) -> usize {
    (text.chars().count() * ADVANCE).saturating_sub(1) * scale
}

/// Breaks `text` at spaces (not at [`NO_BREAK`]) so that every line fits into `room` pixels; a longer word is cut.
pub(super) fn wrap(text: &str, scale: usize, room: usize) -> Vec<String> {
    let most = (room / (ADVANCE * scale)).max(1);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() && c != NO_BREAK).filter(|word| !word.is_empty()) {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(most) {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + piece.chars().count() <= most => {
                    line.push(' ');
                    line.push_str(&piece);
                }
                _ => lines.push(piece),
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_is_drawn_and_no_two_look_alike() {
        let letters: Vec<char> = ('!'..='~').chain("Å°±×µ·…²σχ".chars()).collect();
        for (at, &a) in letters.iter().enumerate() {
            assert!(glyph(a).iter().flatten().any(|&dot| dot), "{a} is empty");
            for &b in &letters[at + 1..] {
                assert_ne!(glyph(a), glyph(b), "{a} and {b}");
            }
        }
        assert!(glyph(' ').iter().flatten().all(|&dot| !dot));
        assert_eq!(glyph('漢'), glyph('?'));
    }

    #[test]
    fn the_drawing_has_sixteen_letters_of_five_columns_in_every_full_band() {
        for (number, line) in ART.lines().enumerate() {
            if number % (ROWS + 1) == ROWS {
                assert_eq!(line, "", "line {number}");
            } else if number < 6 * (ROWS + 1) {
                assert_eq!(line.len(), PER_BAND * ADVANCE - 1, "line {number}");
            }
        }
    }

    #[test]
    fn wrapped_lines_fit_and_lose_no_word() {
        let text = "a line of several words and one_very_long_word_that_must_be_cut at the end";
        let lines = wrap(text, 2, 12 * 12);
        assert!(lines.iter().all(|line| width(line, 2) <= 12 * 12), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
    }
}
