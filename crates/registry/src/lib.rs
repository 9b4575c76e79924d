//! Client of the OCI distribution protocol: resolve references, read blobs whole or in ranges, push.

mod document;

pub use document::Document;
