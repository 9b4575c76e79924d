//! `outcrop convert`: an image with layers that can be read piece by piece.

use crate::cli::{ConvertArgs, LayerFormat};
use crate::commands::print;
use crate::error::{Error, Kind};
use crate::publishing::shown::Shown;
use crate::publishing::table::{Align, bytes, render, short};
use crate::publishing::{backend, registries};
use crate::wiring;
use image::estargz::Format;
use publisher::convert::{
    ConvertOptions, Converted, ConvertedLayer, LayerOutcome, convert, open_target,
};
use publisher::{SourceOptions, open_source};
use std::borrow::Cow;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer lists of prioritised files are none.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// Readers take no larger chunks.
const MAX_CHUNK_BYTES: u64 = 128 << 20;

/// Converts the image, and says what became of each layer.
pub(super) fn run(args: &ConvertArgs, out: &mut dyn Write) -> Result<(), Error> {
    // What is wrong with the command line is said before anything is asked of a registry.
    let options = options(args)?;
    let runtime = wiring::runtime()?;
    let client = registries::client(&args.registry, &runtime);
    let sources = SourceOptions {
        scratch: options.scratch.clone(),
        registry: Some(client.clone()),
    };
    let source = open_source(&place(&args.image), &sources)?;
    let target = open_target(&place(&args.target), Some(client))?;
    let shown = Shown::begin("converting layers");
    let done = AtomicU64::new(0);
    let converted = convert(&*source, &*target, &options, &|_| {
        shown.step(publisher::Step {
            what: "layers converted",
            done: done.fetch_add(1, Ordering::Relaxed) + 1,
            total: None,
        });
    })?;
    drop(shown);
    for file in &converted.missing {
        // A closed stderr must not fail what is done already.
        let _ = writeln!(
            std::io::stderr(),
            "warning: no layer has the prioritized file {file}"
        );
    }
    match args.json {
        true => print(out, &json(args, &converted).to_string()),
        false => report(args, &converted, out),
    }
}

/// As skopeo names places, too: `docker://REFERENCE` and `oci:DIR[:TAG]`.
fn place(text: &str) -> Cow<'_, str> {
    match (text.strip_prefix("docker://"), text.strip_prefix("oci:")) {
        (Some(reference), _) => reference.into(),
        (_, Some(layout)) => format!("oci-layout:{layout}").into(),
        _ => text.into(),
    }
}

fn options(args: &ConvertArgs) -> Result<ConvertOptions, Error> {
    let (format, name, levels) = match args.format {
        LayerFormat::Estargz => (Format::Estargz, "estargz", 1..=9),
        LayerFormat::ZstdChunked => (Format::ZstdChunked, "zstd-chunked", 1..=22),
    };
    let mut options = ConvertOptions::new(format);
    if let Some(level) = args.level {
        if !levels.contains(&level) {
            let (least, most) = (levels.start(), levels.end());
            let message = format!("--level {level}: {name} has the levels {least} to {most}");
            return Err(Error::new(Kind::Usage, message));
        }
        options.layer.level = level;
    }
    let chunk_size = args.chunk_size.as_u64();
    if !(1..=MAX_CHUNK_BYTES).contains(&chunk_size) {
        let message = format!("--chunk-size {}: from 1 B to 128 MiB", args.chunk_size);
        return Err(Error::new(Kind::Usage, message));
    }
    options.layer.chunk_size = chunk_size;
    options.layer.threads = backend::threads(args.threads);
    if let Some(file) = &args.prioritized {
        options.prioritized = prioritized(file)?;
    }
    options.scratch = backend::scratch(args.scratch.as_deref());
    options.again = args.again;
    Ok(options)
}

/// One path a line; empty ones are none.
fn prioritized(file: &Path) -> Result<Vec<String>, Error> {
    let wrong = |reason: String| {
        let message = format!("cannot read the prioritized files of {}", file.display());
        Error::new(Kind::Usage, message)
            .because(reason)
            .hint("it has one path a line, such as usr/bin/python3")
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|list| list.take(MAX_LIST_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > MAX_LIST_BYTES {
        return Err(wrong("it is too long".to_owned()));
    }
    let lines = text.lines().map(|line| line.trim_end_matches('\r'));
    Ok(lines
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect())
}

fn outcome(layer: &ConvertedLayer) -> (&'static str, Option<&str>) {
    match &layer.outcome {
        LayerOutcome::Converted => ("converted", None),
        LayerOutcome::Reused => ("reused", None),
        LayerOutcome::Kept(reason) => ("kept", Some(reason)),
    }
}

fn report(args: &ConvertArgs, converted: &Converted, out: &mut dyn Write) -> Result<(), Error> {
    let header = [
        ("LAYER", Align::Left),
        ("BECAME", Align::Left),
        ("SIZE", Align::Right),
        ("OUTCOME", Align::Left),
    ];
    let rows = converted.layers.iter().map(|layer| {
        let (word, reason) = outcome(layer);
        vec![
            short(&layer.from),
            short(&layer.to.digest),
            bytes(layer.to.size),
            reason.map_or_else(|| word.to_owned(), |reason| format!("{word}: {reason}")),
        ]
    });
    print(out, &render(&header, rows))?;
    for digest in &converted.dropped {
        print(
            out,
            &format!("left out the attestation {digest}, which is of the image as it was"),
        )?;
    }
    print(out, &format!("{} is {}", args.target, converted.digest))
}

fn json(args: &ConvertArgs, converted: &Converted) -> serde_json::Value {
    let layers = converted.layers.iter().map(|layer| {
        let (outcome, reason) = outcome(layer);
        serde_json::json!({
            "from": layer.from,
            "digest": layer.to.digest,
            "media_type": layer.to.media_type,
            "size": layer.to.size,
            "diff_id": layer.diff_id,
            "outcome": outcome,
            "reason": reason,
        })
    });
    serde_json::json!({
        "image": args.image,
        "target": args.target,
        "digest": converted.digest,
        "layers": layers.collect::<Vec<_>>(),
        "missing_prioritized": converted.missing,
        "dropped_attestations": converted.dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_as_by_skopeo_too() {
        for (text, expected) in [
            ("docker://a.b/c:1", "a.b/c:1"),
            ("oci:/srv/image:1", "oci-layout:/srv/image:1"),
            ("oci-layout:/srv/image:1", "oci-layout:/srv/image:1"),
            ("oci-archive:/srv/image.tar", "oci-archive:/srv/image.tar"),
            ("a.b/oci:1", "a.b/oci:1"),
        ] {
            assert_eq!(place(text), expected);
        }
    }
}
