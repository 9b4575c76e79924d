//! Collects a layer's entries in any order and writes its tree.
use crate::entry::Entry;

/// Why a layer cannot become a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// More entries or names than a tree can hold.
    #[error("the layer is too large for a tree")]
    TooLarge,
}
/// Builder.
#[derive(Debug, Default)]
pub struct Builder {}

impl Builder {
    /// An empty layer: a root directory that no entry names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds an entry.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), BuildError> {
        let _ = (path, entry);
        Ok(())
    }
    /// Adds hardlink.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), BuildError> {
        let _ = (path, target);
        Ok(())
    }
    /// Whiteout.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), BuildError> {
        let _ = path;
        Ok(())
    }
    /// Opaque.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn opaque(&mut self, directory: &[u8]) -> Result<(), BuildError> {
        let _ = directory;
        Ok(())
    }
    /// Writes the tree.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn finish(self) -> Result<Vec<u8>, BuildError> {
        Ok(Vec::new())
    }
}
