//! One layer.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;

use image::estargz::{
    self, Error as TocError, Footer, FooterKind, Format, Limits, Toc, TocDigest, WriteError,
    Written, tail_length_to_fetch,
};
use image::{Descriptor, Digest, LayerCompression, MediaType};

use super::{ConvertError, ConvertOptions, ConvertedLayer, LayerOutcome, Target};
use crate::layer::{Inflated, LayerError};
use crate::source::ImageSource;

/// Converts a layer and puts it into the target; gives the prioritised files that it lacks, if it was asked for them.
pub(super) fn convert(
    source: &dyn ImageSource,
    target: &dyn Target,
    from: &Descriptor,
    diff_id: &Digest,
    options: &ConvertOptions,
) -> Result<(ConvertedLayer, Option<Vec<String>>), ConvertError> {
    if !options.again && options.prioritized.is_empty() && claims(from, options.layer.format) {
        let mut blob = copy(source, from, options)?;
        if is_lazy(&mut blob, from, options.layer.format) {
            check_diff_id(&mut blob, from, diff_id, options)?;
            target.put_blob(&from.digest, from.size, &mut blob)?;
            return Ok((
                layer(from, unchanged(from), *diff_id, LayerOutcome::Reused),
                None,
            ));
        }
    }
    let mut output = scratch(&options.scratch)?;
    match write(source, from, diff_id, options, &mut output)? {
        Ok(written) => {
            output.rewind().map_err(ConvertError::Scratch)?;
            target.put_blob(&written.digest, written.size, &mut output)?;
            let to = descriptor(from, &written, options.layer.format);
            let missing = (!options.prioritized.is_empty()).then_some(written.missing);
            Ok((
                layer(from, to, written.diff_id, LayerOutcome::Converted),
                missing,
            ))
        }
        Err(reason) => {
            let mut blob = copy(source, from, options)?;
            check_diff_id(&mut blob, from, diff_id, options)?;
            target.put_blob(&from.digest, from.size, &mut blob)?;
            let outcome = LayerOutcome::Kept(reason);
            Ok((layer(from, unchanged(from), *diff_id, outcome), None))
        }
    }
}

fn layer(
    from: &Descriptor,
    to: Descriptor,
    diff_id: Digest,
    outcome: LayerOutcome,
) -> ConvertedLayer {
    ConvertedLayer {
        from: from.digest,
        to,
        diff_id,
        outcome,
    }
}

/// The layer as it is, by its OCI name: the manifest becomes an OCI one.
fn unchanged(from: &Descriptor) -> Descriptor {
    let media_type = match &from.media_type {
        MediaType::DockerLayer(compression) => MediaType::OciLayer(*compression),
        other => other.clone(),
    };
    Descriptor {
        media_type,
        ..from.clone()
    }
}

fn descriptor(from: &Descriptor, written: &Written, format: Format) -> Descriptor {
    let mut annotations = from.annotations.clone();
    // Of the layer as it was.
    annotations.retain(|key, _| {
        !key.starts_with("containerd.io/snapshot/stargz/")
            && !key.starts_with("io.containers.")
            && !key.starts_with("io.github.containers.zstd-chunked.")
    });
    annotations.extend(written.annotations.clone());
    Descriptor {
        media_type: MediaType::OciLayer(match format {
            Format::Estargz => LayerCompression::Gzip,
            Format::ZstdChunked => LayerCompression::Zstd,
        }),
        digest: written.digest,
        size: written.size,
        annotations,
        platform: None,
    }
}

/// Writes the new layer; `Err` within says why this one has to stay as it is.
fn write(
    source: &dyn ImageSource,
    from: &Descriptor,
    diff_id: &Digest,
    options: &ConvertOptions,
    output: &mut File,
) -> Result<Result<Written, String>, ConvertError> {
    let fail = |error| ConvertError::Layer(from.digest, error);
    let blob = source.blob(from)?;
    let mut tar = Inflated::new(blob, options.limits).map_err(fail)?;
    let output = BufWriter::with_capacity(1 << 20, output);
    let result = if options.prioritized.is_empty() {
        let result = estargz::write(&mut tar, output, &options.layer);
        if keeps(&result) {
            return Ok(Err(reason(result)));
        }
        verify(tar, diff_id).map_err(fail)?;
        result
    } else {
        let mut whole = scratch(&options.scratch)?;
        spool(&mut tar, &mut whole).map_err(|error| wrong(from, error))?;
        verify(tar, diff_id).map_err(fail)?;
        whole.rewind().map_err(ConvertError::Scratch)?;
        estargz::write_prioritized(
            io::BufReader::with_capacity(128 << 10, whole),
            output,
            &options.layer,
            &options.prioritized,
        )
    };
    if keeps(&result) {
        return Ok(Err(reason(result)));
    }
    result.map(Ok).map_err(|error| match error {
        WriteError::Input(error) => wrong(from, error),
        error => ConvertError::Write(from.digest, error),
    })
}

