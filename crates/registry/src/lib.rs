//! Client of the OCI distribution protocol: resolve references, read blobs whole or in ranges, push.
//!
//! ```text
//! config, hosts     what to ask: containerd's hosts.toml, mirrors in order, capabilities
//! credentials       docker config, credential helpers, kubelet credential providers
//! transport         one exchange over HTTP: deadlines, redirects; no secret goes to another host
//! auth              challenges and tokens
//! client            the loop over hosts and repetitions that everything below uses
//! content           documents, tags, sizes
//! blob, ranges, multipart   bytes of blobs
//! push              uploads
//! ```
//! Blocking interface over a tokio runtime that the caller owns; never call it from an async task.
//! Every wait has a deadline. No secret and no query of a URL (signatures) is in any message.

mod auth;
mod blob;
mod client;
mod config;
mod content;
pub mod credentials;
mod document;
mod error;
mod hosts;
mod metrics;
mod multipart;
mod push;
mod ranges;
mod secret;
mod transport;
mod verified;

pub use blob::Blob;
pub use client::Client;
pub use config::{Config, Proxies, Retries, Timeouts};
pub use credentials::{Credential, Credentials};
pub use document::Document;
pub use error::{Attempt, Error, Failure};
pub use metrics::Metrics;
pub use push::Pushed;
pub use ranges::Tail;
pub use secret::Secret;
pub use verified::Verified;
