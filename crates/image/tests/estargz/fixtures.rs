//! What other tools wrote is read, and equals the tar that they were given.

use std::collections::BTreeMap;

use image::estargz::{
    Codec, EntryKind, Error, Footer, FooterKind, Landmark, Limits, TOC_DIGEST_ANNOTATION, Toc,
    TocDigest, decode_chunks, decode_member,
};

use crate::oracle::{Line, gunzip, of_tar, of_toc, toc_of};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/estargz/", $name))
    };
}

pub(crate) fn sample() -> Vec<u8> {
    gunzip(fixture!("sample.tar.gz"))
}

fn toc_digest(digest: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(TOC_DIGEST_ANNOTATION.to_owned(), digest.to_owned())])
}

const GZIP_TOC: &str = "sha256:9ac639172e34bbae98f69acb3ffe4dbee1685940af2b92f792270f642fd22ad6";
const INNER_TOC: &str = "sha256:9b2cbbec7a3f28e6559470d012abf6cef1486a91b4b6169eb8c712637d2c4a64";
const ZSTD_TOC: &str = "sha256:7ac4c56a06d10c06f8979959633d86bf57214ed60a0b22ea001fc72a46f35f66";
const PRIORITIZED_TOC: &str =
    "sha256:39535c7e492188dba2d8601df7f6e85cd797477a8d1fe43f2171b15b0addbb43";

/// stargz-snapshotter drops fractions of a second, and of two entries with one name the first.
fn as_go_keeps(mut lines: Vec<Line>) -> Vec<Line> {
    let first = lines.iter().position(|line| line.path == b"twice").unwrap();
    lines.remove(first);
    for line in &mut lines {
        line.mtime.1 = 0;
    }
    lines
}

#[test]
fn stargz_snapshotter_gzip() {
    let blob = fixture!("go-gzip");
    let toc = toc_of(blob, &toc_digest(GZIP_TOC)).unwrap();
    assert_eq!(of_toc(blob, &toc), as_go_keeps(of_tar(&sample())));
    assert_eq!(toc.digest().to_string(), GZIP_TOC);
    assert_eq!(toc.landmark(), Landmark::NoPrefetch);
}

