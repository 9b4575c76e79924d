//! Mounts as containerd's overlay snapshotter would answer them.

use std::path::{Path, PathBuf};

use crate::api::types::Mount;
use crate::store::Kind;

/// The kernel offers overlayfs' `index` option if this exists.
const INDEX_PARAMETER: &str = "/sys/module/overlay/parameters/index";

/// Whether overlay mounts should say `index=off`: with an index, a lower directory cannot be used twice.
pub(crate) fn index_supported() -> bool {
    Path::new(INDEX_PARAMETER).exists()
}

/// What a snapshot stands on, and where its own directories are.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) kind: Kind,
    pub(crate) fs: PathBuf,
    pub(crate) work: PathBuf,
    /// Lower directories, nearest first: local layers, then at most one attached chain.
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) index_off: bool,
}

/// The mounts of an active or view snapshot.
pub(crate) fn build(stack: &Stack) -> Vec<Mount> {
    let access = if stack.kind == Kind::Active {
        "rw"
    } else {
        "ro"
    };
    match (stack.kind, stack.lowers.as_slice()) {
        (_, []) => bind(&stack.fs, access),
        (Kind::View, [only]) => bind(only, access),
        _ => overlay(stack),
    }
}

fn bind(source: &Path, access: &str) -> Vec<Mount> {
    vec![Mount {
        r#type: "bind".to_owned(),
        source: source.display().to_string(),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }]
}

fn overlay(stack: &Stack) -> Vec<Mount> {
    let mut options = Vec::new();
    if stack.index_off {
        options.push("index=off".to_owned());
    }
    if stack.kind == Kind::Active {
        options.push(format!("workdir={}", stack.work.display()));
        options.push(format!("upperdir={}", stack.fs.display()));
    }
    let lowers: Vec<String> = stack
        .lowers
        .iter()
        .map(|lower| lower.display().to_string())
        .collect();
    options.push(format!("lowerdir={}", lowers.join(":")));
    vec![Mount {
        r#type: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: Kind, lowers: &[&str], index_off: bool) -> (String, String, Vec<String>) {
        let mounts = build(&Stack {
            kind,
            fs: "/r/snapshots/7/fs".into(),
            work: "/r/snapshots/7/work".into(),
            lowers: lowers.iter().map(PathBuf::from).collect(),
            index_off,
        });
        let [mount] = <[Mount; 1]>::try_from(mounts).unwrap();
        (mount.r#type, mount.source, mount.options)
    }

    #[test]
    fn mounts_of_every_situation() {
        let (own, work, upper) = (
            "/r/snapshots/7/fs",
            "workdir=/r/snapshots/7/work",
            "upperdir=/r/snapshots/7/fs",
        );
        type Row<'a> = (Kind, &'a [&'a str], bool, &'a str, &'a str, &'a [&'a str]);
        let table: &[Row<'_>] = &[
            (Kind::Active, &[], true, "bind", own, &["rw", "rbind"]),
            (Kind::View, &[], true, "bind", own, &["ro", "rbind"]),
            (Kind::View, &["/p"], true, "bind", "/p", &["ro", "rbind"]),
            (
                Kind::View,
                &["/p", "/q"],
                true,
                "overlay",
                "overlay",
                &["index=off", "lowerdir=/p:/q"],
            ),
            (
                Kind::View,
                &["/p", "/q"],
                false,
                "overlay",
                "overlay",
                &["lowerdir=/p:/q"],
            ),
            (
                Kind::Active,
                &["/p"],
                true,
                "overlay",
                "overlay",
                &["index=off", work, upper, "lowerdir=/p"],
            ),
            (
                Kind::Active,
                &["/p", "/q"],
                false,
                "overlay",
                "overlay",
                &[work, upper, "lowerdir=/p:/q"],
            ),
        ];
        for (kind, lowers, index, expected_type, source, expected) in table {
            let (got_type, got_source, got) = options(*kind, lowers, *index);
            assert_eq!(
                (got_type.as_str(), got_source.as_str()),
                (*expected_type, *source),
                "{kind:?} {lowers:?}"
            );
            assert_eq!(got, *expected, "{kind:?} {lowers:?}");
        }
    }
}
