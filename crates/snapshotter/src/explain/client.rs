//! containerd's services, as far as an explanation needs them.

use std::collections::BTreeMap;
use std::time::Duration;

use image::Digest;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::{ExplainError, Question};
use crate::api::containers::containers_client::ContainersClient;
use crate::api::containers::{Container, GetContainerRequest, ListContainersRequest};
use crate::api::content::content_client::ContentClient;
use crate::api::images::GetImageRequest;
use crate::api::images::images_client::ImagesClient;
use crate::api::snapshots::StatSnapshotRequest;
use crate::api::snapshots::snapshots_client::SnapshotsClient;
use crate::content::{ContentError, NAMESPACE_HEADER, channel, document, document_request};
use crate::labels::Labels;

/// As little of a name as identifies a container to people.
const SHORTEST_ID: usize = 4;

pub(super) struct Client {
    channel: Channel,
    runtime: Handle,
    namespace: tonic::metadata::MetadataValue<tonic::metadata::Ascii>,
    deadline: Duration,
}

/// An image's name and what it leads to.
pub(super) struct Image {
    pub(super) name: String,
    pub(super) target: Digest,
}

/// A snapshot as containerd shows it.
pub(super) struct Info {
    pub(super) parent: String,
    pub(super) labels: Labels,
}

impl Client {
    pub(super) fn new(question: &Question<'_>, runtime: &Handle) -> Result<Self, ExplainError> {
        let namespace = question.namespace.parse();
        let _context = runtime.enter();
        Ok(Self {
            channel: channel(question.socket.to_owned()),
            runtime: runtime.clone(),
            namespace: namespace
                .map_err(|_| ExplainError::BadNamespace(question.namespace.to_owned()))?,
            deadline: question.deadline,
        })
    }

    fn ask<T, A>(
        &self,
        message: T,
        call: impl AsyncFnOnce(Request<T>) -> Result<A, Status>,
    ) -> Result<A, ExplainError> {
        let mut request = Request::new(message);
        let namespace = self.namespace.clone();
        request.metadata_mut().insert(NAMESPACE_HEADER, namespace);
        let answer = async { tokio::time::timeout(self.deadline, call(request)).await };
        match self.runtime.block_on(answer) {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                let late = format!("no answer within {:?}", self.deadline);
                Err(Status::deadline_exceeded(late).into())
            }
        }
    }

    pub(super) fn image(&self, name: &str) -> Result<Image, ExplainError> {
        let mut images = ImagesClient::new(self.channel.clone());
        let request = GetImageRequest {
            name: name.to_owned(),
        };
        let answer = self.ask(request, async |request| images.get(request).await)?;
        let image = answer.into_inner().image.unwrap_or_default();
        let target = image.target.unwrap_or_default().digest;
        Ok(Image {
            name: image.name,
            target: target
                .parse()
                .map_err(|_| Status::internal(format!("{target:?} is no digest")))?,
        })
    }

    /// A container by its name, or by the beginning of one if it is the only one.
    pub(super) fn container(&self, name: &str) -> Result<Option<Container>, ExplainError> {
        let mut containers = ContainersClient::new(self.channel.clone());
        let request = GetContainerRequest {
            id: name.to_owned(),
        };
        let answer = self.ask(request, async |request| containers.get(request).await);
        if let Some(answer) = super::found(answer)? {
            return Ok(answer.into_inner().container);
        }
        if name.len() < SHORTEST_ID {
            return Ok(None);
        }
        let request = ListContainersRequest::default();
        let answer = self.ask(request, async |request| containers.list(request).await)?;
        let all = answer.into_inner().containers.into_iter();
        let mut alike = all.filter(|container| container.id.starts_with(name));
        Ok(match (alike.next(), alike.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        })
    }

    pub(super) fn snapshot(&self, snapshotter: &str, key: &str) -> Result<Info, ExplainError> {
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let request = StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let answer = self.ask(request, async |request| snapshots.stat(request).await)?;
        let info = answer.into_inner().info.unwrap_or_default();
        Ok(Info {
            parent: info.parent,
            labels: info.labels.into_iter().collect::<BTreeMap<_, _>>(),
        })
    }

    /// A document of the content store.
    pub(super) fn read(&self, digest: &Digest) -> Result<Vec<u8>, ExplainError> {
        let mut content = ContentClient::new(self.channel.clone());
        self.ask(document_request(digest), async |request| {
            let mut parts = content.read(request).await?.into_inner();
            document(&mut parts, digest)
                .await
                .map_err(|error| match error {
                    ContentError::Rpc(status) => *status,
                    error => Status::out_of_range(error.to_string()),
                })
        })
    }
}
