//! Lists of wanted images, in the YAML of `cvmfs_ducc`, version 1.
//!
//! ```yaml
//! version: 1
//! user: robot
//! cvmfs_repo: unpacked.example.org
//! output_format: '$(scheme)://registry.example.org/thin/$(image)'
//! input:
//!   - 'https://registry.example.org/group/image:1.0'
//!   - 'https://registry.example.org/group/other:v*'
//! ```
//! As there, an entry that is none hinders no other, and keys that nobody knows are passed over. Thin images are not made, so that
//! `user` and `output_format` mean nothing here.

mod entry;
mod record;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

pub use entry::{EntryError, Wanted, WishedImage};
pub(crate) use record::note;
pub use record::{WishlistName, WishlistNameError, prune};

/// Longer lists are refused: a hundred thousand entries fit.
pub const MAX_WISHLIST_BYTES: usize = 8 << 20;

const KEYS: [&str; 5] = ["version", "user", "cvmfs_repo", "output_format", "input"];

/// What may be replaced in `output_format`.
const VARIABLES: [&str; 7] = [
    "scheme",
    "registry",
    "repository",
    "tag",
    "digest",
    "reference",
    "image",
];

/// A list that could be read.
#[derive(Clone, Debug)]
pub struct Wishlist {
    /// Who would push thin images.
    pub user: String,
    /// The repository's full name.
    pub repository: String,
    /// What thin images would be called.
    pub output_format: Option<String>,
    /// Entries that can be understood, in the list's order.
    pub images: Vec<WishedImage>,
    /// Entries that cannot.
    pub problems: Vec<Problem>,
    /// What is odd and harmless.
    pub warnings: Vec<String>,
}

/// An entry that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {entry}: {reason}")]
pub struct Problem {
    /// Counted from one.
    pub line: u64,
    /// As it stands there; the beginning of it if it is long.
    pub entry: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a list cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WishlistError {
    /// More than [`MAX_WISHLIST_BYTES`].
    #[error("it is longer than {MAX_WISHLIST_BYTES} bytes")]
    TooLong,
    /// No text.
    #[error("it is no UTF-8 text")]
    NoText,
    /// No YAML, or not of this form.
    #[error("{0}")]
    Yaml(String),
    /// Another version than 1.
    #[error("version {0}: only version 1 is known")]
    Version(i64),
    /// It does not say for which repository it is.
    #[error("cvmfs_repo is missing or empty")]
    NoRepository,
}

#[derive(Deserialize)]
struct Recipe {
    version: Option<i64>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    cvmfs_repo: Option<String>,
    #[serde(default)]
    output_format: Option<String>,
    input: Vec<Spanned<serde_json::Value>>,
}

impl Wishlist {
    /// Reads a list.
    ///
    /// # Errors
    /// [`WishlistError`]; a single bad entry is none, see [`Wishlist::problems`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WishlistError> {
        if bytes.len() > MAX_WISHLIST_BYTES {
            return Err(WishlistError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| WishlistError::NoText)?;
        let recipe: Recipe = serde_saphyr::from_str(text)
            .map_err(|error| WishlistError::Yaml(first_line(&error.to_string())))?;
        let mut warnings = Vec::new();
        match recipe.version {
            Some(1) => {}
            Some(other) => return Err(WishlistError::Version(other)),
            None => warnings.push("it states no version; it is read as version 1".to_owned()),
        }
        let repository = recipe.cvmfs_repo.unwrap_or_default();
        if repository.is_empty() {
            return Err(WishlistError::NoRepository);
        }
        warnings.extend(unknown_keys(text));
        warnings.extend(recipe.output_format.as_deref().and_then(odd_format));
        let mut list = Self {
            user: recipe.user.unwrap_or_default(),
            repository,
            output_format: recipe.output_format,
            images: Vec::new(),
            problems: Vec::new(),
            warnings,
        };
        for entry in recipe.input {
            list.entry(&entry);
        }
        Ok(list)
    }

    fn entry(&mut self, entry: &Spanned<serde_json::Value>) {
        let line = entry.referenced.line();
        let parsed = match entry.value.as_str() {
            Some(text) => WishedImage::parse(text, line),
            None => Err(EntryError::NoText),
        };
        match parsed {
            Ok(image) => self.images.push(image),
            Err(error) => {
                let text = match &entry.value {
                    // No password is repeated.
                    serde_json::Value::String(text) if error == EntryError::Credentials => {
                        text.rsplit('@').next().unwrap_or_default().to_owned()
                    }
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                self.problems.push(Problem {
                    line,
                    entry: text.chars().take(200).collect(),
                    reason: error.to_string(),
                });
            }
        }
    }
}

/// Read by itself: a flattened map would cost the places of the entries.
fn unknown_keys(text: &str) -> Vec<String> {
    let all: Result<BTreeMap<String, IgnoredAny>, _> = serde_saphyr::from_str(text);
    let unknown = all.unwrap_or_default().into_keys();
    unknown
        .filter(|key| !KEYS.contains(&key.as_str()))
        .map(|key| format!("unknown key {key:?}"))
        .collect()
}

/// Parsers print a picture of the place below the message.
fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("no YAML").trim().chars().take(300).collect()
}

/// A variable that nobody replaces.
fn odd_format(format: &str) -> Option<String> {
    let mut rest = format;
    while let Some((_, after)) = rest.split_once("$(") {
        let Some((name, following)) = after.split_once(')') else {
            return Some("output_format: a variable has no end".to_owned());
        };
        if !VARIABLES.contains(&name) {
            return Some(format!("output_format: unknown variable $({name})"));
        }
        rest = following;
    }
    None
}

#[cfg(test)]
mod tests;
