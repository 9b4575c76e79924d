//! A snapshotter without any lazy layers, for containerd's conformance suite:
//! `plain_server <state directory> <socket>`; ends on SIGTERM.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use snapshotter::{AttachError, ChainLayer, ClaimRequest, Claimed, Config, LazyLayers, Refusal};

struct NoLayers;

impl LazyLayers for NoLayers {
    fn claim(&self, _request: &ClaimRequest) -> Result<Claimed, Refusal> {
        Err(Refusal::NotFound)
    }

    fn attach(&self, _chain: &[ChainLayer]) -> Result<PathBuf, AttachError> {
        Err(AttachError::Lost("no layer was ever claimed".to_owned()))
    }

    fn detach(&self, _chain: &[ChainLayer]) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(socket)) = (arguments.next(), arguments.next()) else {
        return Err("usage: plain_server <state directory> <socket>".into());
    };
    let config = Config::new(PathBuf::from(root), Arc::new(SystemTime::now));
    let listener = snapshotter::listen(Path::new(&socket))?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let shutdown = async move {
        terminate.recv().await;
    };
    snapshotter::serve(config, Arc::new(NoLayers), listener, shutdown).await?;
    Ok(())
}