fn keeps(result: &Result<Written, WriteError>) -> bool {
    matches!(
        result,
        Err(WriteError::NotUtf8(_) | WriteError::Unsupported { .. })
    )
}

fn reason(result: Result<Written, WriteError>) -> String {
    result
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

fn wrong(from: &Descriptor, error: io::Error) -> ConvertError {
    ConvertError::Layer(from.digest, LayerError::from_io(error))
}

fn spool(input: &mut impl Read, output: &mut File) -> io::Result<()> {
    let mut output = BufWriter::with_capacity(1 << 20, output);
    io::copy(input, &mut output)?;
    output.flush()
}

/// Reads the blob to its end, where its digest is looked at, and compares the tar's.
fn verify(tar: Inflated<'_>, expected: &Digest) -> Result<(), LayerError> {
    let actual = tar.finish()?.diff_id;
    if actual == *expected {
        return Ok(());
    }
    Err(LayerError::DiffId {
        expected: *expected,
        actual,
    })
}

/// The whole blob, verified.
fn copy(
    source: &dyn ImageSource,
    from: &Descriptor,
    options: &ConvertOptions,
) -> Result<File, ConvertError> {
    let mut file = scratch(&options.scratch)?;
    let mut blob = source.blob(from)?;
    spool(&mut blob, &mut file).map_err(|error| ConvertError::Blob(from.digest, error))?;
    file.rewind().map_err(ConvertError::Scratch)?;
    Ok(file)
}

fn check_diff_id(
    blob: &mut File,
    from: &Descriptor,
    diff_id: &Digest,
    options: &ConvertOptions,
) -> Result<(), ConvertError> {
    blob.rewind().map_err(ConvertError::Scratch)?;
    let again = blob.try_clone().map_err(ConvertError::Scratch)?;
    Inflated::new(Box::new(again), options.limits)
        .and_then(|tar| verify(tar, diff_id))
        .map_err(|error| ConvertError::Layer(from.digest, error))?;
    blob.rewind().map_err(ConvertError::Scratch)
}

/// Whether the manifest says that a layer is of a format.
fn claims(from: &Descriptor, format: Format) -> bool {
    let digest = TocDigest::from_annotations(&from.annotations);
    match (digest, format) {
        (Ok(Some(TocDigest::Uncompressed(_))), Format::Estargz) => true,
        (Ok(Some(_)), Format::ZstdChunked) => {
            from.media_type.layer_compression() == Some(LayerCompression::Zstd)
        }
        _ => false,
    }
}

/// Whether the blob is what its annotations say.
fn is_lazy(blob: &mut File, from: &Descriptor, format: Format) -> bool {
    let wanted = match format {
        Format::Estargz => FooterKind::Estargz,
        Format::ZstdChunked => FooterKind::ZstdChunked,
    };
    read_toc(blob, from).is_ok_and(|kind| kind == wanted)
}

fn read_toc(blob: &mut File, from: &Descriptor) -> Result<FooterKind, TocError> {
    let mut part = |range: std::ops::Range<u64>| {
        let mut bytes = Vec::new();
        blob.seek(io::SeekFrom::Start(range.start))
            .and_then(|_| blob.take(range.end - range.start).read_to_end(&mut bytes))
            .map_err(|error| TocError::Decompress("TOC", error))?;
        Ok(bytes)
    };
    let limits = Limits::default();
    let tail = part(from.size - tail_length_to_fetch(from.size)..from.size)?;
    let footer = Footer::find(&from.annotations, &tail, from.size)?;
    let range = footer.toc_range().ok_or(TocError::NoToc)?;
    if range.end - range.start > limits.compressed {
        return Err(TocError::NoToc);
    }
    let expected = TocDigest::from_annotations(&from.annotations)?.ok_or(TocError::NoToc)?;
    Toc::parse(&part(range)?, &footer, &expected, &limits)?;
    Ok(footer.kind())
}

/// A file without a name: gone with the process.
fn scratch(directory: &Path) -> Result<File, ConvertError> {
    let file = if directory.as_os_str().is_empty() {
        tempfile::tempfile()
    } else {
        tempfile::tempfile_in(directory)
    };
    file.map_err(ConvertError::Scratch)
}
