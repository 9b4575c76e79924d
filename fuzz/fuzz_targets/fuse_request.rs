//! Any bytes as a request of the kernel: understood or refused, and names are names.
#![no_main]

use fuse::{Operation, parse_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = parse_request(bytes) else {
        return;
    };
    match request.operation {
        Operation::Lookup { name } | Operation::Getxattr { name, .. } => {
            assert!(!name.is_empty() && !name.contains(&0));
        }
        _ => {}
    }
    assert_eq!(parse_request(bytes), Ok(request));
});
