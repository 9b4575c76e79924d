//! Any bytes as a catalog's `xattr` column.
#![no_main]

use cvmfs_inside::parse_xattrs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|blob: &[u8]| {
    let Some(attributes) = parse_xattrs(blob) else {
        return;
    };
    let bytes: usize = attributes
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    assert!(bytes <= blob.len() && attributes.len() <= 255);
    assert!(attributes.iter().all(|(name, _)| !name.is_empty()));
});
