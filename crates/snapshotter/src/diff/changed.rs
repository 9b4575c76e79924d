//! Which directory is the difference between two snapshots? Read off their mounts.

use std::path::{Component, Path, PathBuf};

use super::DiffError;
use crate::api::types::Mount;

/// Options that change nothing about what is shown.
const HARMLESS: [&str; 6] = ["ro", "rw", "bind", "rbind", "index=off", "index=on"];

/// A snapshot's own directory.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) directory: PathBuf,
    /// Its number.
    pub(super) snapshot: i64,
}

/// The one directory that `right` has on top of all of `left`: a snapshot's own, below `root`.
pub(super) fn changed_directory(
    root: &Path,
    left: &[Mount],
    right: &[Mount],
) -> Result<Changed, DiffError> {
    let declined = |reason: &str| DiffError::Declined(reason.to_owned());
    let below = directories(left)?;
    let above = directories(right)?;
    let Some((top, rest)) = above.split_first() else {
        return Err(declined("nothing is mounted"));
    };
    if rest != below {
        return Err(declined("the one does not stand on the other"));
    }
    let snapshot = snapshot_of(root, top);
    let snapshot =
        snapshot.ok_or_else(|| declined("the upper directory is no snapshot of ours"))?;
    Ok(Changed {
        directory: top.clone(),
        snapshot,
    })
}

/// Directories of a list of mounts, topmost first.
fn directories(mounts: &[Mount]) -> Result<Vec<PathBuf>, DiffError> {
    let declined = |reason: String| DiffError::Declined(reason);
    let [mount] = mounts else {
        return Err(declined(format!("{} mounts, not one", mounts.len())));
    };
    if !mount.target.is_empty() {
        return Err(declined(format!("a mount at {}", mount.target)));
    }
    match mount.r#type.as_str() {
        "bind" => {
            others(&mount.options, &[])?;
            Ok(vec![PathBuf::from(&mount.source)])
        }
        "overlay" => {
            others(&mount.options, &["upperdir=", "workdir=", "lowerdir="])?;
            let value = |key: &str| {
                let options = mount.options.iter();
                options
                    .filter_map(|option| option.strip_prefix(key))
                    .next_back()
            };
            let lowers = value("lowerdir=").unwrap_or_default().split(':');
            let upper = value("upperdir=");
            Ok(upper
                .into_iter()
                .chain(lowers.filter(|lower| !lower.is_empty()))
                .map(PathBuf::from)
                .collect())
        }
        other => Err(declined(format!("a mount of type {other}"))),
    }
}

/// Refuses options that are not known: they may change owners or names.
fn others(options: &[String], keys: &[&str]) -> Result<(), DiffError> {
    let unknown = options.iter().find(|option| {
        !HARMLESS.contains(&option.as_str()) && !keys.iter().any(|key| option.starts_with(key))
    });
    match unknown {
        Some(option) => Err(DiffError::Declined(format!("mount option {option}"))),
        None => Ok(()),
    }
}

/// The number in `<root>/snapshots/<number>/fs`, spelt just so.
fn snapshot_of(root: &Path, directory: &Path) -> Option<i64> {
    let below = directory.strip_prefix(root.join("snapshots")).ok()?;
    let parts: Vec<_> = below.components().collect();
    match parts.as_slice() {
        [Component::Normal(number), Component::Normal(name)] if *name == "fs" => {
            let number = number.to_str()?;
            number
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then_some(())?;
            number.parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, access: &str) -> Mount {
        Mount {
            r#type: "bind".to_owned(),
            source: source.to_owned(),
            options: vec![access.to_owned(), "rbind".to_owned()],
            ..Mount::default()
        }
    }

    fn overlay(options: &[&str]) -> Mount {
        Mount {
            r#type: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Mount::default()
        }
    }

    fn changed(left: &Mount, right: &Mount) -> Result<String, String> {
        let root = Path::new("/r");
        changed_directory(
            root,
            std::slice::from_ref(left),
            std::slice::from_ref(right),
        )
        .map(|changed| {
            assert_eq!(changed.snapshot, 7);
            changed.directory.display().to_string()
        })
        .map_err(|error| error.to_string())
    }

    const UPPER: &str = "upperdir=/r/snapshots/7/fs";
    const WORK: &str = "workdir=/r/snapshots/7/work";

    #[test]
    fn a_container_on_a_chain() {
        let right = overlay(&["index=off", WORK, UPPER, "lowerdir=/r/chains/a/fs"]);
        assert_eq!(
            changed(&bind("/r/chains/a/fs", "ro"), &right).unwrap(),
            "/r/snapshots/7/fs"
        );
        let other = changed(&bind("/r/chains/b/fs", "ro"), &right);
        assert_eq!(other.unwrap_err(), "the one does not stand on the other");
    }

    #[test]
    fn a_container_on_local_layers_and_a_chain() {
        let left = overlay(&["index=off", "lowerdir=/r/snapshots/3/fs:/r/chains/a/fs"]);
        let lowers = "lowerdir=/r/snapshots/3/fs:/r/chains/a/fs";
        let active = overlay(&[WORK, UPPER, lowers]);
        assert_eq!(changed(&left, &active).unwrap(), "/r/snapshots/7/fs");
        let committed = overlay(&["lowerdir=/r/snapshots/7/fs:/r/snapshots/3/fs:/r/chains/a/fs"]);
        assert_eq!(changed(&left, &committed).unwrap(), "/r/snapshots/7/fs");
        let two_more = overlay(&["lowerdir=/r/snapshots/7/fs:/r/snapshots/3/fs"]);
        assert!(changed(&left, &two_more).is_err());
        assert!(changed(&active, &left).is_err());
    }

    #[test]
    fn what_is_not_ours_is_left_to_others() {
        let left = bind("/r/chains/a/fs", "ro");
        let table = [
            overlay(&["upperdir=/elsewhere/7/fs", "lowerdir=/r/chains/a/fs"]),
            overlay(&["upperdir=/r/snapshots/../x/fs", "lowerdir=/r/chains/a/fs"]),
            overlay(&["upperdir=/r/snapshots/7/fs/etc", "lowerdir=/r/chains/a/fs"]),
            overlay(&["upperdir=/r/snapshots/new-7/fs", "lowerdir=/r/chains/a/fs"]),
            overlay(&[UPPER, "lowerdir=/r/chains/a/fs", "uidmap=0:1:65536"]),
            overlay(&[UPPER, "lowerdir=/r/chains/a/fs", "redirect_dir=on"]),
            Mount {
                r#type: "erofs".to_owned(),
                ..left.clone()
            },
            Mount {
                target: "/usr".to_owned(),
                ..overlay(&[UPPER, "lowerdir=/r/chains/a/fs"])
            },
            overlay(&[]),
            // A lazy layer on a lazy layer: there is no directory.
            bind("/r/chains/b/fs", "ro"),
        ];
        for right in &table {
            assert!(changed(&left, right).is_err(), "{right:?}");
        }
        let none = changed_directory(Path::new("/r"), &[], std::slice::from_ref(&left));
        assert!(matches!(none, Err(DiffError::Declined(_))));
        let two = changed_directory(
            Path::new("/r"),
            std::slice::from_ref(&left),
            &[left.clone(), left.clone()],
        );
        assert!(matches!(two, Err(DiffError::Declined(_))));
    }
}
