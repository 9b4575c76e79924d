//! The outside world for tests: Stratum 1, proxy and registry over real HTTP with a fault script, writers of images and
//! of signed repositories, and the fixture with the truth about it.
//!
//! ```text
//! fixture, truth           what the real server made and the real client showed; compare a directory with it
//! server, delivery, builder, http   HTTP/1.1 on threads, with latency, bandwidth, log and strict mode; fault: what goes wrong, and when
//! stratum1, registry, proxy  three kinds of it
//! client                   a tiny HTTP client
//! layer, image, demo       layers from entries; tar, gzip, manifest; images that run
//! repository, catalog, objects, keys, ducc  a signed repository from entries
//! ```
//! Never linked into the product.

// Test code: a failed expectation here is a failed test, and its message says which.
#![allow(clippy::expect_used, clippy::missing_panics_doc)]

mod builder;
mod catalog;
pub mod client;
mod delivery;
mod demo;
mod ducc;
mod fault;
mod fixture;
mod history;
mod http;
mod image;
mod keys;
mod layer;
mod objects;
mod proxy;
mod registry;
mod repository;
mod server;
mod stratum1;
mod truth;

pub use builder::{Running, ServerBuilder};
pub use catalog::Counters;
pub use demo::{DemoOptions, demo_image, pause_image};
pub use ducc::{DuccOptions, Placement};
pub use fault::{Fault, When};
pub use fixture::{FIXTURE_FQRN, Fixture, busybox, fixture, truth, truth_v1, unpack_fixture};
pub use http::{Answer, Body, Headers, Incoming};
pub use image::{Format, Image, ImageBuilder, LayerBlob, digest};
pub use keys::Keys;
pub use layer::{DEFAULT_MTIME, Entry, EntryKind, Layer, Storage};
pub use objects::Algorithm;
pub use proxy::Proxy;
pub use registry::{Access, BlobStore, RangeMode, Registry};
pub use repository::{Published, RepositoryBuilder};
pub use server::{Handler, Request, Server};
pub use stratum1::Stratum1;
pub use truth::{Difference, Field, Row, Truth, walk};
