//! Extended headers (POSIX pax): `length key=value\n`, one after the other.

use super::error::LayerError;

/// Records in the order in which they stand: sparse maps of version 0.0 need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Reads a whole extended header.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, &'static str> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let space = bytes
                .iter()
                .take(20)
                .position(|byte| *byte == b' ')
                .ok_or("an extended header's record has no length")?;
            let length =
                decimal(&bytes[..space]).ok_or("an extended header's length is no number")?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > bytes.len() || length < space + 2 || bytes[length - 1] != b'\n' {
                return Err("an extended header's record has a wrong length");
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or("an extended header's record has no value")?;
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            bytes = &bytes[length..];
        }
        Ok(Self(records))
    }

    /// Those of `other` count where both have a key.
    pub(crate) fn overridden(&self, other: Self) -> Self {
        let mut records = self.0.clone();
        records.extend(other.0);
        Self(records)
    }

    /// The last value of a key; an empty one means that there is none.
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.0.iter().rev().find(|(name, _)| name == key.as_bytes());
        found
            .map(|(_, value)| value.as_slice())
            .filter(|value| !value.is_empty())
    }

    /// A decimal number.
    pub(crate) fn number(&self, path: &[u8], key: &str) -> Result<Option<u64>, LayerError> {
        self.get(key)
            .map(|text| {
                decimal(text)
                    .ok_or_else(|| LayerError::entry(path, format!("its {key} is no number")))
            })
            .transpose()
    }

    /// All records in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Attributes as star and GNU tar write them; of two with one name the later counts.
    pub(crate) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (key, value) in &self.0 {
            let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
                continue;
            };
            xattrs.retain(|(known, _)| known != name);
            xattrs.push((name.to_vec(), value.clone()));
        }
        xattrs
    }
}

/// Digits only.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]` as seconds and nanoseconds beyond them; digits after the ninth are dropped.
pub(crate) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, at| {
        nanos * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'))
    });
    Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-0.25", Some((-1, 750_000_000))),
            ("1.", Some((1, 0))),
            ("", None),
            ("-", None),
            ("1.x", None),
            ("+1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn malformed_records() {
        for text in [
            &b"x"[..],
            b"5 a=b",
            b"9 a=b\n",
            b"6 a=b\nx",
            b"6 a-b\n",
            b" a=b\n",
            b"-6 a=b\n",
            b"0 \n",
            b"99999999999999999999999 a=b\n",
        ] {
            assert!(Records::parse(text).is_err(), "{}", text.escape_ascii());
        }
        let records = Records::parse(b"6 a=b\n6 a=c\n5 d=\n12 e=f\ng=h\n\n").unwrap();
        assert_eq!(records.get("a"), Some(&b"c"[..]));
        assert_eq!(records.get("d"), None);
        assert_eq!(records.get("e"), Some(&b"f\ng=h\n"[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Records::parse(&bytes);
        }
    }
}
