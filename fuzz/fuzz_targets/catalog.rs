//! Catalogs from a hostile server: any bytes as SQLite (first byte 0, the rest is the file), or a
//! real catalog with places overwritten (any other first byte; then per edit a place of 24 bits,
//! a length of 8 bits, and the new bytes).
#![no_main]

use std::fs;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static REAL: &[u8] = include_bytes!("../seeds/catalog/whole-0");

fuzz_target!(|input: &[u8]| {
    static PATH: OnceLock<std::path::PathBuf> = OnceLock::new();
    // In memory: a file is written for every input.
    let path = PATH.get_or_init(|| format!("/dev/shm/outcrop-fuzz-{}", std::process::id()).into());
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let edited;
    let file = if *first == 0 {
        rest
    } else {
        edited = edit(&REAL[1..], rest);
        &edited
    };
    fs::write(path, file).expect("room in /dev/shm");
    cvmfs_inside::read_catalog(path);
    let _ = fs::remove_file(path);
});

fn edit(real: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let mut file = real.to_vec();
    while let [a, b, c, length, rest @ ..] = edits {
        let at = u32::from_be_bytes([0, *a, *b, *c]) as usize % file.len();
        let length = usize::from(*length).min(rest.len()).min(file.len() - at);
        file[at..at + length].copy_from_slice(&rest[..length]);
        edits = &rest[length..];
    }
    file
}
