//! What the commands that write repositories share: opening backends, registries and scratch space, and errors as people read them.

pub mod backend;
pub mod failure;
pub mod metrics;
pub mod progress;
pub mod registries;
pub mod shown;
pub mod summary;
pub mod table;
pub mod textfile;
pub mod wishlist_file;
