//! A sheet of pixels as a PNG file: one byte for each pixel where it has few colours, else three.

use std::io::{self, Write};

use super::colormap::Rgb;

/// Most colours of a palette.
pub(super) const MOST: usize = 256;
/// Places for colours; a power of two, and several times as many as there are colours, so that few share one.
const PLACES: usize = 2048;
const FREE: u64 = u64::MAX;
/// Bytes at so many places that are looked at before all.
const EXCERPTS: usize = 64;
const EXCERPT: usize = 3 << 10;

/// Writes pixels `[row][col]` of red, green, blue.
pub(super) fn png(out: impl Write, size: (usize, usize), pixels: &[u8], title: &str) -> io::Result<()> {
    match Indexed::of(pixels, 3 * size.0) {
        Some(Indexed { palette, pixels }) => indexed_png(out, size, &pixels, &palette, title),
        None => write(out, size, pixels, None, title),
    }
}

/// Writes pixels `[row][col]`, each the number of a colour of `palette`, which runs from dark to light ([`order`]).
pub(super) fn indexed_png(
    out: impl Write,
    size: (usize, usize),
    pixels: &[u8],
    palette: &[Rgb],
    title: &str,
) -> io::Result<()> {
    write(out, size, pixels, Some(palette), title)
}

fn write(
    out: impl Write,
    (width, height): (usize, usize),
    pixels: &[u8],
    palette: Option<&[Rgb]>,
    title: &str,
) -> io::Result<()> {
    let side = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut encoder = png::Encoder::new(out, side(width)?, side(height)?);
    encoder.set_depth(png::BitDepth::Eight);
    // Flat drawings: harder work would make them little smaller. Nor would trying all filters for each row.
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Paeth);
    if let Some(palette) = palette {
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_palette(palette.concat());
    } else {
        encoder.set_color(png::ColorType::Rgb);
    }
    // Text chunks hold Latin-1 only.
    let title: String = title.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    encoder.add_text_chunk("Title".into(), title).map_err(plain)?;
    let software = concat!("stemstream ", env!("CARGO_PKG_VERSION"));
    encoder.add_text_chunk("Software".into(), software.into()).map_err(plain)?;
    let mut writer = encoder.write_header().map_err(plain)?;
    writer.write_image_data(pixels).map_err(plain)?;
    writer.finish().map_err(plain)
}

