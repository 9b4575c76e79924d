//! The `xattr` column: `u8` version, `u8` count, then per attribute `u8` name length, `u8` value length, name, value.

const VERSION: u8 = 1;

/// Extended attributes in stored order: full name (`user.x`), value.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Why an `xattr` column cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// Another version than 1.
    #[error("extended attributes have the unknown version {0}")]
    Version(u8),
    /// The bytes end inside an attribute.
    #[error("extended attributes are cut off")]
    Truncated,
    /// An attribute without a name.
    #[error("an extended attribute has no name")]
    Nameless,
}

/// Reads the column; no bytes, or only zeros, mean no attributes.
///
/// # Errors
/// [`XattrError`] for malformed bytes.
pub(crate) fn parse(blob: &[u8]) -> Result<Xattrs, XattrError> {
    if blob.iter().all(|byte| *byte == 0) {
        return Ok(Vec::new());
    }
    let ([version, count], mut rest) =
        blob.split_first_chunk::<2>().ok_or(XattrError::Truncated)?;
    if *version != VERSION {
        return Err(XattrError::Version(*version));
    }
    let mut attributes = Vec::with_capacity(usize::from(*count));
    for _ in 0..*count {
        let ([name_length, value_length], body) =
            rest.split_first_chunk::<2>().ok_or(XattrError::Truncated)?;
        let (name, body) = split(body, *name_length)?;
        let (value, body) = split(body, *value_length)?;
        if name.is_empty() {
            return Err(XattrError::Nameless);
        }
        attributes.push((name.to_vec(), value.to_vec()));
        rest = body;
    }
    Ok(attributes)
}

fn split(bytes: &[u8], length: u8) -> Result<(&[u8], &[u8]), XattrError> {
    bytes
        .split_at_checked(usize::from(length))
        .ok_or(XattrError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(attributes: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut blob = vec![1, attributes.len() as u8];
        for (name, value) in attributes {
            blob.push(name.len() as u8);
            blob.push(value.len() as u8);
            blob.extend_from_slice(name);
            blob.extend_from_slice(value);
        }
        blob
    }

    #[test]
    fn malformed() {
        assert_eq!(parse(b""), Ok(Vec::new()));
        assert_eq!(parse(&[0, 0, 0]), Ok(Vec::new()));
        assert_eq!(parse(&[2, 0]), Err(XattrError::Version(2)));
        assert_eq!(parse(&[1]), Err(XattrError::Truncated));
        assert_eq!(parse(&[1, 1, 4, 0, b'a']), Err(XattrError::Truncated));
        assert_eq!(parse(&[1, 1, 0, 1, b'a']), Err(XattrError::Nameless));
    }

    proptest::proptest! {
        #[test]
        fn attributes_come_back(attributes in proptest::collection::vec(
            (proptest::collection::vec(0_u8.., 1..255), proptest::collection::vec(0_u8.., 0..255)), 0..20)) {
            let blob = encode(&attributes);
            proptest::prop_assert_eq!(parse(&blob), Ok(attributes));
            for cut in 1..blob.len() {
                // A cut may only lose attributes loudly, except when nothing but the head's zeros are left.
                proptest::prop_assert!(parse(&blob[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_survived(blob in proptest::collection::vec(0_u8.., 0..600)) {
            let _ = parse(&blob);
        }
    }
}
