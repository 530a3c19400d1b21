//! A large array that lies in a file of somebody else's format: one image of `f64` after the other, from a known place on.
//!
//! The file's own metadata were written before, by whoever knows its format, and are never touched here. Different images
//! may be written at once, by any number of threads; the same image never.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Io;
use crate::store::file::write_out;

/// Bytes that are converted at once: they stay on the stack.
const PIECE: usize = 16 << 10;
const NUMBER: usize = size_of::<f64>();

/// Where the images of an array lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Byte at which the first image begins.
    pub start: u64,
    /// Bytes of one image.
    pub image_bytes: u64,
    /// Number of images.
    pub images: u64,
}

impl Place {
    /// The byte behind the last image.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.image_bytes.saturating_mul(self.images))
    }
}

/// The images of a place, for reading and writing.
#[derive(Debug, Clone)]
pub struct PlacedArray {
    path: PathBuf,
    file: Arc<File>,
    place: Place,
    /// In a control group: how much may wait for the disk.
    window: Option<u64>,
    waiting: Arc<AtomicU64>,
}

impl PlacedArray {
    /// Opens the file for reading, and for writing too where `write` says so.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io) when it cannot be opened, [`Cache`](crate::error::ErrorKind::Cache) when it is
    /// too short to hold the place.
    pub fn open(path: &Path, place: Place, write: bool, io: Io) -> Result<Self> {
        let file = File::options().read(true).write(write).open(path);
        let file = file.map_err(|e| Error::io(path, "open the HDF5 cache", e))?;
        let length = file.metadata().map_err(|e| Error::io(path, "look at the HDF5 cache", e))?.len();
        if length < place.end() || !place.image_bytes.is_multiple_of(NUMBER as u64) {
            let message = format!("expected {} bytes with bigFT and correlations, found {length}", place.end());
            return Err(Error::cache(path, message).with_hint("the file is damaged: delete it, and run again"));
        }
        Ok(Self { path: path.to_owned(), file: Arc::new(file), place, window: io.window, waiting: Arc::default() })
    }

    /// The same array, if it has so many images of so many numbers.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it has not.
    pub fn holding(self, images: usize, numbers: usize) -> Result<Self> {
        let Place { images: found, image_bytes, .. } = self.place;
        if found == images as u64 && image_bytes == (numbers * NUMBER) as u64 {
            return Ok(self);
        }
        let expected = (numbers * NUMBER) as u64;
        let message = format!("expected {images} images of {expected} bytes, found {found} of {image_bytes}");
        Err(Error::cache(&self.path, message).with_hint("the cache is damaged; start over with `--fresh`"))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes image number `image`, each number made an `f64` by `widen`.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io); a full disk has its own hint.
    ///
    /// # Panics
    /// For an image that the place does not have, and for one of another length.
    pub fn write<N: Copy>(&self, image: usize, numbers: &[N], widen: impl Fn(N) -> f64) -> Result<()> {
        let mut at = self.offset(image, numbers.len());
        let mut wide = [0.0f64; PIECE / NUMBER];
        for piece in numbers.chunks(wide.len()) {
            let wide = &mut wide[..piece.len()];
            wide.iter_mut().zip(piece).for_each(|(wide, &number)| *wide = widen(number));
            self.file.write_all_at(bytemuck::cast_slice(wide), at).map_err(|e| Error::io(&self.path, "write", e))?;
            at += (wide.len() * NUMBER) as u64;
        }
        let Some(window) = self.window else { return Ok(()) };
        if self.waiting.fetch_add(self.place.image_bytes, Ordering::Relaxed) + self.place.image_bytes >= window {
            self.waiting.store(0, Ordering::Relaxed);
            write_out(&self.file).map_err(|e| Error::io(&self.path, "flush to disk", e))?;
        }
        Ok(())
    }

