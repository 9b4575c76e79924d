//! Records of PAX headers, and GNU's long names as such. The crate `tar` cuts them at line ends, which binary values of extended attributes hold as well.

/// Key and value.
pub(crate) type Record<'a> = (&'a [u8], &'a [u8]);

/// All records before the header at `end`: key and value. `None` if they are malformed.
pub(crate) fn records(headers: &[u8], end: usize) -> Option<Vec<Record<'_>>> {
    const BLOCK: usize = 512;
    let mut records = Vec::new();
    let mut rest = headers.get(..end)?;
    while !rest.is_empty() {
        let (block, after) = rest.split_at_checked(BLOCK)?;
        let header = tar::Header::from_byte_slice(block);
        let size = usize::try_from(header.entry_size().ok()?).ok()?;
        let content = after.get(..size)?;
        let text = || content.split(|byte| *byte == 0).next().unwrap_or_default();
        match header.entry_type() {
            tar::EntryType::XHeader => parse(content, &mut records)?,
            tar::EntryType::GNULongName => records.push((&b"path"[..], text())),
            tar::EntryType::GNULongLink => records.push((&b"linkpath"[..], text())),
            _ => {}
        }
        rest = after.get(size.checked_next_multiple_of(BLOCK)?..)?;
    }
    Some(records)
}

/// `LENGTH KEY=VALUE\n`, the length of the whole record in decimal digits.
fn parse<'a>(mut rest: &'a [u8], records: &mut Vec<Record<'a>>) -> Option<()> {
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ')?;
        let digits = rest.get(..space)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        rest = &rest[length..];
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record() {
        for text in [
            &b"x"[..],
            b"5 a=b",
            b"6 ab\n",
            b"9 a=b\n",
            b"1 a=b\n",
            b" a=b\n",
            b"+6 a=b\n",
        ] {
            assert_eq!(parse(text, &mut Vec::new()), None, "{text:?}");
        }
        let mut records = Vec::new();
        parse(b"6 a=b\n12 x=\n6 a=b\n", &mut records).unwrap();
        assert_eq!(records, [(&b"a"[..], &b"b"[..]), (b"x", b"\n6 a=b")]);
    }
}
