//! What a pull and the first container of an image cost when all its layers lie in a repository:
//! seconds and bytes, by number of layers and round-trip time to the repository.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use e2e::containerd::{new_folder, socket_in};
use e2e::outcrop::Repository;
use e2e::runtime::{Runtime, Version};
use e2e::{Containerd, Outcrop, Settings};
use serde::Serialize;
use testkit::{
    DuccOptions, Entry, ImageBuilder, Keys, Layer, Registry, RepositoryBuilder, Stratum1,
};

const FQRN: &str = "claim.test.local";
const NAMESPACE: &str = "bench";
const FILES_A_LAYER: usize = 200;
const HUGE_LAYER: usize = 500_000;

/// Options of `bench claim`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds of each case; figures are medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench-claim.json")]
    out: PathBuf,
}

#[derive(Debug, Clone, Serialize)]
struct Figures {
    image: String,
    layers: usize,
    round_trip_ms: u64,
    /// `ctr images pull`: manifest, configuration, and the claim of every layer.
    pull_seconds: f64,
    pull_bytes: u64,
    /// The first Prepare on top: waits for trees, merges, mounts.
    attach_seconds: f64,
    attach_bytes: u64,
    requests: usize,
}

struct Case {
    name: String,
    layers: usize,
    chain_id: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let world = new_folder()?;
    let cases = publish(world.path())?;
    let runtime = Runtime::find(Version::V2_1).context("containerd 2.1: run `make test` once")?;
    let mut all = Vec::new();
    for case in &cases {
        for milliseconds in [0, 20] {
            let mut rounds = (0..options.rounds.max(1))
                .map(|_| measure(world.path(), &runtime, case, milliseconds))
                .collect::<Result<Vec<_>>>()?;
            rounds.sort_by(|a, b| a.pull_seconds.total_cmp(&b.pull_seconds));
            let median = rounds.swap_remove(rounds.len() / 2);
            println!(
                "{:12} {:2} ms  pull {:6.2} s {:7.1} kB  attach {:6.2} s {:9.1} kB  {} requests",
                median.image,
                milliseconds,
                median.pull_seconds,
                median.pull_bytes as f64 / 1e3,
                median.attach_seconds,
                median.attach_bytes as f64 / 1e3,
                median.requests
            );
            all.push(median);
        }
    }
    fs::write(&options.out, serde_json::to_vec_pretty(&all)?)
        .with_context(|| options.out.display().to_string())
}

/// One pull and one attach on a node that has never seen the image.
fn measure(
    world: &std::path::Path,
    runtime: &Runtime,
    case: &Case,
    milliseconds: u64,
) -> Result<Figures> {
    let folder = new_folder()?;
    let registry = Registry::serving(&world.join("images")).start()?;
    let stratum1 = Stratum1::serving(&world.join(FQRN))
        .latency(Duration::from_millis(milliseconds))
        .start()?;
    let repository = Repository::embedded(
        FQRN,
        vec![stratum1.repository_url(FQRN)],
        &world.join("bench.pub"),
    );
    let _outcrop = Outcrop::start(folder.path(), &socket_in(folder.path()), &[repository])?;
    let settings = Settings {
        plugin: Outcrop::plugin(folder.path()),
        registry: Some(registry.url()),
    };
    let containerd = Containerd::start_in(folder.path(), runtime, settings)?;
    let image = registry.reference(&case.name, "1");
    let started = Instant::now();
    containerd.pull(NAMESPACE, &image)?;
    let pull_seconds = started.elapsed().as_secs_f64();
    let pull_bytes = stratum1.bytes_sent();
    let started = Instant::now();
    let snapshots = ["snapshots", "--snapshotter", "outcrop"];
    let prepare = [&snapshots[..], &["prepare", "first", &case.chain_id]].concat();
    containerd.ctr(NAMESPACE, &prepare)?;
    let attach_seconds = started.elapsed().as_secs_f64();
    let figures = Figures {
        image: case.name.clone(),
        layers: case.layers,
        round_trip_ms: milliseconds,
        pull_seconds,
        pull_bytes,
        attach_seconds,
        attach_bytes: stratum1.bytes_sent() - pull_bytes,
        requests: stratum1.requests().len(),
    };
    containerd.ctr(NAMESPACE, &[&snapshots[..], &["remove", "first"]].concat())?;
    Ok(figures)
}

fn publish(world: &std::path::Path) -> Result<Vec<Case>> {
    let mut builder = RepositoryBuilder::new(&world.join(FQRN), FQRN);
    let mut cases = Vec::new();
    let images = world.join("images");
    for (name, layers) in [
        ("layers-1", small_layers(1)),
        ("layers-10", small_layers(10)),
        ("layers-40", small_layers(40)),
        ("files-500k", vec![Layer::bulk(HUGE_LAYER)]),
    ] {
        let count = layers.len();
        let image = layers
            .into_iter()
            .fold(ImageBuilder::new(), ImageBuilder::layer)
            .build()?;
        for layer in &image.layers {
            builder.add_layer(layer, &DuccOptions::default())?;
        }
        image.write_to(&images, name, "1")?;
        let diff_ids: Vec<_> = image
            .layers
            .iter()
            .map(|layer| layer.diff_id.parse())
            .collect::<Result<_, image::DigestError>>()?;
        let chain_id = image::chain_ids(&diff_ids).pop().context("no layer")?;
        cases.push(Case {
            name: name.to_owned(),
            layers: count,
            chain_id: chain_id.to_string(),
        });
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    builder.publish(i64::try_from(now)?)?;
    fs::write(world.join("bench.pub"), Keys::fixture().public_key()?)?;
    Ok(cases)
}

fn small_layers(count: usize) -> Vec<Layer> {
    let layer = |layer: usize| {
        Layer::new((0..FILES_A_LAYER).map(|file| {
            let path = format!("opt/layer{layer}/{:02}/file{file}", file % 10);
            Entry::file(path, format!("file {file} of layer {layer} of {count}\n"))
        }))
    };
    (0..count).map(layer).collect()
}
