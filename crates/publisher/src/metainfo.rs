//! The meta-information: JSON about who keeps the repository.

/// What people are told about the repository. All may stay empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MetaInfo {
    /// Who keeps it.
    pub administrator: String,
    /// How to reach them.
    pub email: String,
    /// For whom.
    pub organisation: String,
    /// What is in it.
    pub description: String,
    /// A page about it.
    pub url: String,
    /// Where it is published.
    #[serde(rename = "recommended-stratum0")]
    pub stratum0: String,
    /// Where clients should read it.
    #[serde(rename = "recommended-stratum1s")]
    pub stratum1s: Vec<String>,
}

impl MetaInfo {
    /// The JSON text.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // Strings and lists of strings always serialise.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }
}
