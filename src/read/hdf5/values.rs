//! Reads small values of any type leniently: programs write the same attribute as a number, a string or an array.

use hdf5::types::{FixedAscii, FixedUnicode, TypeDescriptor, VarLenAscii, VarLenUnicode};
use hdf5::{Container, Group, Location};

/// Longer strings and arrays are no attribute of interest.
const LONGEST: usize = 1024;

/// The text of a string value, or a number as text; the first element of an array.
pub(super) fn text(value: &Container) -> Option<String> {
    if value.size() == 0 || value.size() > LONGEST {
        return None;
    }
    let text = match value.dtype().ok()?.to_descriptor().ok()? {
        TypeDescriptor::VarLenUnicode => value.read_raw::<VarLenUnicode>().ok()?.first()?.as_str().to_owned(),
        TypeDescriptor::VarLenAscii => value.read_raw::<VarLenAscii>().ok()?.first()?.as_str().to_owned(),
        TypeDescriptor::FixedAscii(n) if n <= LONGEST => {
            value.read_raw::<FixedAscii<LONGEST>>().ok()?.first()?.as_str().to_owned()
        }
        TypeDescriptor::FixedUnicode(n) if n <= LONGEST => {
            value.read_raw::<FixedUnicode<LONGEST>>().ok()?.first()?.as_str().to_owned()
        }
        TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_) | TypeDescriptor::Float(_) => {
            value.read_raw::<f64>().ok()?.first()?.to_string()
        }
        _ => return None,
    };
    Some(text.trim().to_owned())
}

/// The number of a numeric value or of a string that spells one; the first element of an array.
pub(super) fn number(value: &Container) -> Option<f64> {
    text(value)?.parse().ok()
}

/// The text of an attribute.
pub(super) fn attr_text(object: &Location, name: &str) -> Option<String> {
    text(&*object.attr(name).ok()?)
}

/// The number of an attribute.
pub(super) fn attr_number(object: &Location, name: &str) -> Option<f64> {
    number(&*object.attr(name).ok()?)
}

/// Whether a link exists and leads to an object. `path` may have several components.
pub(super) fn exists(group: &Group, path: &str) -> bool {
    group.loc_type_by_name(path).is_ok()
}
