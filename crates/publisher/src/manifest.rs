//! `.cvmfspublished` as it is written: one letter and value per line, in the order of `cvmfs_server`.

use std::fmt::Write as _;

use cvmfs::{ContentHash, Manifest, ManifestError};

/// Name of the signed file.
pub(crate) const PUBLISHED: &str = ".cvmfspublished";
/// Server tools read no larger manifest from disk.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4095;
/// MD5 of the empty root path.
const ROOT_PATH_MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// What the manifest says: the newest revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `N`: fully qualified repository name.
    pub fqrn: String,
    /// `C`: root catalog.
    pub root_catalog: ContentHash,
    /// `B`: its uncompressed size in bytes.
    pub root_catalog_size: u64,
    /// `S`: number of the revision, strictly increasing.
    pub revision: u64,
    /// `T`: publication, seconds since the epoch.
    pub published: i64,
    /// `D`: seconds until clients look again.
    pub time_to_live: u64,
    /// `G`: old revisions may be collected.
    pub garbage_collectable: bool,
    /// `A`: some objects lie at `.cvmfsalt-…` as well.
    pub alternative_locations: bool,
    /// `X`: certificate.
    pub certificate: ContentHash,
    /// `H`: history database.
    pub history: Option<ContentHash>,
    /// `M`: meta-information.
    pub meta_info: Option<ContentHash>,
    /// `Y`: hash of the reflog's plain bytes.
    pub reflog: Option<ContentHash>,
}

impl Head {
    /// Reads the signed lines.
    ///
    /// # Errors
    /// [`ManifestError`] if a line that publishing needs is missing or malformed.
    pub fn parse(body: &str) -> Result<Self, ManifestError> {
        let manifest = Manifest::parse(body)?;
        let value = |letter: char| {
            body.lines()
                .rev()
                .find_map(|line| line.strip_prefix(letter))
        };
        let reflog = value('Y').map(ContentHash::parse).transpose();
        Ok(Self {
            fqrn: manifest.repository.ok_or(ManifestError::Missing('N'))?,
            root_catalog: manifest.root_catalog,
            root_catalog_size: manifest.catalog_size,
            revision: manifest.revision,
            published: manifest.timestamp,
            time_to_live: manifest.time_to_live,
            garbage_collectable: value('G') == Some("yes"),
            alternative_locations: manifest.alternative_locations,
            certificate: manifest.certificate.ok_or(ManifestError::Missing('X'))?,
            history: manifest.history,
            meta_info: manifest.meta_info,
            reflog: reflog.map_err(|_| ManifestError::Bad('Y'))?,
        })
    }

    /// The lines to be signed.
    #[must_use]
    pub fn body(&self) -> String {
        let yes_no = |set: bool| if set { "yes" } else { "no" };
        let mut body = format!(
            "C{}\nB{}\nR{ROOT_PATH_MD5}\nD{}\nS{}\nG{}\nA{}\nN{}\nX{}\n",
            self.root_catalog,
            self.root_catalog_size,
            self.time_to_live,
            self.revision,
            yes_no(self.garbage_collectable),
            yes_no(self.alternative_locations),
            self.fqrn,
            self.certificate,
        );
        let mut hash = |letter: char, hash: Option<ContentHash>| {
            if let Some(hash) = hash {
                let _ = writeln!(body, "{letter}{hash}");
            }
        };
        hash('H', self.history);
        let _ = writeln!(body, "T{}", self.published);
        let mut hash = |letter: char, hash: Option<ContentHash>| {
            if let Some(hash) = hash {
                let _ = writeln!(body, "{letter}{hash}");
            }
        };
        hash('M', self.meta_info);
        hash('Y', self.reflog);
        body
    }
}