    /// Reads image number `image`, each number rounded by `narrow`.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn read<N>(&self, image: usize, out: &mut [N], narrow: impl Fn(f64) -> N) -> Result<()> {
        let mut at = self.offset(image, out.len());
        let mut wide = [0.0f64; PIECE / NUMBER];
        for piece in out.chunks_mut(wide.len()) {
            let wide = &mut wide[..piece.len()];
            self.file
                .read_exact_at(bytemuck::cast_slice_mut(wide), at)
                .map_err(|e| Error::io(&self.path, "read", e))?;
            piece.iter_mut().zip(&*wide).for_each(|(number, &wide)| *number = narrow(wide));
            at += (wide.len() * NUMBER) as u64;
        }
        Ok(())
    }

    /// Bytes from `count` spots that are spread over the place, by which to see whether it holds what it held before.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn spots(&self, count: u64) -> Result<Vec<u8>> {
        const SPOT: u64 = 4 << 10;
        let whole = self.place.end() - self.place.start;
        let spot = SPOT.min(whole);
        let mut bytes = vec![0; (spot * count) as usize];
        for (i, piece) in (0..count).zip(bytes.chunks_mut((spot as usize).max(1))) {
            let at = self.place.start + (whole - spot) / count.max(2).saturating_sub(1) * i;
            self.file.read_exact_at(piece, at).map_err(|e| Error::io(&self.path, "read", e))?;
        }
        Ok(bytes)
    }

    fn offset(&self, image: usize, numbers: usize) -> u64 {
        let Place { start, image_bytes, images } = self.place;
        assert!(
            (image as u64) < images && (numbers * NUMBER) as u64 == image_bytes,
            "image {image} with {numbers} numbers for {images} places of {image_bytes} bytes"
        );
        start + image as u64 * image_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IO: Io = Io { map: true, window: None };

    fn file(length: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(length).expect("length");
        file
    }

    #[test]
    fn images_come_back_and_touch_nothing_around_them() {
        let numbers = PIECE / NUMBER + 7;
        let place = Place { start: 1000, image_bytes: (numbers * NUMBER) as u64, images: 3 };
        for io in [IO, Io { window: Some(1), ..IO }] {
            let file = file(place.end() + 500);
            let array = PlacedArray::open(file.path(), place, true, io).expect("open");
            let image = |k: usize| (0..numbers).map(|i| (i * 7 + k) as f32 / 16.0).collect::<Vec<_>>();
            for k in [2, 0] {
                array.write(k, &image(k), f64::from).expect("write");
            }
            for k in [0, 2] {
                let mut found = vec![0.0f32; numbers];
                array.read(k, &mut found, |wide| wide as f32).expect("read");
                assert_eq!(found, image(k));
            }
            let bytes = std::fs::read(file.path()).expect("read");
            let second = 1000 + place.image_bytes as usize;
            assert!(bytes[..1000].iter().all(|b| *b == 0) && bytes[place.end() as usize..].iter().all(|b| *b == 0));
            assert!(bytes[second..second + place.image_bytes as usize].iter().all(|b| *b == 0), "a hole stays a hole");
        }
    }

    #[test]
    fn spots_tell_one_content_from_another() {
        let place = Place { start: 64, image_bytes: 80_000, images: 5 };
        let file = file(place.end());
        let array = PlacedArray::open(file.path(), place, true, IO).expect("open");
        let before = array.spots(16).expect("read");
        array.write(4, &vec![1.5; 10_000], |number| number).expect("write");
        assert_ne!(array.spots(16).expect("read"), before);
        let tiny = PlacedArray::open(file.path(), Place { start: 0, image_bytes: 8, images: 1 }, false, IO);
        assert_eq!(tiny.expect("open").spots(16).expect("read").len(), 16 * 8);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let place = Place { start: 10, image_bytes: 80, images: 2 };
        let short = PlacedArray::open(file(169).path(), place, false, IO).expect_err("short");
        assert_eq!(short.exit_code(), 6);
        assert!(short.to_string().contains("expected 170 bytes"), "{short}");
        let other = PlacedArray::open(file(170).path(), place, false, IO).expect("long enough");
        assert!(other.clone().holding(2, 10).is_ok());
        assert_eq!(
            [other.clone().holding(3, 10), other.holding(2, 9)].map(|r| r.map_err(|e| e.exit_code()).err()),
            [Some(6); 2]
        );
        let huge = Place { start: u64::MAX, image_bytes: u64::MAX / 8 * 8, images: 9 };
        assert_eq!(PlacedArray::open(file(1).path(), huge, false, IO).map_err(|e| e.exit_code()).err(), Some(6));
    }
}
