//! Content in, objects out.

use std::sync::Arc;

use cvmfs::{Algorithm, Compression, ContentHash};
use publisher::storage::LocalStorage;
use publisher::{Chunking, How, ObjectStore, Options, StoredContent};
use tempfile::TempDir;

use crate::support::{noise, options, shared_fixture};

fn store(directory: &TempDir, options: Options) -> ObjectStore {
    let storage = Arc::new(LocalStorage::new(directory.path()));
    ObjectStore::new(storage, Algorithm::Sha1, options).unwrap()
}

/// Files that the real server cut, put together and cut by us.
#[test]
fn cuts_are_those_of_the_real_server() {
    let directory = TempDir::new().unwrap();
    let objects = store(&directory, options(&directory));
    let root = TempDir::new().unwrap();
    let mut files = 0;
    for (size, chunks) in chunked_files(&root) {
        let content: Vec<u8> = chunks.iter().flat_map(|chunk| object(&chunk.1)).collect();
        assert_eq!(content.len() as u64, size);
        let stored = objects
            .store(&mut &content[..], size, How::DEFLATED)
            .unwrap();
        let StoredContent::Chunked(ours) = stored else {
            panic!("not cut: {size}");
        };
        let ours: Vec<_> = ours
            .iter()
            .map(|chunk| (chunk.offset, chunk.hash))
            .collect();
        assert_eq!(ours, chunks);
        files += 1;
    }
    assert!(files >= 2, "{files}");
}

fn object(hash: &ContentHash) -> Vec<u8> {
    let text = hash.to_string();
    let path = format!("data/{}/{}P", &text[..2], &text[2..]);
    let stored = std::fs::read(shared_fixture().repository().join(path)).unwrap();
    let mut plain = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(&stored[..]);
    std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    plain
}

/// Size and chunks of all chunked, compressed SHA-1 files in the fixture's catalogs.
fn chunked_files(scratch: &TempDir) -> Vec<(u64, Vec<(u64, ContentHash)>)> {
    let mut found = std::collections::BTreeMap::new();
    let data = shared_fixture().repository().join("data");
    for folder in std::fs::read_dir(data).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if !path.to_string_lossy().ends_with('C') {
                continue;
            }
            let stored = std::fs::read(&path).unwrap();
            let database = scratch.path().join("catalog");
            let mut plain = Vec::new();
            std::io::Read::read_to_end(
                &mut flate2::read::ZlibDecoder::new(&stored[..]),
                &mut plain,
            )
            .unwrap();
            std::fs::write(&database, plain).unwrap();
            let connection = rusqlite::Connection::open(&database).unwrap();
            // Chunked, neither external nor uncompressed, SHA-1.
            let sql = "SELECT catalog.size, md5path_1, md5path_2, offset, chunks.hash FROM chunks JOIN catalog \
                       USING (md5path_1, md5path_2) WHERE flags & 0x7fc0 = 64 ORDER BY md5path_1, md5path_2, offset";
            let mut statement = connection.prepare(sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let key: (i64, i64) = (row.get(1).unwrap(), row.get(2).unwrap());
                let size: i64 = row.get(0).unwrap();
                let offset: i64 = row.get(3).unwrap();
                let digest: [u8; 20] = row.get(4).unwrap();
                let hash = ContentHash {
                    algorithm: Algorithm::Sha1,
                    digest,
                };
                let chunks: &mut std::collections::BTreeMap<u64, ContentHash> =
                    found.entry((key, size)).or_default();
                chunks.insert(offset as u64, hash);
            }
        }
    }
    found
        .into_iter()
        .map(|((_, size), chunks)| (size as u64, chunks.into_iter().collect()))
        .collect()
}

fn small(directory: &TempDir) -> Options {
    Options {
        chunking: Chunking {
            min: 64,
            average: 256,
            max: 1024,
        },
        memory_limit: 4096,
        ..options(directory)
    }
}

fn read_back(directory: &TempDir, content: &StoredContent) -> Vec<u8> {
    let read = |hash: &ContentHash, letter: &str, compression| {
        let text = hash.to_string();
        let path = directory
            .path()
            .join(format!("data/{}/{}{letter}", &text[..2], &text[2..]));
        let stored = std::fs::read(path).unwrap();
        assert_eq!(Algorithm::Sha1.digest(&stored), *hash);
        let mut plain = Vec::new();
        match compression {
            Compression::None => plain = stored,
            Compression::Zlib => {
                let mut decoder = flate2::read::ZlibDecoder::new(&stored[..]);
                std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
            }
        }
        plain
    };
    match content {
        StoredContent::Empty => Vec::new(),
        StoredContent::Whole { hash, compression } => read(hash, "", *compression),
        StoredContent::Chunked(chunks) => {
            let mut whole = Vec::new();
            for chunk in chunks {
                assert_eq!(chunk.offset, whole.len() as u64);
                let part = read(&chunk.hash, "P", chunk.compression);
                assert_eq!(chunk.size, part.len() as u64);
                whole.extend(part);
            }
            whole
        }
    }
}

#[test]
fn boundaries_are_kept_and_long_pieces_cut() {
    let directory = TempDir::new().unwrap();
    let objects = store(&directory, small(&directory));
    let content = noise(5000, 3);
    let how = How {
        compression: Compression::None,
        boundaries: Some(&[10, 700, 4990]),
    };
    let stored = objects.store(&mut &content[..], 5000, how).unwrap();
    assert_eq!(read_back(&directory, &stored), content);
    let StoredContent::Chunked(chunks) = stored else {
        panic!()
    };
    let offsets: Vec<_> = chunks.iter().map(|chunk| chunk.offset).collect();
    assert_eq!(offsets, [0, 10, 700, 1724, 2748, 3772, 4796, 4990]);
}

#[test]
fn repeated_content_is_stored_once() {
    let directory = TempDir::new().unwrap();
    let objects = store(&directory, options(&directory));
    for _ in 0..3 {
        objects.store(&mut &b"same"[..], 4, How::DEFLATED).unwrap();
    }
    assert_eq!(
        (objects.statistics().written, objects.statistics().repeated),
        (1, 2)
    );
    let other_run = store(&directory, options(&directory));
    other_run
        .store(&mut &b"same"[..], 4, How::DEFLATED)
        .unwrap();
    assert_eq!(
        (
            other_run.statistics().written,
            other_run.statistics().existing
        ),
        (0, 1)
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]
    #[test]
    fn any_content_comes_back(length in 0_usize..20_000, seed: u64, upload_threads in 0_usize..2) {
        let directory = TempDir::new().unwrap();
        let objects = store(&directory, Options { upload_threads, ..small(&directory) });
        let content = noise(length, seed);
        let stored = objects.store(&mut &content[..], length as u64, How::DEFLATED).unwrap();
        proptest::prop_assert_eq!(read_back(&directory, &stored), content);
        if let StoredContent::Chunked(chunks) = stored {
            let (_, but_last) = chunks.split_last().unwrap();
            proptest::prop_assert!(but_last.iter().all(|chunk| (64..=1024).contains(&chunk.size)));
        }
    }
}
