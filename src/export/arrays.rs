//! The results as plain arrays: `.npy` for numpy, 32-bit floating-point TIFF for image programs.

use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tiff::encoder::{TiffEncoder, colortype};
use tiff::tags::Tag;

use super::files::{Place, write_new};
use super::run::{Layer, RunResults};
use crate::axes::Image;
use crate::error::{Error, ErrorKind, Result};

/// Writes every result as `{stem}_{name}.npy` (`float64`, `[rows, cols]`, C order) and returns the files.
///
/// # Errors
/// A folder that cannot be written to, a full disk.
pub fn write_npy(folder: &Path, stem: &str, run: &RunResults) -> Result<Vec<PathBuf>> {
    let place = Place::shown(folder, stem);
    run.layers().par_iter().map(|layer| write_layer_npy(&place, layer)).collect()
}

pub(super) fn write_layer_npy(place: &Place<'_>, layer: &Layer<'_>) -> Result<PathBuf> {
    place.write(&format!("{}.npy", layer.name), "the array", |out| npy(out, layer.image))
}

/// Writes every result as `{stem}_{name}.tif` (32-bit float, uncompressed) and returns the files.
///
/// # Errors
/// A folder that cannot be written to, a full disk; an image of 4 GiB or more, which TIFF cannot hold.
pub fn write_tiff(folder: &Path, stem: &str, run: &RunResults) -> Result<Vec<PathBuf>> {
    let place = Place::shown(folder, stem);
    run.layers().par_iter().map(|layer| write_layer_tiff(&place, layer)).collect()
}

pub(super) fn write_layer_tiff(place: &Place<'_>, layer: &Layer<'_>) -> Result<PathBuf> {
    let (name, bytes) = (format!("{}.tif", layer.name), layer.image.len() as u64 * 4);
    // Offsets in a TIFF are 32-bit numbers; a little is needed for the header.
    if bytes > u64::from(u32::MAX) - 4096 {
        let available = u64::from(u32::MAX);
        return Err(Error::new(ErrorKind::Disk { path: name.into(), needed: bytes, available })
            .with_hint("TIFF files end at 4 GiB: leave TIFF out with `--set export.tiff=false`"));
    }
    place.write(&name, "the TIFF image", |out| tiff(out, layer))
}

fn npy(out: &mut impl Write, image: &Image) -> io::Result<()> {
    let (rows, cols) = image.dim();
    npy_header(out, &format!("{rows}, {cols}"))?;
    values(out, image)
}

/// All samples in C order, little-endian.
fn values(out: &mut impl Write, image: &Image) -> io::Result<()> {
    match image.as_slice() {
        Some(samples) if cfg!(target_endian = "little") => out.write_all(bytemuck::cast_slice(samples)),
        _ => image.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
    }
}

/// Writes a pair of images as one `.npy` array, `float64`, `[2, rows, cols]`, and returns the file.
///
/// # Errors
/// A folder that cannot be written to, a full disk; images of different shapes.
pub fn write_npy_pair(path: &Path, pair: [&Image; 2]) -> Result<PathBuf> {
    let (rows, cols) = pair[0].dim();
    if pair[1].dim() != (rows, cols) {
        return Err(Error::bug("a pair of images with two shapes"));
    }
    write_new(path, "the array", |out| {
        npy_header(out, &format!("2, {rows}, {cols}"))?;
        pair.iter().try_for_each(|image| values(out, image))
    })
}

/// Format version 1.0: magic, header length, a Python dictionary padded so that the data begins at a multiple of
/// 64 bytes, then the samples.
fn npy_header(out: &mut impl Write, shape: &str) -> io::Result<()> {
    const START: usize = 10;
    let mut header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}");
    let end = (START + header.len() + 1).next_multiple_of(64);
    header.push_str(&" ".repeat(end - START - 1 - header.len()));
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    // The dictionary and its padding are two or three times 64 bytes.
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())
}

fn tiff(out: &mut (impl Write + Seek), layer: &Layer<'_>) -> io::Result<()> {
    let (rows, cols) = layer.image.dim();
    let side = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut file = TiffEncoder::new(out).map_err(plain)?;
    let mut image = file.new_image::<colortype::Gray32Float>(side(cols)?, side(rows)?).map_err(plain)?;
    let about = format!("stemstream {}: {} [{}]", env!("CARGO_PKG_VERSION"), layer.name, layer.units);
    image.encoder().write_tag(Tag::ImageDescription, about.as_str()).map_err(plain)?;
    let whole = layer.image.as_standard_layout();
    // Strip by strip, in one small buffer.
    let (mut samples, mut strip) = (whole.as_slice().unwrap_or_default(), Vec::new());
    while image.next_strip_sample_count() > 0 {
        let count = samples.len().min(image.next_strip_sample_count() as usize);
        let (now, later) = samples.split_at(count);
        strip.clear();
        strip.extend(now.iter().map(|&value| value as f32));
        image.write_strip(&strip).map_err(plain)?;
        samples = later;
    }
    image.finish().map_err(plain)
}

/// The operating system's error inside a TIFF error, so that a full disk is called one.
fn plain(error: tiff::TiffError) -> io::Error {
    match error {
        tiff::TiffError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_data_begins_at_a_multiple_of_64_bytes_whatever_the_shape() {
        for (rows, cols) in [(1, 1), (0, 3), (2048, 2048), (123_456, 1)] {
            let mut bytes = Vec::new();
            npy(&mut bytes, &Image::from_elem((rows, cols), 1.5)).unwrap();
            let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert_eq!((10 + header) % 64, 0);
            assert_eq!(bytes.len(), 10 + header + rows * cols * 8);
            assert_eq!(bytes[9 + header], b'\n');
        }
    }
}
