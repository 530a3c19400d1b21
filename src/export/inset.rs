//! A square of the sheet that fills its column: colours, drawings upon them, and words below.

use ndarray::Array2;

use super::canvas::{Area, BRIGHT, Canvas, DIM, Point};
use super::colormap::Rgb;
use super::font;
use super::panel::{LINE, TEXT};

/// Longer side of the image, which is the width of the whole inset.
pub(super) const SIDE: usize = 390;
/// Where there is nothing to show.
pub(super) const GROUND: Rgb = [30, 32, 37];
const GAP: usize = 10;
const TALL: usize = font::CAP_HEIGHT * TEXT;

/// An image that has its size on the sheet, with title and caption.
pub(super) struct Inset {
    pub(super) title: String,
    /// One colour for each pixel of the sheet.
    pub(super) colors: Array2<Rgb>,
    pub(super) drawings: Vec<Drawing>,
    /// Pixels and what they measure.
    pub(super) scale_bar: Option<(usize, String)>,
    /// Colours from the lowest to the highest number, and the two numbers.
    pub(super) color_bar: Option<(Vec<Rgb>, [String; 2])>,
    /// Sentences, each beginning a line.
    pub(super) caption: Vec<String>,
}

/// Something on the image, in pixels from its upper left corner.
pub(super) enum Drawing {
    Circle { center: Point, radius: f64, color: Rgb },
    Lines { lines: Vec<Vec<Point>>, width: f64, color: Rgb },
    Dots { points: Vec<Point>, radius: f64, color: Rgb },
}

impl Inset {
    pub(super) fn height(&self) -> usize {
        let lines = usize::from(self.scale_bar.is_some()) + usize::from(self.color_bar.is_some()) + self.lines().len();
        LINE + self.colors.nrows() + GAP + (lines * LINE).saturating_sub(LINE - TALL - 4)
    }

    fn lines(&self) -> Vec<String> {
        self.caption.iter().flat_map(|sentence| font::wrap(sentence, TEXT, SIDE)).collect()
    }

    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, x: usize, y: usize) {
        canvas.text(x, y, TEXT, BRIGHT, &self.title);
        let area = Area { x, y: y + LINE, width: self.colors.ncols(), height: self.colors.nrows() };
        for (row, colors) in self.colors.rows().into_iter().enumerate() {
            canvas.set_row(area.x, area.y + row, colors.iter().copied());
        }
        for drawing in &self.drawings {
            drawing.draw(canvas, area);
        }
        let mut top = area.y + area.height + GAP;
        if let Some((length, text)) = &self.scale_bar {
            canvas.fill(x, top + TALL / 2 - 2, *length, 5, BRIGHT);
            canvas.text(x + length + GAP, top, TEXT, BRIGHT, text);
            top += LINE;
        }
        if let Some((colors, [low, high])) = &self.color_bar {
            let (left, right) = (font::width(low, TEXT) + GAP, font::width(high, TEXT) + GAP);
            canvas.text(x, top, TEXT, DIM, low);
            let length = SIDE.saturating_sub(left + right);
            for col in 0..length {
                canvas.fill(x + left + col, top, 1, TALL, colors[col * colors.len() / length]);
            }
            canvas.text(x + SIDE - right + GAP, top, TEXT, DIM, high);
            top += LINE;
        }
        for line in self.lines() {
            canvas.text(x, top, TEXT, DIM, &line);
            top += LINE;
        }
    }
}

impl Drawing {
    /// The outline of a rectangle.
    pub(super) fn frame([x0, y0]: Point, [x1, y1]: Point, width: f64, color: Rgb) -> Self {
        let corners = vec![[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]];
        Self::Lines { lines: vec![corners], width, color }
    }

    fn draw(&self, canvas: &mut Canvas<'_>, area: Area) {
        let (left, top) = (area.x as f64, area.y as f64);
        match self {
            Self::Circle { center: [x, y], radius, color } => {
                canvas.circle(left + x, top + y, *radius, 1.5, *color, area);
            }
            Self::Lines { lines, width, color } => {
                let moved = |line: &Vec<Point>| line.iter().map(|[x, y]| [left + x, top + y]).collect();
                canvas.strokes(&lines.iter().map(moved).collect::<Vec<_>>(), *width, *color, area);
            }
            Self::Dots { points, radius, color } => {
                // One line without length each: all dots in one pass.
                let lines: Vec<Vec<Point>> = points.iter().map(|[x, y]| vec![[left + x, top + y]; 2]).collect();
                canvas.strokes(&lines, 2.0 * radius, *color, area);
            }
        }
    }
}
