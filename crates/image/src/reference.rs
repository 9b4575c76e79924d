use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// As docker's grammar: registry and repository together.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// An image's name: `registry/repository[:tag][@digest]`.
///
/// Short names are completed as docker does: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Registry or repository is empty, too long, or has characters that are not allowed.
    #[error("{0:?} is not a valid image name")]
    Name(String),
    /// The tag is empty, too long, or has characters that are not allowed.
    #[error("{0:?} is not a valid tag")]
    Tag(String),
    /// What follows `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Host, with `:port` if it has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path within the registry, for instance `library/busybox`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given or (without a digest) implied.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(name);
        let tag = tag.map(checked_tag).transpose()?;
        let (registry, repository) = split_registry(name);
        if name.len() > MAX_NAME
            || !is_registry(registry)
            || !repository.split('/').all(is_component)
        {
            return Err(ReferenceError::Name(name.chars().take(100).collect()));
        }
        let repository = match (registry, repository.contains('/')) {
            (DEFAULT_REGISTRY, false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

/// A colon after the last slash starts the tag; one before it is the registry's port.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
        _ => (name, None),
    }
}

/// The first component is a registry only if it looks like a host, else it is part of a docker.io name.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_REGISTRY, rest),
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn checked_tag(tag: &str) -> Result<String, ReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if good {
        Ok(tag.to_owned())
    } else {
        Err(ReferenceError::Tag(tag.chars().take(100).collect()))
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let numeric = |port: &str| {
        !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    let good_host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => {
            !address.is_empty()
                && address
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        }
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        }),
    };
    good_host && port.is_none_or(numeric)
}

/// Lower-case letters and digits, with single `.`, one or two `_`, or any number of `-` between them. So no component
/// can be empty, `.` or `..`, and a repository is safe as a path.
fn is_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(|byte| word(*byte))
        && bytes.last().is_some_and(|byte| word(*byte));
    ends && component
        .split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(formatter, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_are_completed() {
        let digest = Digest::of(b"");
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            (
                "index.docker.io/library/a",
                "docker.io/library/a:latest".to_owned(),
            ),
            ("docker.io/a", "docker.io/library/a:latest".to_owned()),
            ("quay.io/a/b/c:x", "quay.io/a/b/c:x".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("localhost:5000/a", "localhost:5000/a:latest".to_owned()),
            (
                "127.0.0.1:41/library/mini:1.0",
                "127.0.0.1:41/library/mini:1.0".to_owned(),
            ),
            ("[::1]:5000/a:b", "[::1]:5000/a:b".to_owned()),
            (&format!("a.b/c@{digest}"), format!("a.b/c@{digest}")),
            (&format!("a.b/c:t@{digest}"), format!("a.b/c:t@{digest}")),
            ("a.b/c-d__e.f_g---h", "a.b/c-d__e.f_g---h:latest".to_owned()),
        ] {
            assert_eq!(
                text.parse::<Reference>().unwrap().to_string(),
                full,
                "{text}"
            );
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for text in [
            "",
            "/",
            ":",
            "@",
            "a:",
            ":a",
            "A/b",
            "a//b",
            "a/../b",
            "a/./b",
            "../a",
            "a/b/",
            "-a",
            "a-",
            "a...b",
            "a___b",
            "a b",
            "a.b/c:t:u",
            "a.b:x/c",
            "a.b:/c",
            "a.b/c@sha256:1",
            "a.b/c@sha512:1",
            "a.b/c:-t",
            "a..b/c",
            "-a.b/c",
            "a/b\0",
            "a.b/é",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert!(matches!(
            "a".repeat(256).parse::<Reference>(),
            Err(ReferenceError::Name(_))
        ));
        assert!(matches!(
            format!("a:{}", "b".repeat(129)).parse::<Reference>(),
            Err(ReferenceError::Tag(_))
        ));
    }

    proptest! {
        #[test]
        fn printed_references_come_back(text in "([a-z]{1,4}\\.[a-z]{1,3}(:[0-9]{1,5})?/)?[a-z0-9_.-]{1,6}(/[a-z0-9_.-]{1,6}){0,2}(:[A-Za-z0-9_.-]{1,5})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn no_repository_leaves_its_directory(text in "[a./:@_-]{0,12}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(reference.repository().split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
        }
    }
}
