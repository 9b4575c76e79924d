//! Footers, and the other cases that a reader of such layers has to get right.

use std::collections::BTreeMap;

use image::estargz::{
    Chunk, Codec, EntryKind, Error, Footer, FooterKind, Limits, Toc, TocDigest,
    tail_length_to_fetch,
};
use proptest::prelude::*;

use crate::hostile::{footer_bytes, parse_entries};

const SIZE: u64 = 1_000_000;

fn zstd_footer(words: &[u64], magic: &[u8; 8]) -> Vec<u8> {
    let content: Vec<u8> = words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(*magic)
        .collect();
    let mut frame = b"\x50\x2a\x4d\x18".to_vec();
    frame.extend((content.len() as u32).to_le_bytes());
    frame.extend(content);
    frame
}

fn external_footer() -> Vec<u8> {
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0STARGZEXTERNALTOC".to_vec();
    footer.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    footer
}

#[test]
fn footers_of_all_kinds() {
    let table = [
        (
            footer_bytes(b"SG\x16\0", 5000),
            51,
            FooterKind::Estargz,
            Some(5000..SIZE - 51),
            5000,
        ),
        (
            footer_bytes(b"", 5000),
            47,
            FooterKind::LegacyStargz,
            Some(5000..SIZE - 47),
            5000,
        ),
        (
            external_footer(),
            46,
            FooterKind::ExternalToc,
            None,
            SIZE - 46,
        ),
        (
            zstd_footer(&[5008, 100, 200, 1], b"GnUlInUx"),
            48,
            FooterKind::ZstdChunked,
            Some(5008..5108),
            5000,
        ),
        (
            zstd_footer(&[5008, 100, 200, 1, 6000, 10, 20], b"GNUlInUx"),
            72,
            FooterKind::ZstdChunked,
            Some(5008..5108),
            5000,
        ),
    ];
    for (footer, length, kind, range, data_end) in table {
        assert_eq!(footer.len(), length);
        for before in [&b""[..], &[7; 3000]] {
            let tail = [before, &footer].concat();
            let parsed = Footer::parse(&tail, SIZE).unwrap();
            assert_eq!(
                (parsed.kind(), parsed.toc_range(), parsed.data_end()),
                (kind, range.clone(), data_end)
            );
        }
    }
    // Time, compressor and system are the writer's business.
    let mut footer = footer_bytes(b"SG\x16\0", 5000);
    footer[4..10].copy_from_slice(b"\x01\x02\x03\x04\x02\x03");
    assert!(Footer::parse(&footer, SIZE).is_ok());
}

#[test]
fn footers_that_are_none() {
    let good = footer_bytes(b"SG\x16\0", 5000);
    for at in [0, 1, 3, 10, 11, 12, 13, 14, 15, 32, 37, 38, 42, 43, 50] {
        let mut footer = good.clone();
        footer[at] ^= 0x40;
        let result = Footer::parse(&footer, SIZE);
        assert!(
            matches!(result, Err(Error::NoFooter)),
            "byte {at}: {result:?}"
        );
    }
    for tail in [&b""[..], b"x", &good[1..], &[0; 100]] {
        assert!(matches!(Footer::parse(tail, SIZE), Err(Error::NoFooter)));
    }
    for digits in [
        "+000000000001388",
        "-000000000001388",
        "0x00000000001388",
        "000000000000138g",
    ] {
        let mut footer = good.clone();
        footer[16..32].copy_from_slice(digits.as_bytes());
        assert!(
            matches!(Footer::parse(&footer, SIZE), Err(Error::BadFooter(_))),
            "{digits}"
        );
    }
    for offset in [0, SIZE - 51, SIZE, u64::MAX] {
        let footer = footer_bytes(b"SG\x16\0", offset);
        assert!(
            matches!(Footer::parse(&footer, SIZE), Err(Error::BadFooter(_))),
            "{offset}"
        );
    }
    for words in [
        [7, 100, 200, 1],
        [5008, 0, 200, 1],
        [5008, SIZE, 200, 1],
        [u64::MAX, 1, 1, 1],
        [5008, u64::MAX, 1, 1],
        [5008, 100, 200, 2],
    ] {
        let footer = zstd_footer(&words, b"GnUlInUx");
        assert!(
            matches!(Footer::parse(&footer, SIZE), Err(Error::BadFooter(_))),
            "{words:?}"
        );
    }
    let unframed = &zstd_footer(&[5008, 100, 200, 1], b"GnUlInUx")[8..];
    assert!(matches!(
        Footer::parse(unframed, SIZE),
        Err(Error::BadFooter(_))
    ));
    assert!(Footer::parse(&good, 50).is_err());
}

#[test]
fn annotations() {
    let of = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let position = "io.github.containers.zstd-chunked.manifest-position";
    for value in [
        "",
        "1:2:3",
        "1:2:3:2",
        "1:2:3:1:5",
        "+100:2:3:1",
        "a:2:3:1",
        "99999999999999999999:2:3:1",
    ] {
        let result = Footer::find(&of(position, value), &[], SIZE);
        assert!(matches!(result, Err(Error::Annotation { .. })), "{value}");
    }
    assert!(Footer::find(&of(position, "100:2:3:1"), &[], SIZE).is_ok());
    assert!(matches!(
        Footer::find(&of(position, "999999:2:3:1"), &[], SIZE),
        Err(Error::BadFooter(_))
    ));
    assert_eq!(TocDigest::from_annotations(&BTreeMap::new()).unwrap(), None);
    let bad = of("containerd.io/snapshot/stargz/toc.digest", "sha256:1");
    assert!(TocDigest::from_annotations(&bad).is_err());
}

