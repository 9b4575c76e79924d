//! What the kernel offers and neither `std` nor rustix wraps safely: resident memory and read-only maps of our own
//! files. The only crate with unsafe code; each block states why it is sound.

mod mapping;
mod resident;

pub use mapping::{Mapping, map_readonly};
pub use resident::{Resident, locked_buffer};
