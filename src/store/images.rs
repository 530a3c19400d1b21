//! Two-dimensional results: small arrays of one chunk.

use crate::axes::{DType, Image};
use crate::error::{Error, Result};
use crate::store::array::ChunkedArray;
use crate::store::batch::Batch;
use crate::store::group::Group;
use crate::store::spec::{ArraySpec, StoredType};

impl Group {
    /// Stores a 2-D array of f64 as one chunk, replacing an earlier one of that name.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn write_image(&self, name: &str, image: &Image, dims: [&str; 2]) -> Result<()> {
        self.write_images(&[(name, image, dims)])
    }

    /// Stores 2-D arrays of f64 with their names and those of their axes, each as [`write_image`](Self::write_image) does: all
    /// are brought to the disk together.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn write_images(&self, images: &[(&str, &Image, [&str; 2])]) -> Result<()> {
        let mut batch = Batch::default();
        for (name, image, dims) in images {
            let (rows, cols) = image.dim();
            let spec = ArraySpec::plain(name, &[rows, cols], DType::F64, dims);
            let array = ChunkedArray::ensure_in(self, spec, &mut batch)?;
            let image = image.as_standard_layout();
            let numbers = image.as_slice().ok_or_else(|| Error::bug("an image in standard layout has no slice"))?;
            array.replace_chunk_in(&[0, 0], bytemuck::cast_slice(numbers), &mut batch)?;
        }
        batch.finish()
    }

    /// Reads a 2-D array that [`write_image`](Self::write_image) stored.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is missing or damaged.
    pub fn read_image(&self, name: &str) -> Result<Image> {
        let array = ChunkedArray::open(self, name)?;
        let spec = array.spec();
        let [rows, cols] = spec.shape[..] else {
            return Err(Error::cache(&self.path, format!("`{name}` is not two-dimensional")));
        };
        if spec.stored != StoredType::Sample(DType::F64) || spec.chunk != spec.shape {
            return Err(Error::cache(&self.path, format!("`{name}` is not a single chunk of float64")));
        }
        let chunk = array.chunk(&[0, 0])?;
        Image::from_shape_vec((rows, cols), chunk.cast::<f64>().to_vec()).map_err(|e| Error::bug(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    #[test]
    fn images_come_back_and_are_replaced_whatever_their_size() {
        let folder = tempfile::tempdir().expect("tempdir");
        let group = Group::create(folder.path(), Map::new()).expect("group");
        for shape in [(3, 5), (2, 2)] {
            let image = Image::from_shape_fn(shape, |(r, c)| r as f64 - 0.25 * c as f64);
            group.write_image("x", &image, ["row", "col"]).expect("write");
            assert_eq!(group.read_image("x").expect("read"), image);
        }
        assert_eq!(group.read_image("y").map_err(|e| e.exit_code()), Err(6));
    }
}