#[test]
fn one_read_of_the_tail() {
    assert_eq!(tail_length_to_fetch(10), 10);
    assert_eq!(tail_length_to_fetch(1 << 20), 64 << 10);
    assert_eq!(tail_length_to_fetch(32 << 20), 512 << 10);
    assert_eq!(tail_length_to_fetch(u64::MAX), 1 << 20);
}

#[test]
fn paths_are_cleaned_and_cannot_escape() {
    for (name, path) in [
        ("./", ""),
        ("/", ""),
        ("..", ""),
        ("../../etc/passwd", "etc/passwd"),
        ("/a//b/./c/", "a/b/c"),
        ("a/../../b", "b"),
        ("...", "..."),
    ] {
        let toc = parse_entries(&format!(r#"{{"name":"{name}","type":"dir"}}"#)).unwrap();
        let found = toc.entries().next().unwrap().path().to_vec();
        assert_eq!(String::from_utf8(found).unwrap(), path, "{name}");
    }
}

#[test]
fn names_are_inherited_and_numbers_count() {
    let toc = parse_entries(
        r#"{"name":"a","type":"dir","uid":7,"userName":"u"},{"name":"b","type":"dir","uid":7}"#,
    )
    .unwrap();
    assert!(toc.entries().all(|entry| entry.uid() == 7));
}

#[test]
fn attributes() {
    let toc = parse_entries(
        r#"{"name":"c","type":"char","mode":8630,"devMajor":4,"devMinor":5,"modtime":"1970-01-01T00:00:00Z"},
           {"name":"f","type":"fifo","mode":3584,"devMajor":4},
           {"name":"x","type":"dir","xattrs":{"security.capability":"AQAAAg==","user.empty":""}}"#,
    )
    .unwrap();
    let entries: Vec<_> = toc.entries().collect();
    assert_eq!(
        (entries[0].mode(), entries[0].device(), entries[0].mtime()),
        (0o666, (4, 5), (0, 0))
    );
    assert_eq!(
        (entries[1].kind(), entries[1].mode()),
        (EntryKind::Fifo, 0o7000)
    );
    assert_eq!(entries[1].device(), (0, 0));
    let xattrs: Vec<_> = entries[2].xattrs().collect();
    assert_eq!(
        xattrs,
        [
            (&b"security.capability"[..], &b"\x01\0\0\x02"[..]),
            (b"user.empty", b"")
        ]
    );
}

#[test]
fn members_end_where_the_next_begin() {
    // Not in the order of their offsets, and one shared.
    let toc = parse_entries(
        r#"{"name":"a","type":"reg","size":5,"offset":900},
           {"name":"b","type":"reg","size":8,"offset":100,"chunkSize":5},
           {"name":"b","type":"chunk","offset":300,"chunkOffset":5},
           {"name":"c","type":"reg","size":5,"offset":300,"innerOffset":600},
           {"name":"d","type":"reg","size":5,"offset":700,"endOffset":800}"#,
    )
    .unwrap();
    let ranges: Vec<_> = toc.chunks().iter().map(Chunk::range).collect();
    assert_eq!(
        ranges,
        [900..10_000, 100..300, 300..700, 300..700, 700..800]
    );
    assert_eq!(toc.chunks()[2].size, 3);
}

#[test]
fn holes_are_cut() {
    let toc =
        parse_entries(r#"{"name":"f","type":"reg","size":40000000,"chunkType":"zeros"}"#).unwrap();
    let file = toc.entries().next().unwrap();
    assert_eq!(file.chunks().len(), 3);
    assert_eq!(
        file.chunks().iter().map(|chunk| chunk.size).sum::<u64>(),
        40_000_000
    );
    let hole = &file.chunks()[2];
    assert_eq!((hole.codec, hole.range()), (Codec::Zeros, 0..0));
    let content = image::estargz::decode_member(&[], hole).unwrap();
    assert_eq!(content, vec![0; hole.size as usize]);
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in any::<u64>()) {
        if let Ok(footer) = Footer::parse(&bytes, size) {
            let _ = Toc::parse(&bytes, &footer, &TocDigest::Unverified, &Limits::default());
        }
        let _ = Chunk::from_reference(&bytes, 0, 1);
    }

    #[test]
    fn references_come_back(start in any::<u64>(), length in any::<u32>(), inner in any::<u64>(), digest in any::<Option<[u8; 32]>>()) {
        let start = start / 2;
        let chunk = Chunk {
            file_offset: 3,
            size: 4,
            codec: Codec::Zstd,
            start,
            end: start + u64::from(length),
            inner_offset: inner,
            digest: digest.map(image::Digest::from_bytes),
        };
        let reference = chunk.to_reference();
        prop_assert!(reference.len() <= 63);
        prop_assert_eq!(Chunk::from_reference(&reference, 3, 4), Some(chunk));
        prop_assert_eq!(Chunk::from_reference(&reference[..reference.len() - 1], 3, 4), None);
    }
}
