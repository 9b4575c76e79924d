use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::builder::ServerBuilder;
use crate::http::{Answer, Body, Incoming, header};
use crate::server::Handler;

/// What several ranges in one request lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RangeMode {
    /// The whole blob with status 200, as S3 does.
    #[default]
    Whole,
    /// `multipart/byteranges`.
    Multipart,
    /// This status.
    Refused(u16),
}

impl RangeMode {
    pub(super) fn apply(self, request: &Incoming, answer: Answer) -> Answer {
        let ranges = header(&request.headers, "range").and_then(|text| text.strip_prefix("bytes="));
        let Some(ranges) = ranges.filter(|text| text.contains(',') && answer.status == 200) else {
            return answer;
        };
        match self {
            Self::Whole => answer,
            Self::Refused(status) => Answer::status(status),
            Self::Multipart => multipart(ranges, &answer).unwrap_or_else(|| Answer::status(416)),
        }
    }
}

fn multipart(ranges: &str, answer: &Answer) -> Option<Answer> {
    let whole = match &answer.body {
        Body::Bytes(bytes) => bytes.to_vec(),
        Body::File(path, _) => std::fs::read(path).ok()?,
    };
    let mut body = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.trim().split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        let bytes = whole.get(first..=last)?;
        let head = format!(
            "\r\n--THIS_SEPARATES\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
            whole.len()
        );
        body.extend(head.as_bytes());
        body.extend(bytes);
    }
    body.extend(b"\r\n--THIS_SEPARATES--\r\n");
    Some(Answer {
        status: 206,
        ..Answer::bytes("multipart/byteranges; boundary=THIS_SEPARATES", &body)
    })
}

/// Storage behind a registry, reached through signed URLs that may expire. Clones share the signature.
#[derive(Clone, Debug)]
pub struct BlobStore {
    directory: PathBuf,
    signature: Arc<AtomicU64>,
    ranges: RangeMode,
}

impl BlobStore {
    /// The blobs of a registry's directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            signature: Arc::default(),
            ranges: RangeMode::default(),
        }
    }

    /// What several ranges in one request lead to.
    #[must_use]
    pub fn ranges(self, ranges: RangeMode) -> Self {
        Self { ranges, ..self }
    }

    /// A server for it.
    #[must_use]
    pub fn serve(&self) -> ServerBuilder<Self> {
        ServerBuilder::new(self.clone())
    }

    /// All URLs so far are answered with 403 from now on.
    pub fn expire(&self) {
        self.signature.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn sign(&self, url: &str, blob: &str) -> String {
        let signature = self.signature.load(Ordering::SeqCst);
        format!("{url}/store/{blob}?signature=secret-{signature}")
    }
}

impl Handler for BlobStore {
    fn answer(&self, request: &Incoming) -> Answer {
        let path = String::from_utf8_lossy(&request.decoded_path()).into_owned();
        let Some(blob) = path
            .strip_prefix("/store/")
            .filter(|blob| super::is_digest(blob))
        else {
            return Answer::status(404);
        };
        let signature = format!("secret-{}", self.signature.load(Ordering::SeqCst));
        if request.query("signature") != [signature] {
            return Answer::status(403);
        }
        // As S3: two ways to prove who one is are an error.
        if header(&request.headers, "authorization").is_some() {
            return Answer::status(400);
        }
        let file = self.directory.join("blobs").join(blob);
        self.ranges
            .apply(request, Answer::file("application/octet-stream", file))
    }

    fn object(&self, path: &str) -> Option<String> {
        let blob = path.strip_prefix("/store/")?;
        Some(blob.split('?').next().unwrap_or_default().to_owned())
    }
}