#[test]
fn stargz_snapshotter_zstd() {
    let blob = fixture!("go-zstd");
    let expected = as_go_keeps(of_tar(&sample()));
    let toc = toc_of(blob, &toc_digest(ZSTD_TOC)).unwrap();
    assert_eq!(of_toc(blob, &toc), expected);
    // The other form of annotations, and no footer needed.
    let annotations = BTreeMap::from(
        [
            (
                "io.containers.zstd-chunked.manifest-checksum",
                "sha256:8355000f010ed666465a3ae7327967a6ea10265ca1ed0542f32d66dfa19de380",
            ),
            (
                "io.containers.zstd-chunked.manifest-position",
                "22242:2206:9951:1",
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let by_footer = Footer::parse(blob, blob.len() as u64).unwrap();
    let by_annotations = Footer::find(&annotations, &[], blob.len() as u64).unwrap();
    assert_eq!(by_footer, by_annotations);
    assert_eq!(of_toc(blob, &toc_of(blob, &annotations).unwrap()), expected);
}

#[test]
fn several_chunks_in_a_member() {
    let blob = fixture!("go-inner-offset");
    let toc = toc_of(blob, &toc_digest(INNER_TOC)).unwrap();
    assert_eq!(of_toc(blob, &toc), as_go_keeps(of_tar(&sample())));
    let mut shared = 0;
    for member in toc.chunks().chunk_by(|a, b| a.start == b.start) {
        shared += usize::from(member.len() > 1);
        let bytes = &blob[member[0].start as usize..member[0].end as usize];
        for (chunk, content) in decode_chunks(bytes, member).unwrap() {
            assert_eq!(content.unwrap(), decode_member(bytes, chunk).unwrap());
        }
    }
    assert!(shared > 0, "the fixture has none");
}

#[test]
fn prioritized_files_come_first() {
    let blob = fixture!("go-prioritized");
    let toc = toc_of(blob, &toc_digest(PRIORITIZED_TOC)).unwrap();
    let Landmark::Prefetch { end } = toc.landmark() else {
        panic!("{:?}", toc.landmark())
    };
    let early: Vec<_> = toc
        .entries()
        .filter(|entry| {
            entry
                .chunks()
                .first()
                .is_some_and(|chunk| chunk.start < end)
        })
        .map(|entry| String::from_utf8_lossy(entry.path()).into_owned())
        .collect();
    assert_eq!(early, ["usr/bin/tool", "exact"]);
}

#[test]
fn a_toc_of_its_own() {
    let (blob, toc) = (fixture!("go-external"), fixture!("go-external-toc"));
    let footer = Footer::parse(blob, blob.len() as u64).unwrap();
    assert_eq!(
        (footer.kind(), footer.toc_range()),
        (FooterKind::ExternalToc, None)
    );
    let expected = TocDigest::Uncompressed(GZIP_TOC.parse().unwrap());
    let toc = Toc::parse(toc, &footer, &expected, &Limits::default()).unwrap();
    assert_eq!(of_toc(blob, &toc), as_go_keeps(of_tar(&sample())));
}

#[test]
fn stargz_of_2019() {
    let blob = fixture!("legacy");
    let footer = Footer::parse(blob, blob.len() as u64).unwrap();
    assert_eq!(footer.kind(), FooterKind::LegacyStargz);
    let toc = toc_of(blob, &BTreeMap::new()).unwrap();
    assert_eq!(of_toc(blob, &toc), as_go_keeps(of_tar(&sample())));
    let large = toc
        .entries()
        .find(|entry| entry.chunks().len() > 1)
        .unwrap();
    assert!(large.digest().is_some());
    let chunk = large.chunks()[0];
    let member = &blob[chunk.start as usize..chunk.end as usize];
    assert!(matches!(
        decode_member(member, &chunk),
        Err(Error::NoChunkDigest)
    ));
}

#[test]
fn containers_storage() {
    let blob = fixture!("containers-storage");
    let annotations = BTreeMap::from(
        [
            (
                "io.github.containers.zstd-chunked.manifest-checksum",
                "sha256:89c417fb152575db90f8c46de6fa282446dbf6dde0889b59a7550c48bcc3162e",
            ),
            (
                "io.github.containers.zstd-chunked.manifest-position",
                "21831:1537:5228:1",
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let mut expected = of_tar(&sample());
    let first = expected
        .iter()
        .position(|line| line.path == b"twice")
        .unwrap();
    expected.remove(first);
    let toc = toc_of(blob, &annotations).unwrap();
    assert_eq!(of_toc(blob, &toc), expected);
    let mixed = toc
        .entries()
        .find(|entry| entry.path() == b"mixed")
        .unwrap();
    assert!(
        mixed
            .chunks()
            .iter()
            .any(|chunk| chunk.codec == Codec::Zeros)
    );
    // The footer of 64 bytes says the same.
    let footer = Footer::parse(blob, blob.len() as u64).unwrap();
    assert_eq!(
        footer,
        Footer::find(&annotations, &[], blob.len() as u64).unwrap()
    );
}

#[test]
fn what_the_sample_covers() {
    let lines = of_tar(&sample());
    for kind in [
        EntryKind::File,
        EntryKind::Directory,
        EntryKind::Symlink,
        EntryKind::Hardlink,
        EntryKind::CharDevice,
        EntryKind::BlockDevice,
        EntryKind::Fifo,
    ] {
        assert!(lines.iter().any(|line| line.kind == kind), "{kind:?}");
    }
    assert!(lines.iter().any(|line| line.xattrs.len() == 2));
}
