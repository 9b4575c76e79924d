use std::fs;
use std::path::Path;

use serde_json::json;

use super::unknown;
use crate::http::{Answer, Incoming};

/// `tags/list`, in pages.
pub(super) fn list(directory: &Path, request: &Incoming, name: &str, page: usize) -> Answer {
    let prefix = format!("{}:", name.replace('/', "_"));
    let Ok(entries) = fs::read_dir(directory.join("manifests")) else {
        return unknown("NAME_UNKNOWN");
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut tags: Vec<_> = names
        .filter_map(|file| file.strip_prefix(&prefix).map(str::to_owned))
        .collect();
    if tags.is_empty() {
        return unknown("NAME_UNKNOWN");
    }
    tags.sort();
    let last = request.query("last").pop();
    tags.retain(|tag| last.as_ref().is_none_or(|last| tag > last));
    let asked = request
        .query("n")
        .pop()
        .and_then(|count| count.parse().ok());
    let count = asked.unwrap_or(page).min(page);
    let more = tags.len() > count;
    tags.truncate(count);
    let body = json!({"name": name, "tags": tags}).to_string();
    let answer = Answer::bytes("application/json", body.as_bytes());
    match tags.last().filter(|_| more) {
        Some(last) => {
            let link = format!("</v2/{name}/tags/list?n={count}&last={last}>; rel=\"next\"");
            answer.with("Link", &link)
        }
        None => answer,
    }
}
