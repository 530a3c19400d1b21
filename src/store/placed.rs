//! A large array that lies in a file of somebody else's format: one image of `f64` after the other, from a known place on.
//!
//! The file's own metadata were written before, by whoever knows its format, and are never touched here. Different images
//! may be written at once, by any number of threads; the same image never.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::memory::{AlignedBytes, BLOCK};
use crate::store::Io;
use crate::store::direct::DirectFile;

/// Bytes of a piece that is read and converted at once: they stay on the stack.
const PIECE: usize = 16 << 10;
/// Bytes that are converted and then written at once, where nobody says how many.
const STAGE: usize = 4 << 20;
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
    file: Arc<DirectFile>,
    place: Place,
    stage_bytes: usize,
    /// Those that no writer has just now.
    stages: Arc<Mutex<Vec<AlignedBytes>>>,
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
        // Numbers that lie across the borders of blocks cannot be written by blocks.
        let direct = write && io.direct && place.start.is_multiple_of(NUMBER as u64);
        let file = Arc::new(DirectFile::new(path, file, direct, io.window));
        Ok(Self { path: path.to_owned(), file, place, stage_bytes: STAGE, stages: Arc::default() })
    }

    /// The same array, each writer of which holds `bytes` (or more, to the end of the block) to convert numbers in.
    #[must_use]
    pub fn staged(self, bytes: usize) -> Self {
        Self { stage_bytes: bytes.next_multiple_of(BLOCK).max(BLOCK), ..self }
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

    /// Writes images number `first` and following, one after the other in `numbers`, each number made an `f64` by `widen`.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io); a full disk has its own hint.
    ///
    /// # Panics
    /// For images that the place does not have, and for parts of one.
    pub fn write<N: Copy>(&self, first: usize, numbers: &[N], widen: impl Fn(N) -> f64) -> Result<()> {
        let mut at = self.offset(first, numbers.len());
        let mut stage = self.stages.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let stage = stage.get_or_insert_with(|| AlignedBytes::zeroed(self.stage_bytes));
        let mut rest = numbers;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(piece_len(at, rest.len(), stage.len()));
            let bytes = &mut stage[..piece.len() * NUMBER];
            let wide: &mut [f64] = bytemuck::cast_slice_mut(bytes);
            wide.iter_mut().zip(piece).for_each(|(wide, &number)| *wide = widen(number));
            self.file.write(bytes, at).map_err(|e| Error::io(&self.path, "write", e))?;
            at += (piece.len() * NUMBER) as u64;
            rest = behind;
        }
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(stage));
        Ok(())
    }

    /// Reads image number `image`, each number rounded by `narrow`.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    ///
    /// # Panics
    /// For an image that the place does not have, and for one of another length.
    pub fn read<N>(&self, image: usize, out: &mut [N], narrow: impl Fn(f64) -> N) -> Result<()> {
        let mut at = self.offset(image, out.len());
        let mut wide = [0.0f64; PIECE / NUMBER];
        for piece in out.chunks_mut(wide.len()) {
            let wide = &mut wide[..piece.len()];
            let file = self.file.file();
            file.read_exact_at(bytemuck::cast_slice_mut(wide), at).map_err(|e| Error::io(&self.path, "read", e))?;
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
            self.file.file().read_exact_at(piece, at).map_err(|e| Error::io(&self.path, "read", e))?;
        }
        Ok(bytes)
    }

    /// Where image number `first` begins, for whole images of `numbers` in all.
    fn offset(&self, first: usize, numbers: usize) -> u64 {
        let Place { start, image_bytes, images } = self.place;
        let bytes = (numbers * NUMBER) as u64;
        let end = (first as u64).saturating_add(bytes / image_bytes.max(1));
        assert!(
            end <= images && bytes.is_multiple_of(image_bytes.max(1)),
            "{bytes} bytes from image {first} on for {images} places of {image_bytes} bytes"
        );
        start + first as u64 * image_bytes
    }
}

