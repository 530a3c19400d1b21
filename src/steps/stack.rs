//! The cropped, pixel-major stack: in memory, or mapped from the cache.

mod ahead;

use std::sync::Arc;

use self::ahead::ReadAhead;
use crate::axes::{Crop, DType, DetShape, Image, Sample, ScanShape};
use crate::error::{Error, Result};
use crate::kernel::convert::{PixelSums, pixel_sums};
use crate::memory::{AlignedBytes, Charge};
use crate::store::{ArraySpec, ChunkSource, ChunkedArray, Group, StoredType};

/// The name of the stack's array in the cache.
const ARRAY: &str = "stack";
/// Files of slabs that may be open at once, where they are not mapped: systems usually allow 1024 to a process.
const MOST_OPEN: usize = 256;

/// One number for each detector pixel of the crop and each scan position, in the source's own type or, where its counts are
/// small, in one of fewer bits.
///
/// A slab holds some scan rows of all detector pixels, `[crop row, crop col, scan row, scan col]`; the last one may
/// be padded. Any number of threads may read at once.
#[derive(Debug)]
pub struct Stack {
    slabs: Slabs,
    dtype: DType,
    scan: ScanShape,
    /// Samples of one detector pixel in a slab.
    line: usize,
    /// Of each pixel's image, where they are known.
    sums: Option<Vec<PixelSums>>,
}

#[derive(Debug)]
enum Slabs {
    Memory { slabs: Vec<Arc<AlignedBytes>>, _charge: Charge },
    Disk { chunks: Vec<ChunkSource>, ahead: ReadAhead },
}

impl Stack {
    pub(super) fn in_memory(
        slabs: Vec<Arc<AlignedBytes>>,
        charge: Charge,
        (dtype, scan, slab_rows): (DType, ScanShape, usize),
    ) -> Self {
        Self { slabs: Slabs::Memory { slabs, _charge: charge }, dtype, scan, line: slab_rows * scan.cols, sums: None }
    }

    /// The stack that lies in a cache.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is missing or damaged.
    pub(super) fn open(group: &Group, scan: ScanShape, crop: DetShape) -> Result<Self> {
        let array = ChunkedArray::open(group, ARRAY)?;
        let spec = array.spec();
        let StoredType::Sample(dtype) = spec.stored else {
            return Err(Error::cache(group.path(), "its stack is not of a sample type"));
        };
        let slab_rows = spec.chunk.first().copied().unwrap_or(1);
        if *spec != stack_spec(scan, crop, slab_rows, dtype) {
            return Err(Error::cache(group.path(), "its stack has an unexpected shape"));
        }
        let count = scan.rows.div_ceil(slab_rows);
        let keep_open = count <= MOST_OPEN;
        let chunks = (0..count).map(|i| array.chunk_source(&[i, 0, 0, 0], keep_open)).collect::<Result<Vec<_>>>()?;
        let ahead = ReadAhead::new(crop.len(), scan.len() * dtype.size());
        chunks.iter().for_each(ChunkSource::read_as_announced);
        Ok(Self { slabs: Slabs::Disk { chunks, ahead }, dtype, scan, line: slab_rows * scan.cols, sums: None })
    }

    /// The same stack, and the sums that the corner turn added up on its way: those of small integers, which are the same to
    /// the last bit whoever adds them up.
    pub(super) fn with_sums(self, sums: impl Iterator<Item = PixelSums>) -> Self {
        let exact = crate::with_sample_type!(self.dtype, S => <S as Sample>::SMALL);
        Self { sums: exact.then(|| sums.collect()), ..self }
    }

    /// The sums of one detector pixel's `image`.
    pub(super) fn sums_of<S: Sample>(&self, pixel: usize, image: &[S]) -> PixelSums {
        let Some(sums) = self.sums.as_ref().and_then(|sums| sums.get(pixel)) else { return pixel_sums(image) };
        debug_assert_eq!(*sums, pixel_sums(image), "sums of pixel {pixel}");
        *sums
    }

