//! Copies an image between registries: `copy FROM TO [CERTS.D [CONFIG.JSON]]`. For trials against real registries.

use std::error::Error;
use std::io::Write as _;

use image::{Digest, ManifestOrIndex, Reference};
use registry::{Client, Config, Credentials, Document, Metrics};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [from, to, rest @ ..] = &arguments[..] else {
        return Err("usage: copy FROM TO [CERTS.D [CONFIG.JSON]]".into());
    };
    let (from, to): (Reference, Reference) = (from.parse()?, to.parse()?);
    let runtime = tokio::runtime::Runtime::new()?;
    let config = Config {
        hosts_directories: rest.first().map(Into::into).into_iter().collect(),
        credentials: Credentials {
            docker: rest.get(1).map(Into::into).into_iter().collect(),
            ..Credentials::default()
        },
        chunk_size: Some(1 << 20),
        ..Config::default()
    };
    let client = Client::new(config, Metrics::default(), runtime.handle().clone());
    let top = client.document(&from, &[])?;
    copy(&client, &from, &to, &top)?;
    let (metrics, tags) = (client.metrics(), client.tags(&to)?);
    let (requests, failed) = (metrics.requests.get(), metrics.failed_requests.get());
    writeln!(
        std::io::stdout(),
        "{} as {to}, tags {tags:?}, {requests} requests, {failed} failed",
        top.digest
    )?;
    Ok(())
}

fn copy(
    client: &Client,
    from: &Reference,
    to: &Reference,
    document: &Document,
) -> Result<(), Box<dyn Error>> {
    match document.parse()? {
        ManifestOrIndex::Manifest(manifest) => {
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                let mut content = client.blob(from, blob)?;
                let pushed = client.push_blob(
                    to,
                    &blob.digest,
                    blob.size,
                    &mut content,
                    Some(from.repository()),
                )?;
                let part = client.blob_range(
                    to,
                    &blob.digest,
                    blob.size / 2,
                    blob.size - blob.size / 2,
                )?;
                let several =
                    client.multi_range(to, &blob.digest, &[(0, 2), (blob.size / 2, 5)])?;
                let same = several[1] == part[..5];
                writeln!(
                    std::io::stdout(),
                    "{} {} bytes: {pushed:?}, ranges agree: {same}",
                    blob.digest,
                    blob.size
                )?;
            }
        }
        ManifestOrIndex::Index(index) => {
            for entry in &index.manifests {
                let inner = client.document(&named(from, &entry.digest)?, &[])?;
                copy(client, from, &named(to, &entry.digest)?, &inner)?;
            }
        }
    }
    client.push_manifest(to, document)?;
    Ok(())
}

fn named(reference: &Reference, digest: &Digest) -> Result<Reference, image::ReferenceError> {
    format!(
        "{}/{}@{digest}",
        reference.registry(),
        reference.repository()
    )
    .parse()
}
