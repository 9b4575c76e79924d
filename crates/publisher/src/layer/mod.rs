//! From a layer's blob to directory entries: verified, inflated, parsed as tar, and handed on one by one.
//!
//! Nothing is unpacked anywhere and nothing but one entry's headers is kept in memory, apart from 16 bytes for each symlink and the names
//! of hardlinks whose target has not come yet. Whatever is wrong with a layer is found before its last entry is handed on or when the blob
//! ends, and then the layer as a whole is refused: what a sink has got until then must be dropped.
//!
//! ```text
//! limits        what a layer may cost
//! inflate       gzip (also of several members), zstd or plain, by magic number; inflated bytes bounded
//! pax           extended headers; sparse: maps of files with holes, GNU's and the three of PAX
//! tar           headers and contents
//! paths         which names are refused
//! unpack        entries into a sink, hardlinks in both directions
//! ```

mod error;
mod inflate;
mod limits;
mod links;
mod paths;
mod pax;
mod sink;
mod sparse;
mod tar;
mod unpack;

pub use error::LayerError;
pub(crate) use inflate::Inflated;
pub use limits::LayerLimits;
pub use links::LowerLink;
pub use sink::Sink;
pub use unpack::{LayerBlob, Unpacked, unpack};
