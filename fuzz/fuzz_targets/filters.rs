//! A List request's filters, one a line; what parses can be asked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snapshotter::filters::{Fields, Filters};

struct Snapshot;

impl Fields for Snapshot {
    fn field(&self, fieldpath: &[String]) -> Option<String> {
        match fieldpath.first()?.as_str() {
            "name" => Some("k8s.io/1/sha256:00".to_owned()),
            "kind" => Some("committed".to_owned()),
            "labels" => fieldpath.get(1).filter(|key| key.len() % 2 == 0).cloned(),
            _ => None,
        }
    }
}

fuzz_target!(|text: &str| {
    let filters: Vec<&str> = text.lines().collect();
    if let Ok(filters) = Filters::parse(&filters) {
        let _ = filters.matches(&Snapshot);
        let _ = filters.only_value(&["name"]);
    }
});
