//! merge
use crate::view::Tree;
/// Why layers cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// More entries or names than a tree can hold.
    #[error("the chain is too large for a tree")]
    TooLarge,
}
/// Merges the layers of a chain, bottom to top.
///
/// # Errors
/// [`MergeError`]
pub fn merge<B: AsRef<[u8]>>(layers: &[&Tree<B>]) -> Result<Vec<u8>, MergeError> {
    let _ = layers;
    Ok(Vec::new())
}
