//! TOCs, footers and members that nobody should write.

use std::io::Write;

use image::Digest;
use image::estargz::{
    EntryFault, Error, Footer, Landmark, Limits, Toc, TocDigest, decode_member, decode_unverified,
};

/// A TOC as a blob has it, and a footer that leads to it. The data before it is 10 000 bytes long.
pub(crate) fn toc_of_json(json: &str) -> (Vec<u8>, Footer) {
    let mut header = tar::Header::new_ustar();
    header.set_path("stargz.index.json").unwrap();
    header.set_size(json.len() as u64);
    header.set_cksum();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(header.as_bytes()).unwrap();
    gzip.write_all(json.as_bytes()).unwrap();
    gzip.write_all(&[0; 2048]).unwrap();
    let member = gzip.finish().unwrap();
    let size = 10_000 + member.len() as u64 + 51;
    let footer = Footer::parse(&footer_bytes(b"SG\x16\0", 10_000), size).unwrap();
    (member, footer)
}

pub(crate) fn footer_bytes(before: &[u8], offset: u64) -> Vec<u8> {
    let extra = [before, format!("{offset:016x}STARGZ").as_bytes()].concat();
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff".to_vec();
    footer.extend((extra.len() as u16).to_le_bytes());
    footer.extend(extra);
    footer.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    footer
}

fn parse(json: &str) -> Result<Toc, Error> {
    let (member, footer) = toc_of_json(json);
    Toc::parse(&member, &footer, &TocDigest::Unverified, &Limits::default())
}