/// How many of `numbers` to write at byte `at`, from a stage of so many bytes: up to the first border of a block, or as many
/// whole blocks as there are and fit, or what is left at the end.
fn piece_len(at: u64, numbers: usize, stage: usize) -> usize {
    let before = (BLOCK - (at % BLOCK as u64) as usize) % BLOCK;
    let bytes = numbers * NUMBER;
    let piece = match before {
        0 if bytes < BLOCK => bytes,
        0 => bytes.min(stage) / BLOCK * BLOCK,
        // Without whole numbers up to the border nothing goes by blocks anyway.
        before if before % NUMBER != 0 => bytes.min(stage),
        before => before.min(bytes),
    };
    piece / NUMBER
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IO: Io = Io { map: true, window: None, direct: true };

    fn file(length: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(length).expect("length");
        file
    }

    /// Ways of writing: past the page cache and through it, held back and not.
    const WAYS: [Io; 3] = [IO, Io { direct: false, ..IO }, Io { window: Some(1), direct: false, ..IO }];

    #[test]
    fn images_come_back_and_touch_nothing_around_them() {
        // With borders of blocks inside of numbers, between numbers, and between images.
        for (start, numbers) in
            [(1001, PIECE / NUMBER + 7), (1000, PIECE / NUMBER + 7), (2 * BLOCK as u64, 3 * BLOCK / 8)]
        {
            let place = Place { start, image_bytes: (numbers * NUMBER) as u64, images: 6 };
            for io in WAYS {
                let file = file(place.end() + 500);
                let array = PlacedArray::open(file.path(), place, true, io).expect("open").staged(2 * BLOCK);
                let image = |k: usize| (0..numbers).map(|i| (i * 7 + k) as f32 / 16.0).collect::<Vec<_>>();
                let several: Vec<f32> = (2..5).flat_map(image).collect();
                array.write(2, &several, f64::from).expect("three at once");
                array.write(0, &image(0), f64::from).expect("one");
                for k in [0, 2, 3, 4] {
                    let mut found = vec![0.0f32; numbers];
                    array.read(k, &mut found, |wide| wide as f32).expect("read");
                    assert_eq!(found, image(k), "{start} {io:?} {k}");
                }
                let bytes = std::fs::read(file.path()).expect("read");
                let zero = |from: u64, to: u64| bytes[from as usize..to as usize].iter().all(|b| *b == 0);
                assert!(zero(0, start) && zero(place.end() - place.image_bytes, place.end() + 500), "{start} {io:?}");
                assert!(zero(start + place.image_bytes, start + 2 * place.image_bytes), "a hole stays a hole");
            }
        }
    }

    #[test]
    #[should_panic(expected = "image 2")]
    fn more_images_than_there_are_places_are_a_mistake_of_the_program() {
        let place = Place { start: 0, image_bytes: 80, images: 3 };
        let file = file(place.end());
        let array = PlacedArray::open(file.path(), place, true, IO).expect("open");
        let _ = array.write(2, &[0.0; 20], |number| number);
    }

    proptest! {
        #[test]
        fn pieces_are_whole_blocks_wherever_they_can_be(
            number in 0u64..5000, numbers in 1usize..20_000, blocks in 1usize..5, odd in prop::bool::weighted(0.1)
        ) {
            let (start, stage) = (number * NUMBER as u64 + u64::from(odd), blocks * BLOCK);
            let (mut at, mut left, mut rest) = (start, numbers, 0);
            while left > 0 {
                let piece = piece_len(at, left, stage);
                prop_assert!(piece > 0 && piece <= left && piece * NUMBER <= stage);
                let whole = at.is_multiple_of(BLOCK as u64) && (piece * NUMBER).is_multiple_of(BLOCK);
                rest += if whole { 0 } else { piece * NUMBER };
                (at, left) = (at + (piece * NUMBER) as u64, left - piece);
            }
            prop_assert_eq!(at, start + (numbers * NUMBER) as u64);
            prop_assert!(odd || rest < 2 * BLOCK, "less than a block at each end, and no more");
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
