//! Conformance of layers that are read piece by piece: what a reader must get right, and where it is shown.
//!
//! `tar` is the oracle wherever a layer is right. **here** is this file; `image/` is `crates/image/tests/estargz/`,
//! `registry/` is `crates/registry/tests/client/`, `e2e/` is `tests/e2e/tests/containerd/`, the rest lies beside this file.
//!
//! | case | shown by |
//! |---|---|
//! | footers of 51, 47, 46, 40 and 64 bytes | `image/conformance` `footers_of_all_kinds`, `footers_that_are_none`; blobs with each: `image/fixtures`; here `a_layer_with_its_toc_elsewhere_is_an_ordinary_one` |
//! | a TOC that begins where the first read does, or a byte off | here `a_toc_at_the_edge_of_the_first_read` |
//! | several chunks in a member (innerOffset) | here (all layers, style "shared"); `image/fixtures` `several_chunks_in_a_member` |
//! | duplicate names | here layer "duplicates" |
//! | missing parents | here layer "missing parents" |
//! | chains of hardlinks; circles | here layer "links", `tocs_that_are_refused`; `image/hostile` `links_in_circles_and_to_directories` |
//! | an entry for the root | here layer "root" |
//! | whiteouts, opaque directories | here `whiteouts_are_what_removing_makes`; `estargz` `mixed_chains_are_one` |
//! | both landmarks | here `landmarks_are_not_shown`; `image/hostile` `both_landmarks` |
//! | empty files | here layer "sizes" |
//! | more than 4 MiB with a short last chunk; exactly n × 4 MiB | here layer "sizes"; `image/written` `large_files_in_chunks_of_four_mebibytes` |
//! | extended attributes with binary values | here layer "attributes" |
//! | the epoch, before it, and no time at all | here layer "attributes", `what_other_writers_leave_out` |
//! | names that are not UTF-8 (JSON of Go loses them) | here `a_layer_with_a_lost_name_is_an_ordinary_one`; `image/hostile` `entries_that_are_refused`; `image/written` `what_cannot_be_written` |
//! | inherited user names | here `what_other_writers_leave_out`; `image/conformance` `names_are_inherited_and_numbers_count` |
//! | wrong digest of the TOC | `estargz_faults` `another_toc_than_the_image_states_is_refused`, `a_bad_toc_of_one_source_is_taken_from_the_next` |
//! | wrong digest of a chunk | here `a_wrong_digest_is_an_error_of_its_chunk`; `estargz_faults` `a_wrong_chunk_…`; `e2e/estargz` `a_wrong_chunk_is_an_error_of_that_read_only` |
//! | truncated blob | here `a_blob_cut_short_is_refused`; `estargz_faults` `a_truncated_blob_is_refused_or_an_error_of_its_reads` |
//! | offset beyond the TOC; negative, overlapping and missing chunks | here `tocs_that_are_refused`; `image/hostile` `entries_that_are_refused` |
//! | huge number of entries | `image/hostile` `more_than_the_reader_holds` |
//! | 200 instead of 206; several ranges refused (400, 416) | `estargz_faults` `ranges_are_got_from_every_registry`; `registry/ranges`; `e2e/estargz` `a_container_does_not_notice_what_registries_do` |
//! | 403 of a signed URL | `estargz_faults` `signed_urls_are_renewed`; `registry/ranges` |
//! | a body that stalls, breaks or is cut | `estargz_faults` `transfers_that_break_are_repeated`; `registry/pull` |
//! | a token that ends in mid-run, its realm elsewhere | `estargz_faults` `tokens_that_end_in_mid_run_are_renewed`; `registry/access`; `e2e/estargz` `a_container_does_not_notice_what_registries_do` |
//! | blobs of other tools | `image/fixtures`; `estargz` `layers_of_other_tools_are_what_tar_makes_of_them`; `e2e/interop` |

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use image::Digest;
use image::estargz::{Footer, Format, TOC_DIGEST_ANNOTATION};
use layerfs::{Refusal, SourceError};
use testkit::{Entry, Field, Truth};

