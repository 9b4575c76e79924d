use serde::{Deserialize, Serialize};

use crate::document::{Document, DocumentError, bounded};
use crate::{Digest, chain_ids};

/// An image's configuration, as far as layers are concerned. The raw document keeps the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// for instance `amd64`
    #[serde(default)]
    pub architecture: String,
    /// for instance `linux`
    #[serde(default)]
    pub os: String,
    /// The layers by their uncompressed content.
    pub rootfs: RootFs,
    /// How each layer came to be; entries of `empty_layer` have no diffID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

/// The layers of an image by the digests of their uncompressed tars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// always `layers`
    #[serde(rename = "type")]
    pub kind: String,
    /// diffIDs, bottom to top
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The command, as the builder wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Parses a configuration of either kind.
    ///
    /// # Errors
    /// If it is too long, not JSON, without `rootfs`, or lists too many diffIDs.
    pub fn parse(raw: &[u8]) -> Result<Document<Self>, DocumentError> {
        let document = Document::<Self>::decode(raw, "image configuration")?;
        bounded(document.rootfs.diff_ids.len(), "diffIDs")?;
        Ok(document)
    }

    /// The chainID of each layer, bottom to top.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<Digest> {
        chain_ids(&self.rootfs.diff_ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_configuration() {
        // From the fixture's image, made by docker's format.
        let raw = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"],"Env":["A=b"]},
            "created":"2023-11-14T22:13:20Z","history":[{"created_by":"x"},{"created_by":"y","empty_layer":true}],
            "rootfs":{"type":"layers","diff_ids":[
            "sha256:8b7c8e9d119d89557f9c67cbd14b67d8f710a84fe51e730ab5b9378abb35523c",
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"]}}"#;
        let config = ImageConfig::parse(raw).unwrap();
        assert_eq!(config.raw(), raw);
        assert_eq!(config.digest(), &Digest::of(raw));
        assert_eq!(config.rootfs.diff_ids[1], crate::EMPTY_LAYER);
        assert_eq!(config.chain_ids()[0], config.rootfs.diff_ids[0]);
        assert_eq!(
            config
                .history
                .iter()
                .filter(|step| step.empty_layer)
                .count(),
            1
        );
    }

    #[test]
    fn bad_configurations() {
        for raw in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"rootfs":{"type":"layers"}}"#,
            br#"{"rootfs":{"type":"layers","diff_ids":["x"]}}"#,
        ] {
            let error = ImageConfig::parse(raw).unwrap_err();
            assert!(
                matches!(error, DocumentError::Malformed("image configuration", _)),
                "{error}"
            );
        }
        let many = vec![crate::EMPTY_LAYER; crate::MAX_ENTRIES + 1];
        let raw = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": many}}).to_string();
        assert!(matches!(
            ImageConfig::parse(raw.as_bytes()),
            Err(DocumentError::TooMany(1025, _))
        ));
    }
}
