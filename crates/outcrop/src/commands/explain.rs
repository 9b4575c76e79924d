//! `outcrop explain`: where each layer of an image or container comes from.

use crate::cli::ExplainArgs;
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::publishing::table::{self, Align};
use crate::wiring;
use image::Platform;
use serde::Serialize;
use snapshotter::explain::{ExplainError, ExplainedLayer, Explanation, Question, Subject, explain};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// For each answer of containerd, which asks the daemon.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where containerd listens unless it is told otherwise.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The JSON form.
#[derive(Serialize)]
struct Report<'a> {
    /// `image` or `container`.
    subject: &'static str,
    name: &'a str,
    image: &'a str,
    snapshotter: &'a str,
    /// Bottom first.
    layers: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    snapshot: &'a str,
    layer: Option<&'a str>,
    blob_bytes: Option<u64>,
    /// `pulled` for an ordinary snapshot, `none` without a snapshot.
    source: &'a str,
    /// Why it is not lazy.
    reason: Option<&'a str>,
    read_bytes: Option<u64>,
    held_bytes: Option<u64>,
}

/// Asks containerd and prints.
pub(super) fn run(args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Error> {
    let config = Config::load(args.config.as_deref())?;
    let socket = config.containerd_socket.as_deref();
    let socket = socket.unwrap_or_else(|| Path::new(CONTAINERD));
    let runtime = wiring::runtime()?;
    let question = Question {
        socket,
        namespace: &args.namespace,
        name: &args.name,
        snapshotter: &args.snapshotter,
        deadline: DEADLINE,
        platform: &platform(),
    };
    let explanation = explain(&question, runtime.handle());
    let explanation = explanation.map_err(|error| failed(error, socket))?;
    let report = report(&explanation);
    if args.json {
        let json = serde_json::to_string(&report);
        let json =
            json.map_err(|error| Error::new(Kind::Internal, "cannot write JSON").because(error))?;
        return super::print(out, &json);
    }
    super::print(out, &text(&report))
}

fn failed(error: ExplainError, socket: &Path) -> Error {
    match &error {
        ExplainError::NotFound { .. } | ExplainError::BadNamespace(_) => {
            Error::new(Kind::Usage, error.to_string()).hint(
                "`ctr namespaces list` shows the namespaces, `ctr -n NAME images list` the images",
            )
        }
        ExplainError::Document { .. } | ExplainError::NoPlatform(_) => {
            Error::new(Kind::Corrupt, error.to_string()).hint("pull the image again")
        }
        _ => Error::new(
            Kind::Unavailable,
            format!("cannot ask containerd at {}", socket.display()),
        )
        .because(error)
        .hint("is containerd running, and are you root? `outcrop check` says what is missing"),
    }
}

fn report(explanation: &Explanation) -> Report<'_> {
    Report {
        subject: match explanation.subject {
            Subject::Image => "image",
            Subject::Container => "container",
        },
        name: &explanation.name,
        image: &explanation.image,
        snapshotter: &explanation.snapshotter,
        layers: explanation.layers.iter().map(row).collect(),
    }
}

fn row(layer: &ExplainedLayer) -> Row<'_> {
    let otherwise = if layer.present { "pulled" } else { "none" };
    Row {
        snapshot: &layer.snapshot,
        layer: layer.layer.as_deref(),
        blob_bytes: layer.blob_bytes,
        source: layer.source.as_deref().unwrap_or(otherwise),
        reason: layer.reason.as_deref(),
        read_bytes: layer.read_bytes,
        held_bytes: layer.held_bytes,
    }
}

fn text(report: &Report<'_>) -> String {
    let header = [
        ("LAYER", Align::Left),
        ("BLOB", Align::Right),
        ("SOURCE", Align::Left),
        ("WHY NOT LAZY", Align::Left),
        ("READ", Align::Right),
        ("OF", Align::Right),
    ];
    let bytes = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), table::bytes);
    let rows = report.layers.iter().map(|layer| {
        vec![
            short(layer.layer.unwrap_or(layer.snapshot)),
            bytes(layer.blob_bytes),
            layer.source.to_owned(),
            layer.reason.unwrap_or("-").to_owned(),
            bytes(layer.read_bytes),
            bytes(layer.held_bytes),
        ]
    });
    let table = table::render(&header, rows);
    let of = match report.subject {
        "container" if !report.image.is_empty() => format!(" of image {}", report.image),
        _ => String::new(),
    };
    format!(
        "{} {}{of}, snapshotter {}\n{table}",
        report.subject, report.name, report.snapshotter
    )
}

/// Enough of a digest to tell it from others.
fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

/// This machine's.
fn platform() -> Platform {
    Platform {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        }
        .to_owned(),
        os: "linux".to_owned(),
        variant: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: u8) -> ExplainedLayer {
        let digest = format!("sha256:{}", format!("{number:02x}").repeat(32));
        ExplainedLayer {
            snapshot: digest.clone(),
            layer: Some(digest),
            blob_bytes: Some(3 << 20),
            source: None,
            reason: None,
            present: true,
            held_bytes: None,
            read_bytes: None,
        }
    }

    #[test]
    fn a_mixed_image() {
        let explanation = Explanation {
            subject: Subject::Container,
            name: "c1".to_owned(),
            image: "registry.test/a:1".to_owned(),
            snapshotter: "outcrop".to_owned(),
            layers: vec![
                ExplainedLayer {
                    source: Some("cvmfs:unpacked.test.local".to_owned()),
                    held_bytes: Some(9 << 20),
                    read_bytes: Some(1 << 20),
                    ..layer(1)
                },
                ExplainedLayer {
                    reason: Some("not-found".to_owned()),
                    ..layer(2)
                },
                ExplainedLayer {
                    layer: None,
                    blob_bytes: None,
                    present: false,
                    ..layer(3)
                },
            ],
        };
        insta::assert_snapshot!(text(&report(&explanation)), @r"
        container c1 of image registry.test/a:1, snapshotter outcrop
        LAYER                   BLOB  SOURCE                     WHY NOT LAZY     READ       OF
        sha256:010101010101  3.0 MiB  cvmfs:unpacked.test.local  -             1.0 MiB  9.0 MiB
        sha256:020202020202  3.0 MiB  pulled                     not-found           -        -
        sha256:030303030303        -  none                       -                   -        -
        ");
    }
}