use crate::lazy::{Lazy, LazyWorld, Style, by_tar, noise};
use crate::outside::{EIO, read, walk};
use crate::world::mounts_possible;

/// Chunks as other writers cut them.
const CHUNK: u64 = 4 << 20;
/// What is read of a blob's end at first.
const FIRST_READ: u64 = 256 << 10;

fn styles() -> [(&'static str, Style); 3] {
    let plain = Style {
        chunk_size: CHUNK,
        ..Style::new(Format::Estargz)
    };
    let shared = Style {
        min_chunk_size: 50_000,
        ..plain.clone()
    };
    let zstd = Style {
        format: Format::ZstdChunked,
        ..plain.clone()
    };
    [("plain", plain), ("shared", shared), ("zstd", zstd)]
}

/// Bytes that compress, no two blocks of which are equal.
fn lines(length: u64) -> Vec<u8> {
    let numbers = (0_u64..).flat_map(|number| format!("{number:015}\n").into_bytes());
    numbers.take(length as usize).collect()
}

fn layers() -> Vec<(&'static str, Vec<Entry>)> {
    vec![
        (
            "duplicates",
            vec![
                Entry::file("twice", lines(2 * CHUNK)),
                Entry::file("other", "other"),
                Entry::file("twice", "later").mode(0o600).owner(5, 6),
                Entry::file("was-file", "x"),
                Entry::symlink("was-file", "other"),
                Entry::symlink("was-link", "other"),
                Entry::file("was-link", "now a file"),
                Entry::directory("folder").mode(0o700),
                Entry::file("folder/kept", "kept"),
                Entry::directory("folder").mode(0o751).owner(7, 8),
            ],
        ),
        (
            "missing parents",
            vec![
                Entry::file("a/b/c/file", "deep"),
                Entry::symlink("d/link", "../a"),
                Entry::directory("e/f"),
            ],
        ),
        (
            "links",
            vec![
                Entry::file("target", noise(1, 1000)).mode(0o4711),
                Entry::hardlink("second", "target"),
                Entry::hardlink("third", "second"),
                Entry::directory("d"),
                Entry::hardlink("d/fourth", "third"),
                Entry::symlink("nowhere", "/absolute/../\\x"),
            ],
        ),
        (
            "root",
            vec![
                Entry::directory("")
                    .mode(0o1711)
                    .owner(9, 10)
                    .mtime(1_500_000_000, 0),
                Entry::file("f", "f"),
            ],
        ),
    ]
}

fn more_layers() -> Vec<(&'static str, Vec<Entry>)> {
    let bytes: Vec<u8> = (0..=255).collect();
    vec![
        (
            "sizes",
            vec![
                Entry::file("zero", ""),
                Entry::file("one", "1"),
                Entry::file("exactly-one-chunk", lines(CHUNK)),
                Entry::file("exactly-two-chunks", lines(2 * CHUNK)),
                Entry::file("one-more", lines(CHUNK + 1)),
                Entry::file("one-less", lines(2 * CHUNK - 1)),
                Entry::file("zero-again", ""),
                Entry::file("last", lines(CHUNK)),
            ],
        ),
        (
            "attributes",
            vec![
                Entry::file("binary", "b")
                    .xattr("user.all", &bytes)
                    .xattr("user.line", b"a=b\nc=d\n\0")
                    .xattr("user.empty", ""),
                Entry::directory("d").xattr("user.d", [0xff, 0]),
                Entry::file("epoch", "e").mtime(0, 0),
                Entry::file("before", "b").mtime(-1, 0),
                Entry::file("large-owner", "o").owner(4_000_000_000, 2_097_152),
                Entry::file([b'n'; 255], "long"),
                Entry::file("white \n\t space \u{e9}\u{1f980}", "w"),
            ],
        ),
    ]
}

/// Directories that no entry names, and a root that none does, get their times from whoever unpacks.
fn without_times_of_implicit(mut truth: Truth, entries: &[Entry]) -> Truth {
    let named = |path: &str| {
        let path = path.trim_start_matches('/').as_bytes();
        entries.iter().any(|entry| entry.path == path)
    };
    for (path, row) in &mut truth.rows {
        // Names with white space are escaped in listings, but no directory here has one.
        if row.get(Field::Kind) == "d" && !named(path) {
            row.set(Field::Mtime, "0");
        }
        if path.as_str() == "/" && !named(path) {
            row.set(Field::Mode, "0755");
        }
    }
    truth
}

#[test]
fn layers_are_what_tar_makes_of_them() {
    if !mounts_possible() {
        return;
    }
    for (style_name, style) in styles() {
        for (name, entries) in layers().into_iter().chain(more_layers()) {
            let layers = [Lazy::styled(entries.clone(), &style)];
            let lazy = LazyWorld::with_registry(&layers);
            let node = lazy.node();
            let (_, path) = lazy.attach(&node, &layers);
            let expected = by_tar(&layers[0].blob, &lazy.world.path("unpacked"));
            without_times_of_implicit(expected, &entries)
                .compare(&without_times_of_implicit(walk(&path, 0), &entries), &[])
                .unwrap_or_else(|difference| panic!("{name}, {style_name}: {difference}"));
            assert_eq!(node.metrics().failed_reads.get(), 0);
        }
    }
}

/// The oracle: `tar` for the layers, and `rm` for what the upper one takes away.
#[test]
fn whiteouts_are_what_removing_makes() {
    if !mounts_possible() {
        return;
    }
    let lower = [
        Entry::directory("d"),
        Entry::file("d/gone", "gone"),
        Entry::file("d/kept", "kept"),
        Entry::directory("gone"),
        Entry::file("gone/below", "below"),
        Entry::directory("opaque"),
        Entry::file("opaque/old", "old"),
        Entry::directory("opaque/folder"),
        Entry::file("opaque/folder/older", "older"),
        Entry::file("replaced", "old"),
    ];
    let upper = [
        Entry::directory("d"),
        Entry::whiteout("d/gone"),
        Entry::whiteout("gone"),
        Entry::whiteout("never-there"),
        // Stated and taken away in one layer: the layer's own stays, wherever the whiteout stands.
        Entry::file("replaced", "new"),
        Entry::whiteout("replaced"),
        Entry::directory("opaque").mode(0o700),
        Entry::file("opaque/before", "before"),
        Entry::opaque("opaque"),
        Entry::directory("opaque/folder"),
        Entry::file("opaque/folder/new", "new"),
    ];
    for (name, style) in styles() {
        let layers = [
            Lazy::styled(lower.clone(), &style),
            Lazy::styled(upper.clone(), &style),
        ];
        let lazy = LazyWorld::with_registry(&layers);
        let node = lazy.node();
        let (_, path) = lazy.attach(&node, &layers);
        let directory = lazy.world.path("unpacked");
        by_tar(&layers[0].blob, &directory);
        for gone in ["d/gone", "gone", "replaced", "opaque"] {
            let status = Command::new("rm")
                .arg("-rf")
                .arg(directory.join(gone))
                .status();
            assert!(status.unwrap().success());
        }
        by_tar(&layers[1].blob, &directory);
        remove_whiteouts(&directory);
        let expected = testkit::walk(&directory).unwrap();
        let seen = walk(&path, 0);
        let ignored = [Field::Mtime, Field::Size];
        let both = |truth: Truth| truth.filtered(|path, _| path != "/");
        both(expected)
            .compare(&both(seen), &ignored)
            .unwrap_or_else(|difference| panic!("{name}: {difference}"));
        assert_eq!(read(&path.join("replaced")), Ok(b"new".to_vec()));
    }
}

fn remove_whiteouts(directory: &Path) {
    let status = Command::new("find")
        .arg(directory)
        .args(["-name", ".wh.*", "-delete"])
        .status();
    assert!(status.unwrap().success());
}

/// A layer, and its TOC, to be changed. The blob's data stays as it is.
struct Edited {
    layer: Lazy,
    json: String,
    data: Vec<u8>,
}

impl Edited {
    fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let layer = Lazy::new(entries);
        let blob = &layer.blob.blob;
        let range = Footer::parse(blob, blob.len() as u64)
            .unwrap()
            .toc_range()
            .unwrap();
        let (start, end) = (range.start as usize, range.end as usize);
        let mut member = Vec::new();
        flate2::read::MultiGzDecoder::new(&blob[start..end])
            .read_to_end(&mut member)
            .unwrap();
        let end = member.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let json = String::from_utf8(member[512..end].to_vec()).unwrap();
        let data = blob[..start].to_vec();
        Self { layer, json, data }
    }

    fn replaced(mut self, old: &str, new: &str) -> Self {
        assert!(self.json.contains(old), "{old} in {}", self.json);
        self.json = self.json.replacen(old, new, 1);
        self
    }

    /// Puts further entries before all others.
    fn with(self, entries: &str) -> Self {
        self.replaced("\"entries\":[", &format!("\"entries\":[{entries},"))
    }

    /// The layer with the TOC as it is now, which the image states.
    fn finish(mut self) -> Lazy {
        let mut header = tar_header("stargz.index.json", self.json.len());
        header.extend_from_slice(self.json.as_bytes());
        header.resize(header.len().next_multiple_of(512) + 1024, 0);
        // Stored, so that the length of the member follows that of the JSON.
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        gzip.write_all(&header).unwrap();
        let mut blob = self.data.clone();
        blob.extend(gzip.finish().unwrap());
        blob.extend(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0");
        blob.extend(format!("{:016x}STARGZ", self.data.len()).into_bytes());
        blob.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
        self.layer.written.digest = Digest::of(&blob);
        self.layer.blob.digest = self.layer.written.digest.to_string();
        self.layer.blob.blob = blob;
        self.layer.written.annotations.insert(
            TOC_DIGEST_ANNOTATION.to_owned(),
            Digest::of(self.json.as_bytes()).to_string(),
        );
        self.layer
    }

    /// The text of one key in the entry of a file, such as `"size":5`.
    fn member(&self, name: &str, key: &str) -> String {
        let entry = self
            .json
            .lines()
            .find(|line| line.contains(&format!("\"name\":\"{name}\"")))
            .unwrap();
        let start = entry.find(&format!("\"{key}\":")).unwrap();
        let end = start + entry[start..].find([',', '}']).unwrap();
        entry[start..end].to_owned()
    }
}

/// A ustar header of a regular file.
fn tar_header(name: &str, size: usize) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[test]
fn tocs_that_are_refused() {
    let sample = || {
        Edited::new([
            Entry::file("a", noise(1, 100_000)),
            Entry::file("b", noise(2, 300)),
        ])
    };
    let offset = sample().member("b", "offset");
    let beyond = format!("\"offset\":{}", sample().data.len());
    // The second chunk of `a`, the first with chunkOffset.
    let second = "\"chunkOffset\":65536";
    let link = |name: &str, target: &str| {
        format!(r#"{{"name":"{name}","type":"hardlink","linkName":"{target}"}}"#)
    };
    let circle = format!("{},{}", link("x", "y"), link("y", "x"));
    let refused = [
        ("socket", sample().with(r#"{"name":"s","type":"socket"}"#)),
        ("circle", sample().with(&circle)),
        ("offset beyond the TOC", sample().replaced(&offset, &beyond)),
        (
            "negative offset",
            sample().replaced(&offset, "\"offset\":-1"),
        ),
        (
            "overlapping",
            sample().replaced(second, "\"chunkOffset\":65535"),
        ),
        ("gap", sample().replaced(second, "\"chunkOffset\":65537")),
        (
            "negative",
            sample().replaced(second, "\"chunkOffset\":-65536"),
        ),
        (
            "version",
            sample().replaced("\"version\":1", "\"version\":2"),
        ),
        (
            "no JSON",
            sample().replaced("\"entries\":[", "\"entries\":"),
        ),
    ];
    for (name, edited) in refused {
        let layers = [edited.finish()];
        let lazy = LazyWorld::with_registry(&layers);
        let node = lazy.node();
        let claimed = lazy.claim(&node, &layers);
        assert!(
            matches!(claimed, Err(Refusal::Source(SourceError::Corrupt { .. }))),
            "{name}: {claimed:?}"
        );
        assert_eq!(node.metrics().trees_built.get(), 0, "{name}");
    }
    // The sample itself is none of them.
    let layers = [sample().finish()];
    let lazy = LazyWorld::with_registry(&layers);
    lazy.claim(&lazy.node(), &layers).unwrap();
}

#[test]
fn a_blob_cut_short_is_refused() {
    let whole = Lazy::new([Entry::file("a", noise(1, 400_000))]);
    let length = whole.blob.blob.len();
    for cut in [1, 50, 51, 52, 1000, 300_000] {
        let lazy = {
            let mut lazy = LazyWorld::new();
            lazy.push(&whole.blob.digest, &whole.blob.blob[..length - cut]);
            lazy.serve(|server| server);
            lazy
        };
        let claimed = lazy.claim(&lazy.node(), std::slice::from_ref(&whole));
        assert!(
            matches!(claimed, Err(Refusal::Source(SourceError::Corrupt { .. }))),
            "{cut}: {claimed:?}"
        );
    }
}

/// The tar has the name that JSON of Go lost.
#[test]
fn a_layer_with_a_lost_name_is_an_ordinary_one() {
    let edited = Edited::new([Entry::file("x", "x")]);
    let layers = [edited.with(r#"{"name":"caf\ufffd","type":"dir"}"#).finish()];
    let lazy = LazyWorld::with_registry(&layers);
    let claimed = lazy.claim(&lazy.node(), &layers);
    assert!(
        matches!(claimed, Err(Refusal::NotFound { .. })),
        "{claimed:?}"
    );
}

/// Without its TOC, which is in another image, it is an ordinary layer, and nothing of it is damaged.
#[test]
fn a_layer_with_its_toc_elsewhere_is_an_ordinary_one() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/tests/fixtures/estargz");
    let mut layer = Lazy::new([Entry::file("x", "x")]);
    layer.blob.blob = std::fs::read(fixtures.join("go-external")).unwrap();
    layer.written.digest = Digest::of(&layer.blob.blob);
    layer.blob.digest = layer.written.digest.to_string();
    let layers = [layer];
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let claimed = lazy.claim(&node, &layers);
    assert!(
        matches!(claimed, Err(Refusal::NotFound { .. })),
        "{claimed:?}"
    );
    assert_eq!(node.metrics().lazy.bad_tocs.get(), 0);
}

/// The TOC is right, and says what the chunk is not.
#[test]
fn a_wrong_digest_is_an_error_of_its_chunk() {
    if !mounts_possible() {
        return;
    }
    let edited = Edited::new([
        Entry::file("a", noise(1, 1000)),
        Entry::file("b", noise(2, 1000)),
    ]);
    let digest = Digest::of(&noise(1, 1000)).to_string();
    let other = Digest::of(b"other").to_string();
    let json = edited.json.replace(&digest, &other);
    let layers = [Edited { json, ..edited }.finish()];
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert_eq!(read(&path.join("a")), Err(EIO));
    assert_eq!(read(&path.join("b")), Ok(noise(2, 1000)));
    assert!(node.metrics().lazy.corrupt_chunks.get() > 0);
}

#[test]
fn what_other_writers_leave_out() {
    if !mounts_possible() {
        return;
    }
    let edited = Edited::new([
        Entry::file("a", noise(1, 1000)).owner(7, 8),
        Entry::file("b", noise(2, 1000)).owner(7, 8),
    ]);
    let time = edited.member("a", "modtime");
    let owner = edited.member("a", "uid");
    // The time of `a` is absent; a name is stated with the first entry of its owner; a key is unknown.
    let layers = [edited
        .replaced(&format!("{time},"), "")
        .replaced(&owner, &format!("{owner},\"userName\":\"u\",\"NumLink\":3"))
        .finish()];
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    let seen = walk(&path, 0);
    assert_eq!(seen.rows["/a"].get(Field::Mtime), "0");
    for name in ["/a", "/b"] {
        assert_eq!(seen.rows[name].get(Field::Uid), "7");
        assert_eq!(seen.rows[name].get(Field::Gid), "8");
    }
    assert_eq!(read(&path.join("a")), Ok(noise(1, 1000)));
}

#[test]
fn landmarks_are_not_shown() {
    if !mounts_possible() {
        return;
    }
    let mark = |name: &str| format!(r#"{{"name":"{name}","type":"reg","size":1,"offset":1}}"#);
    let both = format!(
        "{},{}",
        mark(".prefetch.landmark"),
        mark("./.no.prefetch.landmark")
    );
    let below = [
        Entry::directory("d"),
        Entry::file("d/.prefetch.landmark", "one of the image's own"),
    ];
    let layers = [Edited::new(below).with(&both).finish()];
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    let seen: Vec<String> = walk(&path, 0).rows.into_keys().collect();
    assert_eq!(seen, ["/", "/d", "/d/.prefetch.landmark"]);
}

/// The first read ends with the blob and begins where the TOC does, a byte before, or a byte after.
#[test]
fn a_toc_at_the_edge_of_the_first_read() {
    if !mounts_possible() {
        return;
    }
    let content = noise(1, 100_000);
    for (distance, reads) in [(-1_i64, 1), (0, 1), (1, 2)] {
        let wanted = FIRST_READ.checked_add_signed(distance).unwrap();
        let padded = |length: usize| {
            let mut edited = Edited::new([Entry::file("a", &content)]);
            edited.json += &" ".repeat(length);
            let data = edited.data.len();
            let layer = edited.finish();
            let end = (layer.blob.blob.len() - data) as u64;
            (layer, end)
        };
        // The member's tar is padded to blocks, so what is missing to the byte goes into a name of the gzip header.
        let (_, with_none) = padded(0);
        let mut length = (wanted - with_none) as usize;
        let (mut layer, mut end) = padded(length);
        while end > wanted {
            length -= 512;
            (layer, end) = padded(length);
        }
        let layer = named(layer, (wanted - end) as usize);
        let layers = [layer];
        let lazy = LazyWorld::with_registry(&layers);
        let node = lazy.node();
        let (_, path) = lazy.attach(&node, &layers);
        assert_eq!(lazy.asked(), reads, "{distance}");
        assert!(read(&path.join("a")) == Ok(content.clone()));
    }
}

/// Makes the TOC's gzip member `longer` bytes longer by a comment in its header.
fn named(mut layer: Lazy, longer: usize) -> Lazy {
    if longer == 0 {
        return layer;
    }
    let blob = &mut layer.blob.blob;
    let start = Footer::parse(blob, blob.len() as u64)
        .unwrap()
        .toc_range()
        .unwrap()
        .start as usize;
    blob[start + 3] = 0x08;
    let mut name = vec![b'n'; longer - 1];
    name.push(0);
    blob.splice(start + 10..start + 10, name);
    layer.written.digest = Digest::of(blob);
    layer.blob.digest = layer.written.digest.to_string();
    layer
}
