//! A blob into containerd's content store.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::DiffError;
use crate::api::content::content_client::ContentClient;
use crate::api::content::{
    AbortRequest, Info, InfoRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use crate::api::leases::CreateRequest;
use crate::api::leases::leases_client::LeasesClient;

/// When containerd's garbage collector forgets a lease.
const EXPIRY: &str = "containerd.io/gc.expire";
/// Bytes of one message; containerd takes 16 MiB.
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages on their way.
const MESSAGES_AHEAD: usize = 4;
/// Without any progress.
const DEADLINE: Duration = Duration::from_secs(60);

/// containerd's content service, in a namespace and under a lease.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) channel: Channel,
    pub(super) headers: MetadataMap,
    pub(super) runtime: Handle,
}

impl Store {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.headers.clone();
        request
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, DiffError> {
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(DEADLINE, answer).await });
        match answer {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(DiffError::Deadline(DEADLINE)),
        }
    }

    /// A lease that ends by itself, `expiry` after 1970; gives its name.
    pub(super) fn lease(&self, name: &str, expiry: Duration) -> Result<String, DiffError> {
        let request = self.request(CreateRequest {
            id: name.to_owned(),
            labels: HashMap::from([(EXPIRY.to_owned(), rfc3339(expiry))]),
        });
        let mut client = LeasesClient::new(self.channel.clone());
        let answer = self.wait(client.create(request))?.into_inner();
        Ok(answer
            .lease
            .map_or_else(|| name.to_owned(), |lease| lease.id))
    }

    /// Forgets what was written under a reference and not committed.
    pub(super) fn abort(&self, reference: &str) -> Result<(), DiffError> {
        let request = self.request(AbortRequest {
            r#ref: reference.to_owned(),
        });
        let mut client = self.content();
        match self.wait(client.abort(request)) {
            Err(DiffError::Store(status)) if status.code() == Code::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// Begins a blob.
    pub(super) fn write(&self, reference: &str) -> Ingest {
        let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
        let request = self.request(ReceiverStream::new(receiver));
        let mut client = self.content();
        let answers = self.runtime.spawn(async move {
            let mut answers = client.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        });
        Ingest {
            store: self.clone(),
            reference: reference.to_owned(),
            stream: Some(Stream { sender, answers }),
            buffer: Vec::with_capacity(MESSAGE_BYTES),
            sent: 0,
            hasher: Sha256::new(),
        }
    }

    /// What the store has under a digest.
    pub(super) fn info(&self, digest: &str) -> Result<Info, DiffError> {
        let request = self.request(InfoRequest {
            digest: digest.to_owned(),
        });
        let mut client = self.content();
        let answer = self.wait(client.info(request))?.into_inner();
        answer
            .info
            .ok_or_else(|| Status::internal("an answer without content").into())
    }

    /// Sets one label.
    pub(super) fn set_label(&self, info: &Info, name: &str, value: &str) -> Result<(), DiffError> {
        let request = self.request(UpdateRequest {
            info: Some(Info {
                digest: info.digest.clone(),
                labels: HashMap::from([(name.to_owned(), value.to_owned())]),
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec![format!("labels.{name}")],
            }),
        });
        let mut client = self.content();
        self.wait(client.update(request)).map(drop)
    }
}

/// A blob on its way. Dropped without [`Ingest::commit`] it stays an unfinished upload, which [`Store::abort`] forgets.
pub(super) struct Ingest {
    store: Store,
    reference: String,
    /// `None` once the stream has ended.
    stream: Option<Stream>,
    buffer: Vec<u8>,
    sent: u64,
    hasher: Sha256,
}

struct Stream {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: JoinHandle<Result<(), Status>>,
}

impl Ingest {
    fn send(&mut self, request: WriteContentRequest) -> Result<(), DiffError> {
        let Some(stream) = &self.stream else {
            return Err(Status::aborted("the upload has ended").into());
        };
        let sending = async { tokio::time::timeout(DEADLINE, stream.sender.send(request)).await };
        match self.store.runtime.block_on(sending) {
            Ok(Ok(())) => Ok(()),
            // The store ended it, and says why.
            Ok(Err(_)) => {
                self.end()?;
                Err(Status::aborted("the store ended the upload").into())
            }
            Err(_) => Err(DiffError::Deadline(DEADLINE)),
        }
    }

    fn send_buffer(&mut self) -> Result<(), DiffError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(MESSAGE_BYTES));
        self.hasher.update(&data);
        let offset = signed(self.sent);
        self.sent += data.len() as u64;
        self.send(WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: self.reference.clone(),
            offset,
            data,
            ..WriteContentRequest::default()
        })
    }

    /// Makes it content of the store; gives its digest. Content that is there already is no error.
    pub(super) fn commit(mut self, labels: HashMap<String, String>) -> Result<String, DiffError> {
        self.send_buffer()?;
        let digest = format!("sha256:{}", hex(&self.hasher.clone().finalize()));
        self.send(WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: self.reference.clone(),
            total: signed(self.sent),
            expected: digest.clone(),
            offset: signed(self.sent),
            labels,
            ..WriteContentRequest::default()
        })?;
        match self.end() {
            Err(DiffError::Store(status)) if status.code() == Code::AlreadyExists => Ok(digest),
            other => other.map(|()| digest),
        }
    }

    /// Ends the stream and hears what the store has against it.
    fn end(&mut self) -> Result<(), DiffError> {
        let Some(Stream { sender, answers }) = self.stream.take() else {
            return Ok(());
        };
        drop(sender);
        let answers = async { tokio::time::timeout(DEADLINE, answers).await };
        match self.store.runtime.block_on(answers) {
            Ok(Ok(answer)) => Ok(answer?),
            // Only a panic ends a task so.
            Ok(Err(_)) => Err(Status::unknown("writing panicked").into()),
            Err(_) => Err(DiffError::Deadline(DEADLINE)),
        }
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(MESSAGE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        if self.buffer.len() == MESSAGE_BYTES {
            self.send_buffer().map_err(io::Error::other)?;
        }
        Ok(length)
    }

    /// Messages go when they are full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time after 1970 as containerd's labels have it.
fn rfc3339(time: Duration) -> String {
    prost_types::Timestamp {
        seconds: signed(time.as_secs()),
        nanos: 0,
    }
    .to_string()
}

/// Lower case, as digests are printed.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
