//! The ways in which one image reaches a container, and what each needs.

use std::fmt;

use serde::Serialize;

use crate::workload::Workload;

/// Where the layers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// From the registry, by containerd's overlayfs snapshotter.
    Stock,
    /// From the repository, by Outcrop: files of the layout `layers`.
    Cvmfs,
    /// From the repository, by Outcrop: eStargz blobs of the layout `stargz`.
    CrfsCvmfs,
    /// From the registry, by Outcrop: eStargz blobs, read piece by piece.
    RegistryLazy,
}

impl Mode {
    /// All that are shown, the one that the others are compared with first.
    pub(super) const ALL: [Self; 4] = [
        Self::Stock,
        Self::Cvmfs,
        Self::CrfsCvmfs,
        Self::RegistryLazy,
    ];

    /// As it stands in `target/demo.json`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Cvmfs => "cvmfs",
            Self::CrfsCvmfs => "crfs-cvmfs",
            Self::RegistryLazy => "registry-lazy",
        }
    }

    /// What must be in the repository before.
    pub(super) fn layout(self) -> Option<&'static str> {
        match self {
            Self::Stock | Self::RegistryLazy => None,
            Self::Cvmfs => Some("layers"),
            Self::CrfsCvmfs => Some("stargz"),
        }
    }

    /// Whether it is the image as converted to eStargz, else as built.
    pub(super) fn is_converted(self) -> bool {
        matches!(self, Self::CrfsCvmfs | Self::RegistryLazy)
    }

    /// Whether Outcrop is the snapshotter.
    pub(super) fn by_outcrop(self) -> bool {
        self != Self::Stock
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// As containerd names it; every registry's host leads to the test kit's.
pub(super) fn image_name() -> String {
    format!("registry.test/{}:{}", Workload::NAME, Workload::TAG)
}

/// Who pulls and runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Client {
    Cri,
    Ctr,
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cri => "cri",
            Self::Ctr => "ctr",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_they_are_shown() {
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
        for client in [Client::Cri, Client::Ctr] {
            assert_eq!(serde_json::to_value(client).unwrap(), client.to_string());
        }
    }

    #[test]
    fn the_first_is_what_others_are_compared_with() {
        assert_eq!(Mode::ALL[0], Mode::Stock);
        assert!(Mode::ALL[1..].iter().all(|mode| mode.by_outcrop()));
    }
}
