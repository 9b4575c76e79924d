//! Names that a layer may have.

use super::error::LayerError;

/// Longest name of one file, as file systems and catalogs have it.
const MAX_NAME: usize = 255;
/// Longest path and longest target of a symlink, without the NUL that PATH_MAX counts.
const MAX_PATH: usize = 4095;

/// An entry's path relative to the layer's root: without `./`, doubled and trailing slashes; empty for the root.
pub(crate) fn entry(raw: &[u8]) -> Result<Vec<u8>, LayerError> {
    if raw.is_empty() {
        return Err(LayerError::entry(raw, "its name is empty"));
    }
    if raw.starts_with(b"/") {
        return Err(LayerError::entry(raw, "its name is absolute"));
    }
    cleaned(raw)
}

/// What a hardlink points to, likewise. Tools write it with and without leading slash; either way it is a name in the layer.
pub(crate) fn link_target(raw: &[u8], path: &[u8]) -> Result<Vec<u8>, LayerError> {
    let target = cleaned(raw).map_err(|error| match error {
        LayerError::Entry { reason, .. } => LayerError::entry(
            path,
            format!("it is a hardlink whose target is refused: {reason}"),
        ),
        other => other,
    })?;
    if target.is_empty() {
        return Err(LayerError::entry(path, "it is a hardlink to the root"));
    }
    Ok(target)
}

/// A symlink's target may point anywhere: who follows it does so in the container.
pub(crate) fn symlink_target(target: &[u8], path: &[u8]) -> Result<(), LayerError> {
    let reason = match target {
        [] => "it is a symlink without a target",
        target if target.contains(&0) => "its target contains a NUL",
        target if target.len() > MAX_PATH => "its target is too long",
        _ => return Ok(()),
    };
    Err(LayerError::entry(path, reason))
}

fn cleaned(raw: &[u8]) -> Result<Vec<u8>, LayerError> {
    let mut path = Vec::with_capacity(raw.len());
    for name in raw.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(LayerError::entry(raw, "its name contains `..`")),
            name if name.contains(&0) => {
                return Err(LayerError::entry(raw, "its name contains a NUL"));
            }
            name if name.len() > MAX_NAME => {
                let reason = format!("a part of its name is longer than {MAX_NAME} bytes");
                return Err(LayerError::entry(raw, reason));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    if path.len() > MAX_PATH {
        let reason = format!("its name is longer than {MAX_PATH} bytes");
        return Err(LayerError::entry(raw, reason));
    }
    Ok(path)
}

/// All directories above a path, the nearest first, without the root.
pub(crate) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut end = path.len();
    std::iter::from_fn(move || {
        end = path[..end].iter().rposition(|byte| *byte == b'/')?;
        Some(&path[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = [b"a/".as_slice(), &[b'x'; 256]].concat();
        let deep = b"d/".repeat(2100);
        for (raw, expected) in [
            (&b"a"[..], Some(&b"a"[..])),
            (b"./a//b/./c/", Some(b"a/b/c")),
            (b"./", Some(b"")),
            (b".", Some(b"")),
            (b"a\xff/\n", Some(b"a\xff/\n")),
            (b"..a/b..", Some(b"..a/b..")),
            (b"", None),
            (b"/a", None),
            (b"..", None),
            (b"a/../b", None),
            (b"a/..", None),
            (b"a\0b", None),
            (&long, None),
            (&deep, None),
        ] {
            let found = entry(raw).ok();
            assert_eq!(found.as_deref(), expected, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn targets_of_hardlinks() {
        assert_eq!(link_target(b"/bin/./sh", b"x").unwrap(), b"bin/sh");
        for target in [&b"../etc/shadow"[..], b"", b"/", b"./", b"a\0"] {
            let error = link_target(target, b"the link").unwrap_err();
            assert!(error.to_string().contains("the link"), "{error}");
        }
    }

    #[test]
    fn ancestors_nearest_first() {
        let found: Vec<&[u8]> = ancestors(b"a/b/c").collect();
        assert_eq!(found, [&b"a/b"[..], b"a"]);
        assert_eq!(ancestors(b"a").count(), 0);
    }
}
