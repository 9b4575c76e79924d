//! Which paths and names a tree holds.

use crate::format::{MAX_NAME, MAX_PATH};

/// Why a path of a layer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TooLong,
    BadName,
}

/// The components of a path, without empty ones and `.`; so `/a//./b/` is `a`, `b`.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

/// Parts a path into its directory and its last name; the name is empty for the root.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let mut path = path;
    loop {
        if let [rest @ .., b'/'] = path {
            path = rest;
        } else if let [rest @ .., b'/', b'.'] = path {
            path = rest;
        } else {
            break;
        }
    }
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash), path.get(slash + 1..)),
        None => (None, Some(path)),
    };
    let name = name.unwrap_or_default();
    if name == b"." {
        return (&[], &[]);
    }
    (directory.unwrap_or_default(), name)
}

/// A name that a directory may hold: no way up, no separator, nothing the kernel refuses.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// Checks a whole path of a layer; the root (no component) is fine.
pub(crate) fn check(path: &[u8]) -> Result<(), Fault> {
    if path.len() > MAX_PATH {
        return Err(Fault::TooLong);
    }
    if components(path).all(is_name) {
        Ok(())
    } else {
        Err(Fault::BadName)
    }
}

/// The path with exactly one slash between its components.
pub(crate) fn normal(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(path.len());
    for name in components(path) {
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(name);
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_finds_the_last_name() {
        let table: &[(&[u8], &[u8], &[u8])] = &[
            (b"", b"", b""),
            (b"/", b"", b""),
            (b".", b"", b""),
            (b"./", b"", b""),
            (b"././.", b"", b""),
            (b"a", b"", b"a"),
            (b"/a", b"", b"a"),
            (b"a/", b"", b"a"),
            (b"a/.", b"", b"a"),
            (b"./a/b", b"./a", b"b"),
            (b"a//b/./", b"a/", b"b"),
            (b"a/..", b"a", b".."),
            (b".a", b"", b".a"),
            (b"a/b.", b"a", b"b."),
        ];
        for (path, directory, name) in table {
            assert_eq!(split(path), (*directory, *name), "{path:?}");
        }
    }

    #[test]
    fn names_that_would_escape_or_that_no_kernel_takes_are_refused() {
        let long = [b'n'; 256];
        let bad: &[&[u8]] = &[b"..", b"a/../b", b"a/..", b"a\0b", &long];
        for path in bad {
            assert_eq!(check(path), Err(Fault::BadName), "{path:?}");
        }
        let good: &[&[u8]] = &[b"", b"/", b"...", b"a/.../b", b"\xff\xfe", &long[..255]];
        for path in good {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
        let deep = b"a/".repeat(2048);
        assert_eq!(check(&deep), Err(Fault::TooLong));
    }

    #[test]
    fn normal_paths_have_single_slashes() {
        assert_eq!(normal(b"/a//./b/"), b"a/b");
        assert_eq!(normal(b"./"), b"");
    }
}
