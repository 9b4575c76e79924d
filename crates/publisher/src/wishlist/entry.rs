use globset::{GlobBuilder, GlobMatcher};
use image::Reference;
use registry::Client;

/// Tags have 128 characters at most; braces may make a pattern longer.
const MAX_PATTERN: usize = 512;
/// The matcher is compiled, and what is compiled grows with every alternative.
const MAX_BRACES: usize = 16;

/// An entry of a list.
#[derive(Clone, Debug)]
pub struct WishedImage {
    /// As it stands there.
    pub text: String,
    /// Where, counted from one.
    pub line: u64,
    /// The registry is to be asked without TLS.
    pub plain_http: bool,
    /// What it names.
    pub wanted: Wanted,
}

/// What an entry names.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// One image.
    Image(Reference),
    /// All tags of a repository that match.
    Tags {
        /// Its tag means nothing.
        repository: Reference,
        /// Of the whole tag.
        pattern: GlobMatcher,
    },
}

/// Why an entry is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A number, a list, nothing.
    #[error("it is no text")]
    NoText,
    /// Neither http nor https.
    #[error("scheme {0:?}: https or http")]
    Scheme(String),
    /// No host.
    #[error("it names no registry, such as https://registry.example.org/…")]
    NoRegistry,
    /// Everybody may read the list.
    #[error("user names and passwords belong into the docker configuration")]
    Credentials,
    /// Nothing after the host.
    #[error("it names no repository after the registry")]
    NoRepository,
    /// A host that could as well be part of an image's name.
    #[error("the registry {0:?} has neither a dot nor a port")]
    AmbiguousRegistry(String),
    /// A pattern and a digest.
    #[error("a pattern of tags with a digest")]
    PatternAndDigest,
    /// The pattern is none.
    #[error("the pattern of tags: {0}")]
    Pattern(String),
    /// No reference.
    #[error(transparent)]
    Reference(#[from] image::ReferenceError),
}

impl WishedImage {
    pub(crate) fn parse(text: &str, line: u64) -> Result<Self, EntryError> {
        let (scheme, rest) = match text.trim().split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            // Often forgotten, and added by DUCC, too.
            None => ("https", text.trim()),
        };
        let plain_http = match scheme {
            "https" => false,
            "http" => true,
            other => return Err(EntryError::Scheme(other.chars().take(32).collect())),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(EntryError::NoRegistry);
        }
        if host.contains('@') {
            return Err(EntryError::Credentials);
        }
        let path = path.trim_matches('/');
        if path.is_empty() {
            return Err(EntryError::NoRepository);
        }
        Ok(Self {
            text: text.to_owned(),
            line,
            plain_http,
            wanted: wanted(host, path)?,
        })
    }

    /// The registry that is asked.
    #[must_use]
    pub fn registry(&self) -> &str {
        match &self.wanted {
            Wanted::Image(reference) => reference.registry(),
            Wanted::Tags { repository, .. } => repository.registry(),
        }
    }

    /// The images that the entry means now.
    ///
    /// # Errors
    /// If the registry does not list its tags.
    pub fn expand(&self, client: &Client) -> Result<Vec<Reference>, registry::Error> {
        match &self.wanted {
            Wanted::Image(reference) => Ok(vec![reference.clone()]),
            Wanted::Tags {
                repository,
                pattern,
            } => Ok(matching(repository, pattern, &client.tags(repository)?)),
        }
    }
}

/// Sorted, each once. What the registry calls a tag and is none can be no image's name.
pub(crate) fn matching(
    repository: &Reference,
    pattern: &GlobMatcher,
    tags: &[String],
) -> Vec<Reference> {
    let name = format!("{}/{}", repository.registry(), repository.repository());
    let mut found: Vec<Reference> = tags
        .iter()
        .filter(|tag| pattern.is_match(tag))
        .filter_map(|tag| format!("{name}:{tag}").parse().ok())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn wanted(host: &str, path: &str) -> Result<Wanted, EntryError> {
    // Host and port have no slash, so that a colon in the path begins a tag.
    let (name, digest) = match path.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (path, None),
    };
    let (repository, tag) = match name.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (name, None),
    };
    let is_pattern = |tag: &&str| tag.contains(['*', '?', '[', '{']);
    let Some(pattern) = tag.filter(is_pattern) else {
        return Ok(Wanted::Image(reference(host, path)?));
    };
    if digest.is_some() {
        return Err(EntryError::PatternAndDigest);
    }
    Ok(Wanted::Tags {
        repository: reference(host, repository)?,
        pattern: compiled(pattern)?,
    })
}

fn reference(host: &str, path: &str) -> Result<Reference, EntryError> {
    let reference: Reference = format!("{host}/{path}").parse()?;
    // Short names are docker.io's: a host without a dot would be taken for part of one.
    if reference.registry() != host && host != "index.docker.io" {
        let host = host.chars().take(100).collect();
        return Err(EntryError::AmbiguousRegistry(host));
    }
    Ok(reference)
}

fn compiled(pattern: &str) -> Result<GlobMatcher, EntryError> {
    let wrong = |reason: &str| EntryError::Pattern(reason.to_owned());
    if pattern.len() > MAX_PATTERN || pattern.matches('{').count() > MAX_BRACES {
        return Err(wrong("it is too long"));
    }
    let glob = GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(false)
        .build();
    let glob = glob.map_err(|error| EntryError::Pattern(error.kind().to_string()))?;
    Ok(glob.compile_matcher())
}