pub(crate) fn parse_entries(entries: &str) -> Result<Toc, Error> {
    parse(&format!(r#"{{"version":1,"entries":[{entries}]}}"#))
}

#[test]
fn entries_that_are_refused() {
    let long = "n".repeat(256);
    let path = "p/".repeat(2100);
    let reg = |rest: &str| format!(r#"{{"name":"f","type":"reg","offset":9,{rest}}}"#);
    let chunk = |rest: &str| format!(r#"{{"name":"f","type":"chunk","offset":19,{rest}}}"#);
    let two = |first: &str, second: &str| format!("{},{}", reg(first), chunk(second));
    let table = [
        (
            r#"{"name":"x","type":"socket"}"#.to_owned(),
            EntryFault::UnknownType,
        ),
        (r#"{"name":"x"}"#.to_owned(), EntryFault::UnknownType),
        (
            format!(r#"{{"name":"{long}","type":"dir"}}"#),
            EntryFault::NameTooLong,
        ),
        (
            format!(r#"{{"name":"{path}","type":"dir"}}"#),
            EntryFault::NameTooLong,
        ),
        (
            r#"{"name":"a\u0000b","type":"dir"}"#.to_owned(),
            EntryFault::Nul,
        ),
        (
            r#"{"name":"a\ufffdb","type":"dir"}"#.to_owned(),
            EntryFault::LostName,
        ),
        (
            "{\"name\":\"a\u{fffd}\",\"type\":\"dir\"}".to_owned(),
            EntryFault::LostName,
        ),
        (
            r#"{"name":"s","type":"symlink","linkName":"\ufffd"}"#.to_owned(),
            EntryFault::LostName,
        ),
        (
            r#"{"name":"s","type":"symlink"}"#.to_owned(),
            EntryFault::NoTarget,
        ),
        (
            r#"{"name":"s","type":"hardlink"}"#.to_owned(),
            EntryFault::NoTarget,
        ),
        (
            r#"{"name":"s","type":"hardlink","linkName":"../"}"#.to_owned(),
            EntryFault::LinkToDirectory,
        ),
        (r#"{"name":"./","type":"reg"}"#.to_owned(), EntryFault::Root),
        (
            r#"{"name":"a/..","type":"symlink","linkName":"x"}"#.to_owned(),
            EntryFault::Root,
        ),
        (
            r#"{"name":"d","type":"dir","modtime":"yesterday"}"#.to_owned(),
            EntryFault::Time,
        ),
        (
            r#"{"name":"d","type":"dir","xattrs":{"user.a":"?"}}"#.to_owned(),
            EntryFault::Xattr,
        ),
        (
            r#"{"name":"d","type":"dir","xattrs":{"":"YQ=="}}"#.to_owned(),
            EntryFault::Xattr,
        ),
        (reg(r#""size":5,"digest":"md5:00""#), EntryFault::Digest),
        (
            reg(r#""size":5,"chunkDigest":"sha256:00""#),
            EntryFault::Digest,
        ),
        (chunk(r#""chunkSize":1"#), EntryFault::LoneChunk),
        (
            format!(
                r#"{{"name":"d","type":"dir"}},{}"#,
                chunk(r#""chunkSize":1"#)
            ),
            EntryFault::LoneChunk,
        ),
        (reg(r#""size":5,"chunkOffset":1"#), EntryFault::Chunks),
        (reg(r#""size":5,"chunkSize":6"#), EntryFault::Chunks),
        (reg(r#""size":5,"chunkSize":4"#), EntryFault::Chunks),
        (
            two(
                r#""size":5,"chunkSize":3"#,
                r#""chunkOffset":2,"chunkSize":3"#,
            ),
            EntryFault::Chunks,
        ),
        (
            two(
                r#""size":5,"chunkSize":3"#,
                r#""chunkOffset":4,"chunkSize":1"#,
            ),
            EntryFault::Chunks,
        ),
        (
            two(
                r#""size":5,"chunkSize":3"#,
                r#""chunkOffset":3,"chunkSize":1"#,
            ),
            EntryFault::Chunks,
        ),
        (
            two(r#""size":5"#, r#""chunkOffset":5,"chunkSize":1"#),
            EntryFault::Chunks,
        ),
        (two(r#""size":0"#, r#""chunkSize":1"#), EntryFault::Chunks),
        (reg(r#""size":5,"chunkType":"ones""#), EntryFault::ChunkType),
        (reg(r#""size":134217729"#), EntryFault::ChunkTooLarge),
        (
            reg(r#""size":5,"innerOffset":18446744073709551615"#),
            EntryFault::ChunkTooLarge,
        ),
        (
            reg(r#""size":18446744073709551615,"chunkType":"zeros""#),
            EntryFault::ChunkTooLarge,
        ),
        (
            r#"{"name":"f","type":"reg","size":5}"#.to_owned(),
            EntryFault::Offset,
        ),
        (
            r#"{"name":"f","type":"reg","size":5,"offset":10000}"#.to_owned(),
            EntryFault::Offset,
        ),
        (
            r#"{"name":"f","type":"reg","size":5,"offset":18446744073709551615}"#.to_owned(),
            EntryFault::Offset,
        ),
    ];
    for (entries, expected) in table {
        match parse_entries(&entries) {
            Err(Error::Entry { fault, .. }) => assert_eq!(fault, expected, "{entries}"),
            other => panic!("{entries}: {other:?}"),
        }
    }
}

#[test]
fn json_that_is_refused() {
    let deep = "[".repeat(200);
    for json in [
        "",
        "[]",
        "null",
        "{}",
        r#"{"version":1}"#,
        r#"{"entries":[]}"#,
        r#"{"version":1,"entries":{}}"#,
        r#"{"version":1,"entries":[],"entries":[]}"#,
        r#"{"version":1,"version":1,"entries":[]}"#,
        r#"{"version":1,"entries":[null]}"#,
        r#"{"version":1,"entries":[{"name":"a","name":"b","type":"dir"}]}"#,
        r#"{"version":1,"entries":[{"name":"a","type":"reg","size":-1}]}"#,
        r#"{"version":1,"entries":[{"name":"a","type":"reg","size":1,"offset":1,"chunkOffset":-1}]}"#,
        r#"{"version":1,"entries":[{"name":"a","type":"dir","uid":4294967296}]}"#,
        r#"{"version":1,"entries":[{"name":"\ud800","type":"dir"}]}"#,
        r#"{"version":1,"entries":[]} x"#,
        r#"{"version":1,"entries":["#,
        &format!(r#"{{"version":1,"entries":[],"x":{deep}"#),
    ] {
        assert!(
            matches!(parse(json), Err(Error::Json(_))),
            "{json}: {:?}",
            parse(json)
        );
    }
    let result = parse(r#"{"version":2,"entries":[]}"#);
    assert!(matches!(result, Err(Error::Version(2))));
    // What newer writers may add is passed over.
    let toc =
        parse(r#"{"version":1,"new":[{"a":1}],"entries":[{"name":"d","type":"dir","new":1}]}"#);
    assert_eq!(toc.unwrap().entries().len(), 1);
}

#[test]
fn links_in_circles_and_to_directories() {
    let link = |name: &str, target: &str| {
        format!(r#"{{"name":"{name}","type":"hardlink","linkName":"{target}"}}"#)
    };
    let fault = |entries: &[String]| match parse_entries(&entries.join(",")) {
        Err(Error::Entry { fault, .. }) => Some(fault),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    };
    let file = r#"{"name":"f","type":"reg"}"#.to_owned();
    let directory = r#"{"name":"d","type":"dir"}"#.to_owned();
    assert_eq!(fault(&[link("a", "a")]), Some(EntryFault::LinkCycle));
    assert_eq!(
        fault(&[link("a", "b"), link("b", "./a")]),
        Some(EntryFault::LinkCycle)
    );
    assert_eq!(
        fault(&[link("a", "b"), link("b", "c"), link("c", "b")]),
        Some(EntryFault::LinkCycle)
    );
    assert_eq!(
        fault(&[link("a", "d"), directory.clone()]),
        Some(EntryFault::LinkToDirectory)
    );
    assert_eq!(
        fault(&[directory, link("a", "b"), link("b", "d")]),
        Some(EntryFault::LinkToDirectory)
    );
    // Forward, through each other, onto a layer below, and onto a name that is a file and a link.
    assert_eq!(fault(&[link("a", "b"), link("b", "f"), file.clone()]), None);
    assert_eq!(fault(&[link("a", "below")]), None);
    assert_eq!(fault(&[file, link("b", "f"), link("f", "b")]), None);
    // A long chain costs no more than a short one.
    let chain: Vec<_> = (0..20_000)
        .map(|at| link(&at.to_string(), &(at + 1).to_string()))
        .collect();
    assert_eq!(fault(&chain), Some(EntryFault::LinkCycle));
}

#[test]
fn more_than_the_reader_holds() {
    let dirs = vec![r#"{"name":"d","type":"dir"}"#; 1000].join(",");
    let json = format!(r#"{{"version":1,"entries":[{dirs}]}}"#);
    let (member, footer) = toc_of_json(&json);
    let refuse = |limits: Limits| {
        let result = Toc::parse(&member, &footer, &TocDigest::Unverified, &limits);
        assert!(
            matches!(result, Err(Error::TooLarge { .. })),
            "{limits:?}: {result:?}"
        );
    };
    let all = Limits::default();
    refuse(Limits {
        entries: 999,
        ..all.clone()
    });
    refuse(Limits {
        texts: 999,
        ..all.clone()
    });
    refuse(Limits {
        compressed: 10,
        ..all.clone()
    });
    refuse(Limits {
        json: 10,
        ..all.clone()
    });
    refuse(Limits {
        entry_json: 10,
        ..all.clone()
    });
    // One string that would fill the memory.
    let bomb = format!(
        r#"{{"version":1,"entries":[{{"name":"{}"#,
        "a".repeat(8 << 20)
    );
    assert!(matches!(
        parse(&bomb),
        Err(Error::TooLarge {
            what: "a TOC entry",
            ..
        })
    ));
    let holes = r#"{"name":"f","type":"reg","size":1099511627776,"chunkType":"zeros"}"#;
    let limits = Limits {
        chunks: 1000,
        ..all
    };
    let (member, footer) = toc_of_json(&format!(r#"{{"version":1,"entries":[{holes}]}}"#));
    assert!(Toc::parse(&member, &footer, &TocDigest::Unverified, &limits).is_err());
}

#[test]
fn a_toc_that_is_not_the_one() {
    let json = r#"{"version":1,"entries":[]}"#;
    let (member, footer) = toc_of_json(json);
    let limits = Limits::default();
    let parse = |expected| Toc::parse(&member, &footer, &expected, &limits);
    assert!(parse(TocDigest::Uncompressed(Digest::of(json.as_bytes()))).is_ok());
    assert!(parse(TocDigest::Compressed(Digest::of(&member))).is_ok());
    for wrong in [
        TocDigest::Uncompressed(Digest::of(b"")),
        TocDigest::Compressed(Digest::of(b"")),
    ] {
        assert!(matches!(parse(wrong), Err(Error::TocDigest { .. })));
    }
    for length in 0..member.len() / 2 {
        let cut = Toc::parse(&member[..length], &footer, &TocDigest::Unverified, &limits);
        assert!(cut.is_err(), "{length}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&[b'a'; 4096]).unwrap();
    let other = gzip.finish().unwrap();
    let result = Toc::parse(&other, &footer, &TocDigest::Unverified, &limits);
    assert!(matches!(result, Err(Error::NoToc)), "{result:?}");
}

#[test]
fn both_landmarks() {
    let mark = |name: &str| format!(r#"{{"name":"{name}","type":"reg","size":1,"offset":77}}"#);
    let (no, yes) = (mark(".no.prefetch.landmark"), mark("./.prefetch.landmark"));
    let landmark = |entries: &str| {
        let toc = parse_entries(entries).unwrap();
        assert_eq!(toc.entries().len(), 0);
        assert!(toc.chunks().is_empty());
        toc.landmark()
    };
    assert_eq!(landmark(&yes), Landmark::Prefetch { end: 77 });
    assert_eq!(landmark(&no), Landmark::NoPrefetch);
    assert_eq!(landmark(&format!("{yes},{no}")), Landmark::NoPrefetch);
    assert_eq!(landmark(&format!("{no},{yes}")), Landmark::NoPrefetch);
    assert_eq!(landmark(""), Landmark::None);
    // Only at the root.
    let below = parse_entries(&mark("d/.prefetch.landmark")).unwrap();
    assert_eq!(
        (below.entries().len(), below.landmark()),
        (1, Landmark::None)
    );
}

#[test]
fn members_that_are_damaged() {
    let content: Vec<u8> = (0..50_000u32)
        .flat_map(|at| (at * at).to_le_bytes())
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&content).unwrap();
    let member = gzip.finish().unwrap();
    let digest = Digest::of(&content);
    let size = content.len();
    let toc = parse_entries(&format!(
        r#"{{"name":"f","type":"reg","size":{size},"offset":1,"digest":"{digest}"}}"#
    ))
    .unwrap();
    let chunk = toc.chunks()[0];
    assert!(decode_member(&member, &chunk).is_ok());
    assert!(matches!(
        decode_member(&member[..member.len() / 2], &chunk),
        Err(Error::Truncated(_))
    ));
    assert!(matches!(
        decode_member(b"not gzip at all", &chunk),
        Err(Error::Decompress(..))
    ));
    for at in (20..member.len()).step_by(member.len() / 50) {
        let mut damaged = member.clone();
        damaged[at] ^= 0x10;
        if let Ok(found) = decode_member(&damaged, &chunk) {
            assert_eq!(found, content, "byte {at}");
        }
    }
    let mut other = chunk;
    other.digest = Some(Digest::of(b""));
    assert!(matches!(
        decode_member(&member, &other),
        Err(Error::ChunkDigest { .. })
    ));
    other.digest = None;
    assert!(matches!(
        decode_member(&member, &other),
        Err(Error::NoChunkDigest)
    ));
    assert_eq!(decode_unverified(&member, &other).unwrap(), content);
    other.size = 1 << 40;
    assert!(matches!(
        decode_unverified(&member, &other),
        Err(Error::TooLarge { .. })
    ));
}
