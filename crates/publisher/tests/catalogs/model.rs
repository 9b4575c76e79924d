//! Random changes against a map; all counters recomputed after each commit.

use std::collections::BTreeMap;

use proptest::prelude::*;
use publisher::{Entry, How};

use crate::support::{MTIME, Test};

#[derive(Clone, Debug)]
enum Step {
    File(String, u8),
    Symlink(String),
    Directory(String, u32),
    Nested(String),
    Remove(String),
    Graft(String, Vec<String>),
    Clone(String, String),
    Commit,
}

/// Few names, so that they meet.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "a-b"]), 1..4)
        .prop_map(|names| format!("/{}", names.join("/")))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, seed)| Step::File(path, seed)),
        1 => path().prop_map(Step::Symlink),
        2 => (path(), 0_u32..0o1000).prop_map(|(path, mode)| Step::Directory(path, mode)),
        3 => path().prop_map(Step::Nested),
        3 => path().prop_map(Step::Remove),
        2 => (path(), prop::collection::vec(path(), 0..4)).prop_map(|(path, files)| Step::Graft(path, files)),
        2 => (path(), path()).prop_map(|(from, to)| Step::Clone(from, to)),
        2 => Just(Step::Commit),
    ]
}

/// Directories as `d` and mode, files as `f` and content, symlinks as `l`.
type Model = BTreeMap<String, String>;

fn below(path: &str, top: &str) -> bool {
    path == top || path.starts_with(&format!("{top}/"))
}

/// Whether something can lie at a path, with the directories on the way made.
fn parents(model: &mut Model, path: &str) -> bool {
    let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).skip(1).collect();
    let free = |model: &Model, end: &usize| {
        model
            .get(&path[..*end])
            .is_none_or(|node| node.starts_with('d'))
    };
    if !ends.iter().all(|end| free(model, end)) {
        return false;
    }
    for end in ends {
        model
            .entry(path[..end].to_owned())
            .or_insert_with(|| "d755".to_owned());
    }
    true
}

fn put(model: &mut Model, path: &str, node: String) {
    model.retain(|known, _| !below(known, path));
    model.insert(path.to_owned(), node);
}

/// Whether the step must succeed.
fn predict(model: &mut Model, step: &Step) -> bool {
    match step {
        Step::File(path, seed) => {
            let possible = parents(model, path);
            if possible {
                put(model, path, format!("f{seed}"));
            }
            possible
        }
        Step::Symlink(path) => {
            let possible = parents(model, path);
            if possible {
                put(model, path, "l".to_owned());
            }
            possible
        }
        Step::Directory(path, mode) => {
            if model.get(path).is_some_and(|node| node.starts_with('d')) {
                model.insert(path.clone(), format!("d{mode:o}"));
                return true;
            }
            let possible = parents(model, path);
            if possible {
                put(model, path, format!("d{mode:o}"));
            }
            possible
        }
        Step::Nested(path) => parents(model, &format!("{path}/x")),
        Step::Remove(path) => {
            model.retain(|known, _| !below(known, path));
            true
        }
        Step::Graft(path, files) => {
            if !parents(model, path) {
                return false;
            }
            put(model, path, "d755".to_owned());
            for file in files {
                let file = format!("{path}{file}");
                if parents(model, &file) {
                    put(model, &file, "f7".to_owned());
                }
            }
            true
        }
        Step::Clone(from, to) => {
            if below(from, to)
                || below(to, from)
                || !model.contains_key(from)
                || !parents(model, to)
            {
                return false;
            }
            let copy: Vec<_> = model
                .iter()
                .filter(|(path, _)| below(path, from))
                .map(|(path, node)| (format!("{to}{}", &path[from.len()..]), node.clone()))
                .collect();
            model.retain(|known, _| !below(known, to));
            model.extend(copy);
            true
        }
        Step::Commit => true,
    }
}

fn apply(
    test: &Test,
    transaction: &mut publisher::Transaction,
    step: &Step,
) -> Result<(), publisher::Error> {
    let file = || Entry::file(0o644, MTIME);
    match step {
        Step::File(path, seed) => transaction.file(path.as_bytes(), file(), &[*seed; 10]),
        Step::Symlink(path) => transaction.symlink(path.as_bytes(), Entry::symlink("x", MTIME)),
        Step::Directory(path, mode) => {
            transaction.directory(path.as_bytes(), Entry::directory(*mode, MTIME))
        }
        Step::Nested(path) => transaction.nested_catalog(path.as_bytes()),
        Step::Remove(path) => transaction.remove(path.as_bytes()),
        Step::Graft(path, files) => {
            let mut builder = test.builder(3);
            for path in files {
                // Impossible ones are refused here as in the model.
                let _ = builder.file(
                    &path.as_bytes()[1..],
                    file(),
                    &mut &[7; 10][..],
                    10,
                    How::DEFLATED,
                );
            }
            transaction.graft(path.as_bytes(), &builder.finish()?)
        }
        Step::Clone(from, to) => transaction.clone_subtree(from.as_bytes(), to.as_bytes()),
        Step::Commit => Ok(()),
    }
}

fn shown(test: &Test) -> Model {
    let client = test.client();
    let mut model = Model::new();
    for (path, entry) in client.walk("") {
        if path.is_empty() || path.ends_with(".cvmfscatalog") {
            continue;
        }
        let node = match entry.dirent.kind {
            cvmfs::Kind::Directory => format!("d{:o}", entry.dirent.mode & 0o7777),
            cvmfs::Kind::Symlink => "l".to_owned(),
            _ => format!("f{}", client.bytes(&entry.content)[0]),
        };
        model.insert(format!("/{path}"), node);
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]
    #[test]
    fn changes_are_those_of_a_map(steps in prop::collection::vec(step(), 1..30)) {
        let test = Test::new();
        let mut model = Model::new();
        let mut transaction = test.begin();
        for step in steps.iter().chain([&Step::Commit]) {
            let before = model.clone();
            let possible = predict(&mut model, step);
            let done = apply(&test, &mut transaction, step);
            prop_assert_eq!(done.is_ok(), possible, "{:?}: {:?}", step, done);
            if !possible {
                model = before;
            }
            if matches!(step, Step::Commit) {
                transaction.commit(None).unwrap();
                test.assert_sound();
                prop_assert_eq!(shown(&test), model.clone());
                transaction = test.begin();
            }
        }
    }
}
