//! Any bytes as `.cvmfswhitelist`, framed and bare.
#![no_main]

use cvmfs_inside::{Signed, Whitelist};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = Signed::parse(bytes) {
        let _ = Whitelist::parse(&signed.body);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Whitelist::parse(text);
    }
});
