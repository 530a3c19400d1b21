//! What steps publish beyond the documented results: further images and curves, with what they mean.

use serde::{Deserialize, Serialize};

use crate::axes::Plane;
use crate::cache::manifest::Step;

/// A two-dimensional result beyond the documented ones: an array of the cache and what its numbers mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Extra {
    /// Name of the array, here and in every export.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Unit of the values; empty for plain numbers.
    pub units: String,
    /// What the axes are.
    pub plane: Plane,
    /// The step that made it, and with which it is forgotten.
    pub step: Step,
}

/// A table of numbers over one axis, to be written down and drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Name, here and in every export.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// What the first column is, and its unit.
    pub axis: (String, String),
    /// The values of the axis.
    pub x: Vec<f64>,
    /// The other columns: name and values, as many as `x` has.
    pub columns: Vec<(String, Vec<f64>)>,
    /// The step that made it, and with which it is forgotten.
    pub step: Step,
}
