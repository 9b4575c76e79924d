//! A catalog of the real server, built again from what the client library shows of it.

use std::collections::BTreeMap;

use cvmfs::{Compression, Content, Kind};
use publisher::{Entry, StoredChunk, StoredContent};
use rusqlite::types::Value;

use crate::support::{Test, shared_fixture};

/// The layer with the most entries.
const LAYER: &str =
    "/.layers/b9/b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23/layerfs";

#[test]
fn a_layers_catalog_has_the_real_rows_and_counters() {
    let test = Test::of_fixture();
    let client = test.client();
    let revision = client.repository.current();
    let (real, _) = revision.nested_catalog(LAYER.as_bytes()).unwrap().unwrap();
    let mut builder = test.builder(1_000_000);
    for (path, entry) in client.walk(LAYER) {
        let dirent = &entry.dirent;
        let made = Entry {
            kind: dirent.kind,
            mode: dirent.mode,
            uid: dirent.uid,
            gid: dirent.gid,
            mtime: dirent.mtime,
            mtime_nanos: dirent.mtime_nanos,
            rdev: dirent.rdev,
            xattrs: dirent.xattrs().unwrap(),
            symlink: dirent.symlink.clone(),
            size: dirent.size,
        };
        match dirent.kind {
            Kind::File => builder
                .file_with(path.as_bytes(), made, &content(&entry.content))
                .unwrap(),
            Kind::Directory => builder.directory(path.as_bytes(), made).unwrap(),
            _ => builder.add(path.as_bytes(), made).unwrap(),
        }
    }
    let subtree = builder.finish().unwrap();
    test.graft(LAYER, &subtree);
    test.assert_sound();
    let ours = test.client();
    let (ours, _) = ours
        .repository
        .current()
        .nested_catalog(LAYER.as_bytes())
        .unwrap()
        .unwrap();
    let repository = test.directory.path().join("repository");
    let (real, ours) = (
        dump(&shared_fixture().repository(), &real),
        dump(&repository, &ours),
    );
    assert_eq!(real.rows.len(), 376);
    assert_eq!(ours.rows.len(), real.rows.len());
    for (ours, mut real) in ours.rows.iter().zip(real.rows) {
        if real[9] == Value::Integer(12) {
            // The real server's ingestion leaves out the length of targets, its publishing does not, and no client reads it.
            real[6].clone_from(&ours[6]);
        }
        assert_eq!(*ours, real);
    }
    assert_eq!(ours.counters, real.counters);
    assert_eq!(ours.chunks, real.chunks);
    for (name, sql) in &real.schema {
        // The real one is a revision older: it has no column for nanoseconds.
        let sql = sql.replace(" mtime INTEGER,", " mtime INTEGER, mtimens INTEGER,");
        let plain = |sql: &str| sql.split_whitespace().collect::<String>();
        assert_eq!(plain(&ours.schema[name]), plain(&sql), "{name}");
    }
    assert_eq!(ours.schema.len(), real.schema.len());
}

fn content(content: &Content) -> StoredContent {
    match content {
        Content::Whole(object) => StoredContent::Whole {
            hash: object.hash,
            compression: object.compression,
        },
        Content::Chunked(chunks) => {
            let chunk = |chunk: &cvmfs::Chunk| StoredChunk {
                offset: chunk.offset,
                size: chunk.size,
                hash: chunk.object.hash,
                compression: Compression::Zlib,
            };
            StoredContent::Chunked(chunks.iter().map(chunk).collect())
        }
        _ => StoredContent::Empty,
    }
}

struct Dump {
    rows: Vec<Vec<Value>>,
    chunks: Vec<Vec<Value>>,
    counters: BTreeMap<String, i64>,
    schema: BTreeMap<String, String>,
}

fn dump(repository: &std::path::Path, hash: &cvmfs::ContentHash) -> Dump {
    let text = hash.to_string();
    let stored =
        std::fs::read(repository.join(format!("data/{}/{}C", &text[..2], &text[2..]))).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut decoder = flate2::read::ZlibDecoder::new(&stored[..]);
    std::io::copy(&mut decoder, &mut file.as_file()).unwrap();
    let connection = rusqlite::Connection::open(file.path()).unwrap();
    let rows = |columns: &str, table: &str| {
        let sql = format!("SELECT {columns} FROM {table} ORDER BY 1, 2, 3");
        let mut statement = connection.prepare(&sql).unwrap();
        let count = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| (0..count).map(|at| row.get(at)).collect();
        let rows: Result<Vec<Vec<Value>>, _> = statement.query_map([], row).unwrap().collect();
        rows.unwrap()
    };
    let pairs = |sql: &str| {
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        rows.collect::<Result<Vec<(String, Value)>, _>>().unwrap()
    };
    let number = |value| match value {
        Value::Integer(number) => number,
        other => panic!("{other:?}"),
    };
    let sql = |value| match value {
        Value::Text(text) => text,
        other => panic!("{other:?}"),
    };
    Dump {
        rows: rows(
            "md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, flags, CAST(name AS BLOB), \
             CAST(symlink AS BLOB), uid, gid, xattr",
            "catalog",
        ),
        chunks: rows("md5path_1, md5path_2, offset, size, hash", "chunks"),
        counters: pairs("SELECT counter, value FROM statistics")
            .into_iter()
            .map(|(name, value)| (name, number(value)))
            .collect(),
        schema: pairs("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            .into_iter()
            .map(|(name, value)| (name, sql(value)))
            .collect(),
    }
}
