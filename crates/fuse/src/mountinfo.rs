//! What is mounted where, from `/proc/self/mountinfo` (proc(5)): the way to look at mounts without touching them.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One mount of this process's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Number of the mount.
    pub id: u64,
    /// Number of the mount that it lies on.
    pub parent: u64,
    /// Major and minor number of `st_dev` of its files. A FUSE mount's minor number is also its connection's name
    /// below `/sys/fs/fuse/connections`.
    pub device: (u32, u32),
    /// Directory of the file system that is the mount's root.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of the mount, separated by commas.
    pub options: String,
    /// Type of the file system, such as `ext4` or `fuse.outcrop`.
    pub file_system: String,
    /// What was mounted, such as a device; the file system's own business.
    pub source: String,
}

/// The mounts at or below `dir` (an absolute path without links), in the order of mounting. Detach them last to first.
///
/// # Errors
/// `/proc/self/mountinfo` cannot be read.
pub fn mounts_below(dir: &Path) -> io::Result<Vec<MountInfo>> {
    let mut mounts = parse_mountinfo(&std::fs::read(MOUNTINFO)?);
    mounts.retain(|mount| mount.mount_point.starts_with(dir));
    Ok(mounts)
}

/// The uppermost mount exactly at `dir`.
pub(crate) fn mount_at(dir: &Path) -> io::Result<Option<MountInfo>> {
    Ok(mounts_below(dir)?
        .into_iter()
        .rfind(|mount| mount.mount_point == dir))
}

/// Reads the text of a mountinfo file; lines in an unknown form are left out.
#[must_use]
pub fn parse_mountinfo(text: &[u8]) -> Vec<MountInfo> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = text(fields.next()?);
    // Any number of optional fields, then a lone hyphen.
    fields.find(|field| *field == b"-")?;
    Some(MountInfo {
        id,
        parent,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root,
        mount_point,
        options,
        file_system: text(fields.next()?),
        source: text(fields.next()?),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Space, tab, newline, backslash and `#` come as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match (first, octal(after)) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

fn octal(bytes: &[u8]) -> Option<u8> {
    let digits = bytes.get(..3)?;
    if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_found_with_and_without_optional_ones() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
            40 36 0:51 / /srv/chain ro,nosuid - fuse.outcrop outcrop ro,user_id=0\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            mounts[0],
            MountInfo {
                id: 36,
                parent: 35,
                device: (98, 0),
                root: "/mnt1".into(),
                mount_point: "/mnt2".into(),
                options: "rw,noatime".into(),
                file_system: "ext3".into(),
                source: "/dev/root".into(),
            }
        );
        assert_eq!(mounts[1].device, (0, 51));
        assert_eq!(mounts[1].file_system, "fuse.outcrop");
    }

    #[test]
    fn escapes_are_undone() {
        let text = b"1 0 0:1 / /a\\040b\\134c\\011\\012\\043 rw - tmpfs my\\040source rw";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts[0].mount_point, Path::new("/a b\\c\t\n#"));
        assert_eq!(mounts[0].source, "my source");
    }

    #[test]
    fn what_is_no_escape_stays() {
        for raw in ["\\", "\\04", "\\048", "\\999", "\\777", "a\\x40"] {
            assert_eq!(unescape(raw.as_bytes()), raw.as_bytes());
        }
    }

    #[test]
    fn an_empty_source_is_a_field() {
        assert_eq!(parse_mountinfo(b"1 0 0:1 / /a rw - fuse  rw")[0].source, "");
    }

    #[test]
    fn lines_in_another_form_are_left_out() {
        for line in [
            "",
            "x",
            "1 0 01 / /a rw - t s o",
            "1 0 0:1 / /a rw t s o",
            "a 0 0:1 / /a rw - t s o",
        ] {
            assert_eq!(parse_mountinfo(line.as_bytes()), [], "{line}");
        }
    }

    #[test]
    fn mounts_of_this_machine_are_found() {
        let all = mounts_below(Path::new("/")).unwrap();
        assert!(all.iter().any(|mount| mount.mount_point == Path::new("/")));
        assert!(mount_at(Path::new("/proc")).unwrap().is_some());
        assert_eq!(mount_at(Path::new("/pro")).unwrap(), None);
    }

    proptest! {
        #[test]
        fn random_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_mountinfo(&bytes);
        }

        #[test]
        fn any_path_survives_the_kernels_escaping(name in prop::collection::vec(1u8..=255, 1..60)) {
            let escaped: Vec<u8> = name
                .iter()
                .flat_map(|&byte| match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
                    other => vec![other],
                })
                .collect();
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
