//! Any bytes as `.cvmfspublished`, framed and bare.
#![no_main]

use cvmfs_inside::{Manifest, Signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = Signed::parse(bytes) {
        assert!(signed.body.ends_with('\n'));
        let _ = Manifest::parse(&signed.body);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Manifest::parse(text);
    }
});
