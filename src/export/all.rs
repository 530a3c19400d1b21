//! Everything that the configuration asks for, in one call.
