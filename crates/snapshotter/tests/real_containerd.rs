//! The content lookup against a real containerd's content service: headers, filter and labels as it understands them.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use image::Digest;
use snapshotter::api::content::content_client::ContentClient;
use snapshotter::api::content::{WriteAction, WriteContentRequest};
use support::{Harness, Image, REF, labels};
use tonic::transport::{Channel, Endpoint};

const CONTAINERD: &str = "/usr/bin/containerd";

/// A containerd that is gone with its value.
struct Containerd(Child);

impl Drop for Containerd {
    fn drop(&mut self) {
        // It has no children of its own: nothing is run in it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &Path) -> Containerd {
    let at = |name: &str| directory.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
        at("root"),
        at("run"),
        at("containerd.sock")
    );
    std::fs::write(directory.join("config.toml"), config).unwrap();
    let child = Command::new(CONTAINERD)
        .args(["--config", &at("config.toml")])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(directory.join("log")).unwrap())
        .spawn();
    Containerd(child.unwrap())
}

async fn connect(socket: &Path) -> ContentClient<Channel> {
    for _ in 0..600 {
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://containerd.invalid");
        if let Ok(channel) = endpoint.connect_with_connector(connector).await {
            return ContentClient::new(channel);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("containerd does not listen");
}

async fn put(
    client: &mut ContentClient<Channel>,
    bytes: Vec<u8>,
    pairs: &[(&str, &str)],
) -> String {
    let digest = Digest::of(&bytes).to_string();
    let write = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: digest.clone(),
        total: bytes.len() as i64,
        expected: digest.clone(),
        data: bytes,
        labels: labels(pairs),
        ..Default::default()
    };
    let mut request = tonic::Request::new(tokio_stream::iter([write]));
    request
        .metadata_mut()
        .insert("containerd-namespace", "k8s.io".parse().unwrap());
    let mut answers = client.write(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_containerd_tells_the_layer_of_a_chain_id() {
    if !Path::new(CONTAINERD).exists() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs {CONTAINERD} and root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _containerd = start(directory.path());
    let socket = directory.path().join("containerd.sock");
    let mut client = connect(&socket).await;
    let image = Image::new("real", 2);
    let diff_ids: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    let config =
        serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = put(
        &mut client,
        config.to_string().into_bytes(),
        &[("containerd.io/gc.root", "x")],
    )
    .await;
    let layer = |blob: &Digest| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": blob.to_string(), "size": 1});
    let layers: Vec<_> = image.layers.iter().map(|one| layer(&one.blob)).collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "layers": layers,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 1}});
    let labelled = [
        ("containerd.io/gc.root", "x"),
        ("containerd.io/gc.ref.content.config", config.as_str()),
    ];
    put(&mut client, manifest.to_string().into_bytes(), &labelled).await;

    let h = Harness::start_with(|settings| {
        settings.containerd_socket = Some(socket);
        settings.content_deadline = Duration::from_secs(60);
    });
    let h = h.await;
    h.layers.know(&image);
    let only_ref = |index: usize| labels(&[(REF, &image.chain(index))]);
    let first = h.pull_layer("k8s.io/1/x", "", only_ref(0)).await;
    assert_eq!(first, Some(image.chain(0)));
    assert_eq!(
        h.pull_layer("k8s.io/2/x", &image.chain(0), only_ref(1))
            .await,
        Some(image.chain(1))
    );
    assert_eq!(
        h.pull_layer(
            "elsewhere/3/x",
            "",
            labels(&[(REF, &Image::new("other", 1).chain(0))])
        )
        .await,
        None
    );
}
