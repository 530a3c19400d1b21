//! The stack's slabs while they are made: their geometry and where their memory comes from.

use std::sync::{Arc, Mutex, PoisonError};

use crate::axes::{Crop, DType, DetShape, ScanShape};
use crate::error::{Error, Result};
use crate::memory::AlignedBytes;
use crate::pipeline::{Emitter, Pool, Pooled};

/// What all blocks know about the geometry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) scan: ScanShape,
    pub(super) det: DetShape,
    pub(super) crop: Crop,
    /// Type of the source's samples.
    pub(super) dtype: DType,
    /// Type of the stack's samples: the same, or one of fewer bits.
    pub(super) stored: DType,
    pub(super) slab_rows: usize,
    pub(super) slabs: usize,
}

impl Geometry {
    pub(super) fn slab_bytes(&self) -> usize {
        self.crop.shape().len() * self.line() * self.stored.size()
    }

    pub(super) fn frame_bytes(&self) -> usize {
        self.det.len() * self.dtype.size()
    }

    /// Samples of one detector pixel in a slab, padding included.
    pub(super) fn line(&self) -> usize {
        self.slab_rows * self.scan.cols
    }

    /// Frames of one slab; the last may have fewer.
    pub(super) fn frames_in(&self, slab: usize) -> usize {
        self.slab_rows.min(self.scan.rows - slab * self.slab_rows) * self.scan.cols
    }
}

/// A slab's buffer: from the pool (out of core), or its own piece of the charged stack.
#[derive(Debug)]
pub(super) enum SlabBuffer {
    Owned(Arc<AlignedBytes>),
    Pooled(Pooled),
}

impl SlabBuffer {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Pooled(buffer) => buffer,
        }
    }

    pub(super) fn bytes_mut(&mut self) -> Result<&mut AlignedBytes> {
        match self {
            Self::Owned(bytes) => Arc::get_mut(bytes).ok_or_else(|| Error::bug("an unfinished slab is shared")),
            Self::Pooled(buffer) => Ok(buffer),
        }
    }
}

/// Where slabs come from.
#[derive(Clone)]
pub(super) enum SlabMaker {
    /// Slabs that stay in memory: those that nobody has taken. The stack is charged as a whole.
    Memory(Arc<Mutex<Vec<AlignedBytes>>>),
    /// Slabs that are used again as soon as they are written.
    Written(Pool),
}

impl SlabMaker {
    pub(super) fn make<T>(&self, out: &mut Emitter<'_, T>) -> Result<SlabBuffer> {
        match self {
            Self::Memory(free) => {
                let slab = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
                slab.map(|slab| SlabBuffer::Owned(Arc::new(slab)))
                    .ok_or_else(|| Error::bug("more slabs than the stack has"))
            }
            Self::Written(pool) => out.take(pool).map(SlabBuffer::Pooled),
        }
    }
}
