//! The lock: an object that only one publisher can make (`If-None-Match: *`) and that it renews. One that was not renewed for the length of
//! the lease, by the server's own clock, is that of a dead publisher and is taken over (`If-Match`).

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use tokio::task::JoinHandle;

use super::super::{HeldLock, Locking, StorageError};
use super::request::{Answer, Call, Client};

const LOCK: &str = "data/txn/publisher.lock";
const MAX_LOCK_BYTES: u64 = 4 << 10;
/// Renewals in the length of a lease.
const RENEWALS: u32 = 3;

/// A lock that is held.
pub(super) struct Lease {
    client: Arc<Client>,
    content: Vec<u8>,
    renewal: JoinHandle<()>,
}

impl Lease {
    pub(super) fn acquire(
        client: &Arc<Client>,
        holder: &str,
        lease: Duration,
    ) -> Result<Locking, StorageError> {
        let content = format!("{holder}\n{}\n", token()).into_bytes();
        let key = key(client);
        let put = |_: &Call| client.put_action(&key);
        let mut condition = ("if-none-match", "*".to_owned());
        if let Some(found) = client.get(LOCK, &key, Some(MAX_LOCK_BYTES))? {
            match found.header("etag").filter(|_| is_stale(&found, lease)) {
                Some(tag) => condition = ("if-match", tag),
                None => return Ok(Locking::Busy(holder_of(&found.body))),
            }
        }
        let mut call = Call::new(LOCK, "PUT");
        call.body.clone_from(&content);
        call.headers.push(condition);
        let mut answer = client.ask(&call, &put, None)?;
        if answer.status == StatusCode::NOT_IMPLEMENTED {
            // Without conditions the second look below decides.
            call.headers.clear();
            answer = client.ask(&call, &put, None)?;
        }
        let lost = matches!(
            answer.status,
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT | StatusCode::NOT_FOUND
        );
        if !lost && !answer.status.is_success() {
            return Err(client.refused(LOCK, &answer));
        }
        // Not all servers obey conditions; a try that was repeated may have won before.
        let found = client.get(LOCK, &key, Some(MAX_LOCK_BYTES))?;
        match found {
            Some(found) if found.body == content => {
                Ok(Locking::Held(Box::new(Self::hold(client, content, lease))))
            }
            found => {
                let body = found.map(|found| found.body).unwrap_or_default();
                Ok(Locking::Busy(holder_of(&body)))
            }
        }
    }

    fn hold(client: &Arc<Client>, content: Vec<u8>, lease: Duration) -> Self {
        let renewal =
            client
                .runtime
                .spawn(renew(Arc::clone(client), content.clone(), lease / RENEWALS));
        Self {
            client: Arc::clone(client),
            content,
            renewal,
        }
    }

    /// Who holds the lock, if it is not us.
    fn other(&self) -> Result<Option<String>, StorageError> {
        let found = self
            .client
            .get(LOCK, &key(&self.client), Some(MAX_LOCK_BYTES))?;
        Ok(match found {
            Some(found) if found.body == self.content => None,
            Some(found) => Some(holder_of(&found.body)),
            None => Some("nobody: it was removed".to_owned()),
        })
    }
}

impl HeldLock for Lease {
    fn check(&self) -> Result<(), StorageError> {
        match self.other()? {
            None => Ok(()),
            Some(holder) => Err(StorageError::LockLost {
                location: self.client.location.clone(),
                holder,
            }),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
        if !matches!(self.other(), Ok(None)) {
            return;
        }
        let key = key(&self.client);
        let action = |_: &Call| {
            rusty_s3::actions::DeleteObject::new(
                &self.client.place.bucket,
                self.client.credentials.as_ref(),
                &key,
            )
        };
        if let Err(error) = self.client.send(&Call::new(LOCK, "DELETE"), &action) {
            tracing::warn!(%error, "the lock stays until its lease ends");
        }
    }
}

/// Writes the same again and again. Waiting for requests blocks, so a thread for such does it.
async fn renew(client: Arc<Client>, content: Vec<u8>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let (client, content) = (Arc::clone(&client), content.clone());
        let renewed = tokio::task::spawn_blocking(move || renew_once(&client, &content)).await;
        match renewed {
            Ok(Ok(true)) => {}
            // Lost: the next look at it says so.
            Ok(Ok(false)) | Err(_) => return,
            Ok(Err(error)) => tracing::warn!(%error, "the lock cannot be renewed"),
        }
    }
}

fn renew_once(client: &Client, content: &[u8]) -> Result<bool, StorageError> {
    let key = key(client);
    let Some(found) = client.get(LOCK, &key, Some(MAX_LOCK_BYTES))? else {
        return Ok(false);
    };
    let (true, Some(tag)) = (found.body == content, found.header("etag")) else {
        return Ok(false);
    };
    let mut call = Call::new(LOCK, "PUT");
    call.body = content.to_vec();
    call.headers.push(("if-match", tag));
    let answer = client.ask(&call, &|_| client.put_action(&key), None)?;
    Ok(answer.status != StatusCode::PRECONDITION_FAILED)
}

fn key(client: &Client) -> String {
    client.place.key(LOCK)
}

fn holder_of(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    text.lines().next().unwrap_or_default().to_owned()
}

/// Both times are the server's.
fn is_stale(answer: &Answer, lease: Duration) -> bool {
    let time = |name: &str| {
        let text = answer.header(name)?;
        jiff::fmt::rfc2822::parse(&text)
            .ok()
            .map(|time| time.timestamp())
    };
    let (Some(now), Some(renewed)) = (time("date"), time("last-modified")) else {
        return false;
    };
    now.as_second() - renewed.as_second() > i64::try_from(lease.as_secs()).unwrap_or(i64::MAX)
}

/// Tells two publishers apart, however alike they are: the standard library's hash keys are random.
fn token() -> String {
    let number = || std::hash::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", number(), number())
}
