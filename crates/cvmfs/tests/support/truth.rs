//! What the real client showed of the fixture.

use std::collections::BTreeMap;
use std::process::Command;

/// One line: the columns behind the path, as text, without the hardlink group.
pub(crate) type Columns = Vec<String>;

/// Lines by path (`/` for the root), unescaped.
pub(crate) fn load(name: &str) -> BTreeMap<Vec<u8>, Columns> {
    let output = Command::new("zstd")
        .arg("-dc")
        .arg(super::fixture_file(name))
        .output()
        .expect("zstd unpacks the truth");
    assert!(output.status.success(), "{name}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
            (unescape(&columns[0]), columns[1..].to_vec())
        })
        .collect()
}

/// Hardlink groups: first path → all paths.
pub(crate) fn groups(truth: &BTreeMap<Vec<u8>, Columns>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (path, columns) in truth {
        if columns[8] != "-" {
            groups
                .entry(unescape(&columns[8]))
                .or_default()
                .push(path.clone());
        }
    }
    groups
}

pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&behind[..2]).unwrap(), 16).unwrap());
            rest = &behind[2..];
        } else {
            bytes.push(*first);
        }
    }
    bytes
}

/// Base64 with padding, as the truth prints xattrs.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]);
            text.push(if place <= group.len() { digit } else { '=' });
        }
    }
    text
}
