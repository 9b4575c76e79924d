//! What one pull and run took, and the table of all.

use std::fmt;

use serde::Serialize;

/// Where the layers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// From the repository, by Outcrop.
    Cvmfs,
    /// From the registry, by containerd's overlayfs snapshotter.
    Stock,
}

/// Who pulls and runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Client {
    Cri,
    Ctr,
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cvmfs => "cvmfs",
            Self::Stock => "stock",
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cri => "cri",
            Self::Ctr => "ctr",
        })
    }
}

/// An entry of `target/demo.json`.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) mode: Mode,
    pub(super) client: Client,
    pub(super) image: String,
    /// Compressed layers, as a full pull fetches them.
    pub(super) image_bytes: u64,
    pub(super) pull_seconds: f64,
    pub(super) create_seconds: f64,
    /// From the pull's start.
    pub(super) pull_to_first_output_seconds: f64,
    pub(super) layer_bytes_from_registry: u64,
    pub(super) bytes_from_cvmfs: u64,
}

pub(super) fn print_table(rows: &[Row]) {
    println!(
        "\n{:6} {:6} {:>8} {:>9} {:>14} {:>12} {:>20} {:>16}",
        "mode",
        "client",
        "pull s",
        "create s",
        "first output s",
        "image bytes",
        "bytes from registry",
        "bytes from CVMFS"
    );
    for row in rows {
        println!(
            "{:6} {:6} {:>8.3} {:>9.3} {:>14.3} {:>12} {:>20} {:>16}",
            row.mode.to_string(),
            row.client.to_string(),
            row.pull_seconds,
            row.create_seconds,
            row.pull_to_first_output_seconds,
            row.image_bytes,
            row.layer_bytes_from_registry,
            row.bytes_from_cvmfs
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_promised_keys() {
        let row = Row {
            mode: Mode::Cvmfs,
            client: Client::Ctr,
            image: "one".to_owned(),
            image_bytes: 1,
            pull_seconds: 0.5,
            create_seconds: 0.25,
            pull_to_first_output_seconds: 1.0,
            layer_bytes_from_registry: 0,
            bytes_from_cvmfs: 2,
        };
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"mode":"cvmfs","client":"ctr","image":"one","image_bytes":1,"pull_seconds":0.5,"create_seconds":0.25,"#.to_owned()
                + r#""pull_to_first_output_seconds":1.0,"layer_bytes_from_registry":0,"bytes_from_cvmfs":2}"#
        );
    }
}
