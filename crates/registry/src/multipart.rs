//! `multipart/byteranges` (RFC 9110 §14.6), from memory.

/// The parts with the offset of their first byte. None if it is malformed.
pub(crate) fn parse<'a>(boundary: &str, body: &'a [u8]) -> Option<Vec<(u64, &'a [u8])>> {
    let delimiter = format!("--{boundary}");
    let mut rest = &body[find(body, delimiter.as_bytes())?..];
    let mut parts = Vec::new();
    loop {
        rest = rest.strip_prefix(delimiter.as_bytes())?;
        if rest.starts_with(b"--") {
            return Some(parts);
        }
        rest = after_line(rest)?;
        let mut range = None;
        loop {
            let end = find(rest, b"\n")?;
            let line = rest[..end].trim_ascii();
            rest = &rest[end + 1..];
            if line.is_empty() {
                break;
            }
            range = range.or_else(|| part_range(line));
        }
        // The length comes from the header: the delimiter may occur in the bytes.
        let (first, length) = range?;
        let length = usize::try_from(length).ok()?;
        let part = rest.get(..length)?;
        parts.push((first, part));
        rest = after_line(&rest[length..])?;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len().max(1))
        .position(|window| window == wanted)
}

/// Behind optional blanks and one line end.
fn after_line(bytes: &[u8]) -> Option<&[u8]> {
    let end = find(bytes, b"\n")?;
    bytes[..end]
        .trim_ascii()
        .is_empty()
        .then(|| &bytes[end + 1..])
}

fn part_range(line: &[u8]) -> Option<(u64, u64)> {
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    name.eq_ignore_ascii_case("content-range")
        .then(|| range(value))?
}

/// `bytes FIRST-LAST/TOTAL` → first byte and length.
pub(crate) fn range(value: &str) -> Option<(u64, u64)> {
    let (range, _) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

/// The boundary of a content type `multipart/byteranges`.
pub(crate) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/byteranges") {
        return None;
    }
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary")
            .then(|| value.trim_matches('"'))
    })?;
    (1..=70).contains(&value.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(parts: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (first, bytes) in parts {
            let last = first + bytes.len() as u64 - 1;
            body.extend(
                format!(
                    "\r\n--B\r\nContent-Type: x\r\ncontent-range: bytes {first}-{last}/*\r\n\r\n"
                )
                .as_bytes(),
            );
            body.extend(bytes);
        }
        body.extend(b"\r\n--B--\r\n");
        body
    }

    #[test]
    fn content_types() {
        for (text, expected) in [
            ("multipart/byteranges; boundary=abc", Some("abc")),
            ("Multipart/ByteRanges;x=y; Boundary=\"a b\"", Some("a b")),
            ("multipart/byteranges; boundary=", None),
            ("multipart/byteranges", None),
            ("application/octet-stream; boundary=abc", None),
        ] {
            assert_eq!(boundary(text), expected, "{text}");
        }
    }

    #[test]
    fn malformed_bodies() {
        for body in [
            &b""[..],
            b"--B",
            b"--B\r\n",
            b"--B\r\n\r\nabc\r\n--B--",
            b"--B\r\nContent-Range: bytes 0-9/10\r\n\r\nabc\r\n--B--",
            b"--B\r\nContent-Range: bytes 0-2/10\r\n\r\nabcd\r\n--B--",
            b"--B\r\nContent-Range: bytes 2-0/10\r\n\r\n\r\n--B--",
            b"--B\r\nContent-Range: bytes 0-18446744073709551615/10\r\n\r\n\r\n--B--",
        ] {
            assert_eq!(parse("B", body), None, "{}", String::from_utf8_lossy(body));
        }
    }

    proptest! {
        #[test]
        fn written_parts_come_back(parts in prop::collection::vec((0u64..1 << 40, prop::collection::vec(prop::sample::select(b"-B\r\nx".to_vec()), 1..40)), 1..6)) {
            let body = write(&parts);
            let read = parse("B", &body).unwrap();
            let read: Vec<_> = read.into_iter().map(|(first, bytes)| (first, bytes.to_vec())).collect();
            prop_assert_eq!(read, parts);
        }

        #[test]
        fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut body = write(&[(5, b"abc".to_vec()), (90, b"de".to_vec())]);
            let index = at.index(body.len());
            body[index] = byte;
            body.truncate(cut.index(body.len() + 1));
            let _ = parse("B", &body);
        }
    }
}
