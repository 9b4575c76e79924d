//! containerd's messages and services, generated from `proto/`.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
#![allow(
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::excessive_nesting
)]

/// `containerd.types`.
pub mod types {
    tonic::include_proto!("containerd.types");
}

/// `containerd.services`.
pub mod services {
    /// `containerd.services.snapshots`.
    pub mod snapshots {
        /// `containerd.services.snapshots.v1`.
        pub mod v1 {
            tonic::include_proto!("containerd.services.snapshots.v1");
        }
    }
    /// `containerd.services.diff`.
    pub mod diff {
        /// `containerd.services.diff.v1`.
        pub mod v1 {
            tonic::include_proto!("containerd.services.diff.v1");
        }
    }
    /// `containerd.services.images`.
    pub mod images {
        /// `containerd.services.images.v1`.
        pub mod v1 {
            tonic::include_proto!("containerd.services.images.v1");
        }
    }
    /// `containerd.services.containers`.
    pub mod containers {
        /// `containerd.services.containers.v1`.
        pub mod v1 {
            tonic::include_proto!("containerd.services.containers.v1");
        }
    }
    /// `containerd.services.leases`.
    pub mod leases {
        /// `containerd.services.leases.v1`.
        pub mod v1 {
            tonic::include_proto!("containerd.services.leases.v1");
        }
    }
    /// `containerd.services.content`.
    pub mod content {
        /// `containerd.services.content.v1`.
        pub mod v1 {
            tonic::include_proto!("containerd.services.content.v1");
        }
    }
}

pub use services::containers::v1 as containers;
pub use services::content::v1 as content;
pub use services::diff::v1 as diff;
pub use services::images::v1 as images;
pub use services::leases::v1 as leases;
pub use services::snapshots::v1 as snapshots;
