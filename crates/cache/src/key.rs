//! The name of a content.

use std::fmt;
use std::sync::Arc;

/// Shortest key, in bytes: two name the directory, the others the file.
pub const SHORTEST_KEY: usize = 8;
/// Longest key, in bytes: room for a SHA-512 in hex.
pub const LONGEST_KEY: usize = 128;
/// Bytes of a key that name its directory below `objects/`.
const FAN_OUT: usize = 2;

/// Name of a content, for instance `3f9a…-rmd160P`: text that is safe as a file name.
/// Case counts: CVMFS says by a capital letter what an object is.
///
/// A key must change whenever the content does: what is stored under it is never rewritten.
/// Cloning costs a reference count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

/// Why a text is no [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Length in bytes, outside `SHORTEST_KEY..=LONGEST_KEY`.
    #[error("a key has {SHORTEST_KEY} to {LONGEST_KEY} bytes, not {0}")]
    Length(usize),
    /// A byte that keys do not contain.
    #[error("a key consists of 0-9, A-Z, a-z, '.', '_' and '-' and begins with a letter or digit")]
    Character,
}

impl Key {
    /// Checks that `text` matches `[0-9A-Za-z][0-9A-Za-z._-]{7,127}`.
    ///
    /// # Errors
    /// [`KeyError`] says which rule is broken.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        if !(SHORTEST_KEY..=LONGEST_KEY).contains(&text.len()) {
            return Err(KeyError::Length(text.len()));
        }
        let permitted =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        // The first byte begins a directory name: with a dot allowed there, ".." would climb out.
        if !text.as_bytes()[0].is_ascii_alphanumeric() || !text.bytes().all(permitted) {
            return Err(KeyError::Character);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the directory below `objects/`.
    pub(crate) fn directory(&self) -> &str {
        &self.0[..FAN_OUT]
    }

    /// Name of the file in that directory.
    pub(crate) fn file(&self) -> &str {
        &self.0[FAN_OUT..]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_safe_file_names() {
        let longest = "a".repeat(LONGEST_KEY);
        let too_long = "a".repeat(LONGEST_KEY + 1);
        let table: &[(&str, Result<(), KeyError>)] = &[
            ("0123abcd", Ok(())),
            ("3f9a00112233445566778899aabbccddeeff0011-rmd160P", Ok(())),
            ("a.......", Ok(())),
            (&longest, Ok(())),
            (&too_long, Err(KeyError::Length(LONGEST_KEY + 1))),
            ("0123abc", Err(KeyError::Length(7))),
            ("", Err(KeyError::Length(0))),
            ("..abcdefgh", Err(KeyError::Character)),
            ("-abcdefgh", Err(KeyError::Character)),
            ("ab/cdefgh", Err(KeyError::Character)),
            ("ab\0cdefgh", Err(KeyError::Character)),
            ("abcdefgé", Err(KeyError::Character)),
        ];
        for (text, expected) in table {
            assert_eq!(&Key::new(text).map(|_| ()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_key_is_split_into_directory_and_file() {
        let key = Key::new("3f9a0011-x").unwrap();
        assert_eq!((key.directory(), key.file()), ("3f", "9a0011-x"));
        assert_eq!(key.to_string(), "3f9a0011-x");
    }
}
