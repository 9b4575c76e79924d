//! Labels of a snapshot as text, `key=value` a line, and the lines as backend keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snapshotter::labels::{LayerHint, OURS, clean, namespace_of};

fuzz_target!(|text: &str| {
    let pairs = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let labels = clean(pairs);
    assert!(
        labels
            .iter()
            .all(|(key, value)| !key.starts_with(OURS) && !value.is_empty())
    );
    let hint = LayerHint::read(&labels);
    assert!(hint.image_layers.len() <= 4096);
    for line in text.lines() {
        if let Some(namespace) = namespace_of(line) {
            assert!(line.starts_with(namespace) && !namespace.contains('/'));
        }
    }
});
