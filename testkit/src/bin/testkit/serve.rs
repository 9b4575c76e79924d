use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{FIXTURE_FQRN, Keys, Proxy, Registry, Running, ServerBuilder, Stratum1};

use crate::quantity;

/// What `testkit serve` serves, and how.
#[derive(Args)]
pub(crate) struct Options {
    /// Serve the fixture: its repository, its external content, its image
    #[arg(long)]
    fixture: bool,
    /// Serve this repository, or directory of repositories (signed with the fixture's keys if testkit made them)
    #[arg(long, conflicts_with = "fixture")]
    repository: Option<PathBuf>,
    /// Serve external content from here
    #[arg(long, conflicts_with = "fixture")]
    external: Option<PathBuf>,
    /// Serve these images, see `testkit image`
    #[arg(long)]
    images: Option<PathBuf>,
    /// Also run a forward proxy
    #[arg(long)]
    proxy: bool,
    /// Address of the Stratum 1; registry and proxy take the next ports (port 0: any)
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
    /// Wait before each answer, for instance 20ms
    #[arg(long, value_parser = quantity::duration)]
    latency: Option<Duration>,
    /// Of each server, for instance 1Gbit
    #[arg(long, value_parser = quantity::bandwidth)]
    bandwidth: Option<u64>,
    /// The registry answers 500 to every request for a blob
    #[arg(long)]
    blobs_fail: bool,
    /// Write all requests here at the end, as JSON
    #[arg(long)]
    log: Option<PathBuf>,
}

struct World {
    stratum1: Option<Running<Stratum1>>,
    registry: Option<Running<Registry>>,
    proxy: Option<Running<Proxy>>,
    description: Value,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _context = runtime.enter();
    // Before the ready line: whoever reads it may send the signal at once.
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let scratch = TempDir::new()?;
    let world = start(options, scratch.path())?;
    println!("{}", world.description);
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    if let Some(path) = &options.log {
        fs::write(path, world.log()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

impl World {
    fn log(&self) -> Result<String> {
        let requests = |server: Option<&testkit::Server>| -> Result<Value> {
            server.map_or(Ok(json!([])), |server| {
                Ok(serde_json::from_str(&server.log_json())?)
            })
        };
        let log = json!({
            "stratum1": requests(self.stratum1.as_deref())?,
            "registry": requests(self.registry.as_deref())?,
            "proxy": requests(self.proxy.as_deref())?,
        });
        Ok(log.to_string())
    }
}

fn start(options: &Options, scratch: &Path) -> Result<World> {
    let fixture = if options.fixture {
        Some(testkit::unpack_fixture(scratch)?)
    } else {
        None
    };
    let fixed = |path: &str| fixture.as_ref().map(|root| root.join(path));
    let repository = options
        .repository
        .clone()
        .or_else(|| fixed(&format!("srv/{FIXTURE_FQRN}")));
    let external = options.external.clone().or_else(|| fixed("external"));
    let images = options.images.clone().or_else(|| fixed("image"));
    anyhow::ensure!(
        repository.is_some() || images.is_some(),
        "nothing to serve: --fixture, --repository or --images"
    );
    let public_key = scratch.join("master.pub");
    fs::write(&public_key, Keys::fixture().public_key()?)?;

    let mut description = json!({"public_key": public_key});
    let stratum1 = repository.as_deref().map(|repository| {
        let mut builder = Stratum1::serving(repository);
        if let Some(external) = &external {
            builder = builder.external(external);
        }
        behaving(builder, options, 0).start()
    });
    let stratum1 = stratum1.transpose()?;
    if let (Some(server), Some(repository)) = (&stratum1, &repository) {
        let fqrn = fqrn(repository);
        description["stratum1"] = json!(server.url());
        description["repository_url"] =
            json!(server.repository_url(fqrn.as_deref().unwrap_or("@fqrn@")));
        description["fqrn"] = json!(fqrn);
        description["external_url"] = json!(server.external_url());
        description["repository"] = json!(repository);
    }
    let registry = images
        .as_deref()
        .map(|images| start_registry(images, options))
        .transpose()?;
    if let Some(server) = &registry {
        description["registry"] = json!(server.url());
        description["registry_host"] = json!(server.address().to_string());
        description["images"] = json!(images);
    }
    let proxy = options
        .proxy
        .then(|| behaving(Proxy::forwarding(), options, 2).start())
        .transpose()?;
    if let Some(server) = &proxy {
        description["proxy"] = json!(server.url());
    }
    Ok(World {
        stratum1,
        registry,
        proxy,
        description,
    })
}

fn start_registry(images: &Path, options: &Options) -> Result<Running<Registry>> {
    let builder = Registry::serving(images);
    let builder = if options.blobs_fail {
        builder.blobs_fail()
    } else {
        builder
    };
    behaving(builder, options, 1).start()
}

fn behaving<H>(mut builder: ServerBuilder<H>, options: &Options, offset: u16) -> ServerBuilder<H> {
    let mut address = options.listen;
    if address.port() != 0 {
        address.set_port(address.port().saturating_add(offset));
    }
    builder = builder.listen(&address.to_string());
    if let Some(latency) = options.latency {
        builder = builder.latency(latency);
    }
    match options.bandwidth {
        Some(bandwidth) => builder.bandwidth(bandwidth),
        None => builder,
    }
}

/// The name that a repository's manifest states; none for a directory of several.
fn fqrn(repository: &Path) -> Option<String> {
    let manifest = fs::read(repository.join(".cvmfspublished")).ok()?;
    let text = String::from_utf8_lossy(&manifest);
    text.lines()
        .take_while(|line| *line != "--")
        .find_map(|line| line.strip_prefix('N'))
        .map(str::to_owned)
}
