//! Whiteouts as layers of OCI images spell them: files with special names.

/// Hides everything that the layers below have in its directory.
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// Names that AUFS kept for itself; every runtime skips them.
const METADATA_PREFIX: &[u8] = b".wh..wh.";
const PREFIX: &[u8] = b".wh.";

/// What a name in a layer's tar means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// An ordinary file.
    Plain,
    /// The directory hides the children of the layers below.
    Opaque,
    /// Hides this name in the layers below.
    Whiteout(&'a [u8]),
    /// To be skipped, with all below it.
    Metadata,
}

/// Reads one name.
pub(crate) fn interpret(name: &[u8]) -> Name<'_> {
    if name == OPAQUE_NAME {
        Name::Opaque
    } else if name.starts_with(METADATA_PREFIX) {
        Name::Metadata
    } else {
        name.strip_prefix(PREFIX)
            .map_or(Name::Plain, Name::Whiteout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_oci_spells_them() {
        let table: &[(&[u8], Name<'_>)] = &[
            (b"x", Name::Plain),
            (b".w", Name::Plain),
            (b".wh", Name::Plain),
            (b"x.wh.y", Name::Plain),
            (b".wh.x", Name::Whiteout(b"x")),
            (b".wh..x", Name::Whiteout(b".x")),
            (b".wh..wh", Name::Whiteout(b".wh")),
            (b".wh.", Name::Whiteout(b"")),
            (b".wh..wh..opq", Name::Opaque),
            (b".wh..wh.plnk", Name::Metadata),
            (b".wh..wh..opqx", Name::Metadata),
        ];
        for (name, meaning) in table {
            assert_eq!(interpret(name), *meaning, "{name:?}");
        }
    }
}
