//! `.cvmfspublished`: the root of a revision, one letter and value per line.

use crate::hash::ContentHash;

/// MD5 of the empty path, which every manifest carries.
const ROOT_PATH_MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// The lines of a manifest that readers use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// `C`: root catalog.
    pub root_catalog: ContentHash,
    /// `B`: its uncompressed size in bytes; 0 = unknown.
    pub catalog_size: u64,
    /// `D`: seconds until the next check.
    pub time_to_live: u64,
    /// `S`: revision.
    pub revision: u64,
    /// `N`: fully qualified repository name.
    pub repository: Option<String>,
    /// `X`: certificate.
    pub certificate: Option<ContentHash>,
    /// `H`: history database.
    pub history: Option<ContentHash>,
    /// `M`: meta-information.
    pub meta_info: Option<ContentHash>,
    /// `T`: publication, seconds since the epoch; 0 = unknown.
    pub timestamp: i64,
    /// `A`: certificate, root catalog and history lie at `.cvmfsalt-…`.
    pub alternative_locations: bool,
}

/// Why a manifest cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A required line is absent.
    #[error("line {0} is missing")]
    Missing(char),
    /// A line's value is malformed.
    #[error("line {0} is malformed")]
    Bad(char),
}

impl Manifest {
    /// Reads the signed lines. Unknown letters are ignored, of repeated ones the last counts.
    ///
    /// # Errors
    /// [`ManifestError`] if `C`, `R`, `D` or `S` is missing, or a value is malformed.
    pub fn parse(body: &str) -> Result<Self, ManifestError> {
        let value = |letter: char| {
            body.lines()
                .rev()
                .find_map(|line| line.strip_prefix(letter))
        };
        let need = |letter: char| value(letter).ok_or(ManifestError::Missing(letter));
        let hash = |letter: char| match value(letter) {
            None => Ok(None),
            Some(text) => ContentHash::parse(text)
                .map(Some)
                .map_err(|_| ManifestError::Bad(letter)),
        };
        if need('R')? != ROOT_PATH_MD5 {
            return Err(ManifestError::Bad('R'));
        }
        Ok(Self {
            root_catalog: hash('C')?.ok_or(ManifestError::Missing('C'))?,
            catalog_size: number('B', value('B').unwrap_or("0"))?,
            time_to_live: number('D', need('D')?)?,
            revision: number('S', need('S')?)?,
            repository: value('N').map(str::to_owned),
            certificate: hash('X')?,
            history: hash('H')?,
            meta_info: hash('M')?,
            timestamp: number('T', value('T').unwrap_or("0"))?,
            alternative_locations: value('A') == Some("yes"),
        })
    }
}

fn number<N: std::str::FromStr>(letter: char, text: &str) -> Result<N, ManifestError> {
    text.parse().map_err(|_| ManifestError::Bad(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str =
        "C97d75c3603f669cf9e6df409b48c5d67499b3ce5\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS59\n";

    #[test]
    fn minimal_and_unknown_lines() {
        let manifest = Manifest::parse(MINIMAL).unwrap();
        assert_eq!(
            (
                manifest.revision,
                manifest.time_to_live,
                manifest.catalog_size
            ),
            (59, 240, 0)
        );
        assert_eq!(manifest.repository, None);
        let more = format!("{MINIMAL}Qfoo\n\nZa\nS60\nAyes\nNa.b\nT7\n");
        let manifest = Manifest::parse(&more).unwrap();
        assert_eq!((manifest.revision, manifest.timestamp), (60, 7));
        assert!(manifest.alternative_locations);
        assert_eq!(manifest.repository.as_deref(), Some("a.b"));
    }

    #[test]
    fn missing_and_malformed_lines() {
        for letter in ['C', 'R', 'D', 'S'] {
            let less: String = MINIMAL
                .lines()
                .filter(|line| !line.starts_with(letter))
                .map(|line| format!("{line}\n"))
                .collect();
            assert_eq!(Manifest::parse(&less), Err(ManifestError::Missing(letter)));
        }
        for (line, letter) in [
            ("Sx", 'S'),
            ("S-1", 'S'),
            ("C12", 'C'),
            ("Xzz", 'X'),
            ("R00", 'R'),
            ("T1.5", 'T'),
        ] {
            let bad = format!("{MINIMAL}{line}\n");
            assert_eq!(
                Manifest::parse(&bad),
                Err(ManifestError::Bad(letter)),
                "{line}"
            );
        }
    }
}