/// The operating system's error inside one of the encoder, so that a full disk is called one.
fn plain(error: png::EncodingError) -> io::Error {
    match error {
        png::EncodingError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// Where a colour belongs in a palette: by how bright it is. What is nearly as bright has a number nearby then, and the filters
/// of PNG find small differences.
pub(super) fn order(color: Rgb) -> u32 {
    color.map(u32::from).iter().sum()
}

/// Pixels as places in a palette.
struct Indexed {
    palette: Vec<Rgb>,
    pixels: Vec<u8>,
}

impl Indexed {
    /// Rows of `row` bytes each; `None` where there are more colours than a palette holds.
    fn of(pixels: &[u8], row: usize) -> Option<Self> {
        // Many images of a sheet have too many together: some of its rows tell sooner than all from above.
        if pixels.len() > EXCERPTS * EXCERPT {
            let step = pixels.len() / 3 / EXCERPTS * 3;
            let some: Vec<&[u8]> = pixels.chunks(step).map(|part| &part[..EXCERPT.min(part.len())]).collect();
            Self::of_all(&some.concat(), EXCERPT)?;
        }
        Self::of_all(pixels, row)
    }

    fn of_all(pixels: &[u8], row: usize) -> Option<Self> {
        let mut colors = Colors::none();
        let mut places = vec![0; pixels.len() / 3];
        let width = row / 3;
        for (number, line) in pixels.chunks(row.max(1)).enumerate() {
            let at = number * width;
            // A magnified image repeats its rows.
            if number > 0 && *line == pixels[(number - 1) * row..][..line.len()] {
                places.copy_within(at - width..at - width + line.len() / 3, at);
            } else {
                colors.place(line, &mut places[at..])?;
            }
        }
        let colors = colors.colors;
        let mut order: Vec<usize> = (0..colors.len()).collect();
        order.sort_by_key(|i| self::order(colors[*i]));
        let mut sorted = [0u8; MOST];
        order.iter().enumerate().for_each(|(to, from)| sorted[*from] = to as u8);
        for place in &mut places {
            *place = sorted[usize::from(*place)];
        }
        Some(Self { palette: order.into_iter().map(|i| colors[i]).collect(), pixels: places })
    }
}

/// Colours that were seen, numbered as they came.
struct Colors {
    colors: Vec<Rgb>,
    /// Of each: itself, and from bit 32 on its number.
    table: Vec<u64>,
}

impl Colors {
    fn none() -> Self {
        Self { colors: Vec::new(), table: vec![FREE; PLACES] }
    }

    /// The numbers of the colours of `pixels`; `None` where there are too many.
    fn place(&mut self, pixels: &[u8], places: &mut [u8]) -> Option<()> {
        let mut last = FREE;
        for (place, &color) in places.iter_mut().zip(pixels.as_chunks::<3>().0) {
            let [r, g, b] = color;
            let key = u32::from_le_bytes([r, g, b, 0]);
            // Most of a drawing is like what is beside it.
            if last as u32 != key {
                last = self.find(key, color)?;
            }
            *place = (last >> 32) as u8;
        }
        Some(())
    }

    fn find(&mut self, key: u32, color: Rgb) -> Option<u64> {
        let mut at = (key.wrapping_mul(0x9E37_79B1) >> (u32::BITS - PLACES.ilog2())) as usize;
        while self.table[at] as u32 != key {
            if self.table[at] == FREE {
                if self.colors.len() == MOST {
                    return None;
                }
                self.table[at] = u64::from(key) | (self.colors.len() as u64) << 32;
                self.colors.push(color);
                break;
            }
            at = (at + 1) % PLACES;
        }
        Some(self.table[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many colours as there are pixels, up to `count`.
    fn sheet(width: usize, height: usize, count: usize) -> Vec<u8> {
        (0..width * height).map(|i| i * 7919 % count).flat_map(|i| [(i % 256) as u8, (i / 256) as u8, 77]).collect()
    }

    fn decoded(bytes: &[u8]) -> (png::ColorType, Vec<u8>) {
        let mut decoder = png::Decoder::new(io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let kind = reader.info().color_type;
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        (kind, pixels)
    }

    #[test]
    fn every_pixel_comes_back_with_few_colours_and_with_many() {
        for (width, height, count) in [(1, 1, 1), (64, 9, 2), (50, 41, 256), (50, 41, 257), (200, 100, 5000)] {
            let pixels = sheet(width, height, count);
            let mut bytes = Vec::new();
            png(&mut bytes, (width, height), &pixels, "Å").unwrap();
            let kind = if count > MOST { png::ColorType::Rgb } else { png::ColorType::Indexed };
            assert!(decoded(&bytes) == (kind, pixels), "{width}×{height}, {count} colours");
        }
    }

    #[test]
    fn a_full_disk_is_called_one_wherever_the_picture_ends() {
        /// Takes so many bytes.
        struct Disk(usize);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let count = bytes.len().min(self.0);
                self.0 -= count;
                if count > 0 { Ok(count) } else { Err(io::ErrorKind::StorageFull.into()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for room in [0, 10, 60, 300, 1000] {
            let error = png(Disk(room), (200, 100), &sheet(200, 100, 5000), "a picture").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{room}");
        }
    }

    #[test]
    fn rows_that_repeat_come_back_too() {
        for (count, kind) in [(5, png::ColorType::Indexed), (256, png::ColorType::Indexed), (400, png::ColorType::Rgb)]
        {
            let small = sheet(50, 10, count);
            let pixels: Vec<u8> = small.chunks(150).flat_map(|row| row.repeat(3)).collect();
            let mut bytes = Vec::new();
            png(&mut bytes, (50, 30), &pixels, "").unwrap();
            assert!(decoded(&bytes) == (kind, pixels), "{count} colours");
        }
    }
}
