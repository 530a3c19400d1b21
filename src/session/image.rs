//! The image, made and brought into the cache one after the other, so that results can be written meanwhile.

use crate::axes::Image;
use crate::cache::Step;
use crate::error::Result;
use crate::session::{Results, Session};
use crate::steps::{self, ImageReport};

impl Session<'_> {
    /// As [`run_to`](Self::run_to) the image, and its results, for which nothing is read again. An image that was made is
    /// not in the cache yet ([`Results::kept`]): others may be writing the results while
    /// [`keep_image`](Self::keep_image) brings it there. A run that ends before makes it again.
    ///
    /// # Errors
    /// As [`run_to`](Self::run_to) and [`Results::read`].
    pub fn make_image(&self) -> Result<Results> {
        let made = self.steps_to(Step::Reconstruct)?;
        Results::read_rest(&self.cache_path(), made)
    }

    /// Brings the image that [`make_image`](Self::make_image) made into the cache: image, weights, virtual bright field.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn keep_image(&self, images: [&Image; 3], report: &ImageReport) -> Result<()> {
        steps::keep_image(&mut self.cache(), images, report)
    }
}