    /// Type of the samples.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether the samples are held in memory.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.slabs, Slabs::Memory { .. })
    }

    /// Scan rows of one detector pixel that lie together.
    pub fn rows_together(&self) -> usize {
        self.line / self.scan.cols.max(1)
    }

    /// Whether images can be read [where they lie](Self::pieces): not where the stack is read by positioned reads.
    pub fn is_addressable(&self) -> bool {
        match &self.slabs {
            Slabs::Memory { .. } => true,
            Slabs::Disk { chunks, .. } => chunks.iter().all(|chunk| chunk.bytes().is_some()),
        }
    }

    /// The image of one detector pixel where it lies: [`rows_together`](Self::rows_together) scan rows in every piece but
    /// the last. Nothing where the stack is read by positioned reads.
    ///
    /// # Panics
    /// When `S` is not the stack's type or the pixel is out of range.
    pub fn pieces<S: Sample>(&self, pixel: usize) -> impl Iterator<Item = &[S]> {
        assert_eq!(S::DTYPE, self.dtype, "stack of another type");
        self.announce(pixel);
        let (line, all) = (self.line * self.dtype.size(), self.scan.len() * self.dtype.size());
        let count = all.div_ceil(line.max(1));
        let slab = |index: usize| match &self.slabs {
            Slabs::Memory { slabs, .. } => Some(&slabs[index][..]),
            Slabs::Disk { chunks, .. } => chunks[index].bytes(),
        };
        (0..count).filter_map(move |index| {
            let (start, len) = (pixel * line, line.min(all - index * line));
            slab(index).map(|bytes| bytemuck::cast_slice(&bytes[start..start + len]))
        })
    }

    /// Has the system fetch this image, and those after it when one after the other is asked for.
    fn announce(&self, pixel: usize) {
        let Slabs::Disk { chunks, ahead } = &self.slabs else { return };
        let Some(pixels) = ahead.of(pixel) else { return };
        let line = self.line * self.dtype.size();
        for chunk in chunks {
            chunk.will_read(pixels.start * line..pixels.end * line);
        }
    }

    /// Copies the image of one detector pixel (`[scan row, scan col]`).
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io) when a stack on disk is read by positioned reads and one fails.
    ///
    /// # Panics
    /// When `S` is not the stack's type, the pixel is out of range or `out` is not one sample per scan position.
    pub fn copy_image<S: Sample>(&self, pixel: usize, out: &mut [S]) -> Result<()> {
        assert_eq!(S::DTYPE, self.dtype, "stack of another type");
        assert_eq!(out.len(), self.scan.len(), "image of a wrong size");
        self.announce(pixel);
        let start = pixel * self.line * self.dtype.size();
        for (index, piece) in out.chunks_mut(self.line).enumerate() {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(piece);
            match &self.slabs {
                Slabs::Memory { slabs, .. } => bytes.copy_from_slice(&slabs[index][start..start + bytes.len()]),
                Slabs::Disk { chunks, .. } => chunks[index].copy(start, bytes)?,
            }
        }
        Ok(())
    }
}

/// The type of the stack that lies in a cache, where there is one.
pub fn stored_type(group: &Group) -> Option<DType> {
    match ChunkedArray::open(group, ARRAY).ok()?.spec().stored {
        StoredType::Sample(dtype) => Some(dtype),
        _ => None,
    }
}

/// How the stack lies in the cache: chunks of whole scan rows with all detector pixels.
pub(super) fn stack_spec(scan: ScanShape, crop: DetShape, slab_rows: usize, dtype: DType) -> ArraySpec {
    ArraySpec {
        name: ARRAY.to_owned(),
        shape: vec![scan.rows, scan.cols, crop.rows, crop.cols],
        chunk: vec![slab_rows, scan.cols, crop.rows, crop.cols],
        stored: StoredType::Sample(dtype),
        memory_order: Some(vec![2, 3, 0, 1]),
        dims: ["scan_row", "scan_col", "det_row", "det_col"].map(str::to_owned).to_vec(),
    }
}

/// The stack and what was learnt while it was made.
#[derive(Debug)]
pub struct CroppedStack {
    /// The samples.
    pub stack: Stack,
    /// The crop.
    pub crop: Crop,
    /// Mean over all frames, `[det row, det col]`.
    pub mean_pattern: Image,
    /// The image of the central crop pixel, `[scan row, scan col]`: the documented "standard BF".
    pub central_image: Image,
    /// Which pixels of the crop are not to be trusted, `[crop row, crop col]`: 0 good, else what is wrong with it.
    pub bad_pixels: Image,
}

/// Linear index of the crop's central pixel, `(rows / 2, cols / 2)`.
pub(super) fn central_pixel(crop: DetShape) -> usize {
    crop.rows / 2 * crop.cols + crop.cols / 2
}

/// One detector pixel's image as f64.
///
/// # Errors
/// As [`Stack::copy_image`].
pub(super) fn image_of(stack: &Stack, pixel: usize) -> Result<Image> {
    crate::with_sample_type!(stack.dtype, S => {
        let mut samples = vec![<S as Default>::default(); stack.scan.len()];
        stack.copy_image(pixel, &mut samples)?;
        let shape = (stack.scan.rows, stack.scan.cols);
        Ok(Image::from_shape_fn(shape, |(r, c)| samples[r * stack.scan.cols + c].to_f64()))
    })
}
