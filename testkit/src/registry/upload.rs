use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{is_digest, unknown};
use crate::http::{Answer, Incoming, header};
use crate::image::digest;

/// Uploads under way, and which repositories blobs belong to.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    scoped: bool,
    links: HashSet<(String, String)>,
    running: HashMap<String, Vec<u8>>,
    begun: usize,
}

fn empty(status: u16) -> Answer {
    Answer {
        status,
        ..Answer::bytes("application/octet-stream", b"")
    }
}

impl Uploads {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn scope(&self) {
        self.state().scoped = true;
    }

    pub(super) fn shows(&self, repository: &str, blob: &str) -> bool {
        let state = self.state();
        !state.scoped
            || state
                .links
                .contains(&(repository.to_owned(), blob.to_owned()))
    }

    pub(super) fn answer(
        &self,
        directory: &Path,
        request: &Incoming,
        name: &str,
        id: &str,
    ) -> Answer {
        match (request.method.as_str(), id) {
            ("POST", "") => self.begin(request, name),
            ("GET", _) => match self.state().running.get(id) {
                Some(bytes) => progress(empty(204), name, id, bytes),
                None => unknown("BLOB_UPLOAD_UNKNOWN"),
            },
            ("PATCH", _) => self.append(request, name, id),
            ("PUT", _) => self.finish(directory, request, name, id),
            _ => Answer::status(405),
        }
    }

    fn begin(&self, request: &Incoming, name: &str) -> Answer {
        let mut state = self.state();
        if let (Some(blob), Some(from)) =
            (request.query("mount").pop(), request.query("from").pop())
            && (state.links.contains(&(from, blob.clone())))
        {
            let place = format!("/v2/{name}/blobs/{blob}");
            let answer = stored(&place, &blob);
            state.links.insert((name.to_owned(), blob));
            return answer;
        }
        state.begun += 1;
        let id = format!("upload-{}", state.begun);
        state.running.insert(id.clone(), Vec::new());
        progress(empty(202), name, &id, b"")
    }

    fn append(&self, request: &Incoming, name: &str, id: &str) -> Answer {
        let mut state = self.state();
        let Some(bytes) = state.running.get_mut(id) else {
            return unknown("BLOB_UPLOAD_UNKNOWN");
        };
        let status = if in_order(request, bytes) { 202 } else { 416 };
        if status == 202 {
            bytes.extend_from_slice(&request.body);
        }
        progress(empty(status), name, id, bytes)
    }

    fn finish(&self, directory: &Path, request: &Incoming, name: &str, id: &str) -> Answer {
        let mut state = self.state();
        let Some(mut bytes) = state.running.remove(id) else {
            return unknown("BLOB_UPLOAD_UNKNOWN");
        };
        if !in_order(request, &bytes) {
            return progress(empty(416), name, id, &bytes);
        }
        bytes.extend_from_slice(&request.body);
        let stated = request.query("digest").pop().unwrap_or_default();
        if digest(&bytes) != stated {
            return wrong("DIGEST_INVALID");
        }
        let blobs = directory.join("blobs");
        let written =
            fs::create_dir_all(&blobs).and_then(|()| fs::write(blobs.join(&stated), &bytes));
        if written.is_err() {
            return Answer::status(500);
        }
        let answer = stored(&format!("/v2/{name}/blobs/{stated}"), &stated);
        state.links.insert((name.to_owned(), stated));
        answer
    }
}

/// containerd insists on the digest.
fn stored(place: &str, digest: &str) -> Answer {
    empty(201)
        .with("Location", place)
        .with("Docker-Content-Digest", digest)
}

/// A chunk must begin where the last one ended.
fn in_order(request: &Incoming, bytes: &[u8]) -> bool {
    let range = header(&request.headers, "content-range");
    let first = range.and_then(|range| range.split_once('-')?.0.parse::<usize>().ok());
    first.is_none_or(|first| first == bytes.len())
}

fn progress(answer: Answer, name: &str, id: &str, bytes: &[u8]) -> Answer {
    let place = format!(
        "/v2/{name}/blobs/uploads/{id}?_state=secret-{}",
        bytes.len()
    );
    let range = format!("0-{}", bytes.len().saturating_sub(1));
    answer.with("Location", &place).with("Range", &range)
}

fn wrong(code: &str) -> Answer {
    Answer {
        status: 400,
        ..unknown(code)
    }
}

/// Stores a manifest if all that it lists is there.
pub(super) fn put_manifest(
    directory: &Path,
    request: &Incoming,
    name: &str,
    reference: &str,
) -> Answer {
    let Ok(manifest) = serde_json::from_slice::<serde_json::Value>(&request.body) else {
        return wrong("MANIFEST_INVALID");
    };
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let blobs = layers
        .chain(manifest.get("config"))
        .filter_map(|entry| entry["digest"].as_str());
    let exists = |blob: &str| is_digest(blob) && directory.join("blobs").join(blob).is_file();
    if !blobs.clone().all(exists) {
        return wrong("MANIFEST_BLOB_UNKNOWN");
    }
    let own = digest(&request.body);
    let place = if is_digest(reference) {
        if reference != own {
            return wrong("DIGEST_INVALID");
        }
        directory.join("blobs").join(reference)
    } else {
        directory
            .join("manifests")
            .join(format!("{}:{reference}", name.replace('/', "_")))
    };
    let parent = place.parent().map_or(Ok(()), fs::create_dir_all);
    match parent.and_then(|()| fs::write(place, &request.body)) {
        Ok(()) => empty(201).with("Docker-Content-Digest", &own),
        Err(_) => Answer::status(500),
    }
}
