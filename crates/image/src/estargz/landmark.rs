/// What a layer's maker says of reading ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landmark {
    /// Nothing.
    None,
    /// The bytes of the blob before `end` are wanted early: the files that a run of the image read, in their order.
    Prefetch {
        /// where the landmark's member begins
        end: u64,
    },
    /// Nothing is worth reading ahead.
    NoPrefetch,
}

/// Ends the prioritised files, at the root of the layer.
pub(crate) const PREFETCH: &str = ".prefetch.landmark";
/// Says that there are none.
pub(crate) const NO_PREFETCH: &str = ".no.prefetch.landmark";
/// What both files hold.
pub(crate) const CONTENT: &[u8] = &[0x0f];
