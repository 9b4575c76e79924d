//! Any bytes as a wishlist; also as one entry of a good one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use publisher::wishlist::Wishlist;

fuzz_target!(|bytes: &[u8]| {
    let _ = Wishlist::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let printable = |character: char| character == ' ' || character.is_ascii_graphic();
    if !text.chars().all(printable) {
        return;
    }
    let entry = text.replace('\'', "''");
    let list = format!("version: 1\ncvmfs_repo: a.example.org\ninput:\n  - '{entry}'\n");
    // One entry is one image or one problem, whatever it says.
    let list = Wishlist::parse(list.as_bytes()).expect("the list is good");
    assert_eq!(list.images.len() + list.problems.len(), 1);
});
