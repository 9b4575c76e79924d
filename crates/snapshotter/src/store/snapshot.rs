//! A snapshot as it is recorded.

use crate::labels::{self, Labels};
use crate::layers::ChainLayer;

/// containerd's kinds; the numbers are those of the wire and of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read-only, never committed.
    View = 1,
    /// Writable.
    Active = 2,
    /// Immutable; may be a parent.
    Committed = 3,
}

impl Kind {
    /// The word that filters use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }

    pub(crate) fn from_number(number: i64) -> Option<Self> {
        [Self::View, Self::Active, Self::Committed]
            .into_iter()
            .find(|kind| *kind as i64 == number)
    }
}

/// Disk use of a snapshot without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub size: u64,
    /// Inodes, hard links counted once.
    pub inodes: u64,
}

/// A snapshot's parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The parent's number.
    pub id: i64,
    /// The parent's name, as containerd gave it or as the claim made it.
    pub name: String,
}

/// What is known of a claimed (lazy) layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Enough to attach it again after a restart.
    pub layer: ChainLayer,
    /// No signed source stated a diffID that leads to the chainID: not shared with other namespaces.
    pub private: bool,
    /// Namespace that claimed it.
    pub namespace: String,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Never reused; name of its directory.
    pub id: i64,
    /// Key of an active or view, name of a committed snapshot: one space of names.
    pub name: String,
    /// See [`Kind`].
    pub kind: Kind,
    /// `None` at the bottom.
    pub parent: Option<Parent>,
    /// Nanoseconds since 1970; of a committed snapshot, when it was committed.
    pub created: i64,
    /// Nanoseconds since 1970.
    pub updated: i64,
    /// Labels as containerd gave them, without ours.
    pub labels: Labels,
    /// Known from commit or claim on.
    pub usage: Option<Usage>,
    /// Why it is an ordinary snapshot though it could have been a lazy one.
    pub reason: Option<String>,
    /// For a lazy layer.
    pub claim: Option<Claim>,
    /// For an active or view: name of the chain of lazy layers that it stands on.
    pub chain: Option<String>,
}

impl Snapshot {
    /// The parent's name, "" at the bottom, as the protocol has it.
    pub fn parent_name(&self) -> &str {
        self.parent.as_ref().map_or("", |parent| &parent.name)
    }

    /// The labels that containerd sees: its own and ours.
    pub fn shown_labels(&self) -> Labels {
        let mut shown = self.labels.clone();
        if let Some(reason) = &self.reason {
            shown.insert(labels::REASON.to_owned(), reason.clone());
        }
        if let Some(claim) = &self.claim {
            shown.insert(labels::SOURCE.to_owned(), claim.layer.source.clone());
            shown.insert(labels::TREE.to_owned(), claim.layer.tree.clone());
            shown.insert(labels::LAYER.to_owned(), claim.layer.layer.to_string());
            if let Some(usage) = &self.usage {
                shown.insert(labels::HELD.to_owned(), usage.size.to_string());
            }
        }
        shown
    }

    /// chainID of a claimed layer, from its name `<chainID>` or `<chainID>@<number>`: a name never changes.
    pub fn claimed_chain_id(&self) -> Option<&str> {
        self.claim.as_ref()?;
        self.name.split('@').next()
    }

    /// chainID for which the snapshot was made, as its label says.
    pub fn snapshot_ref(&self) -> Option<&str> {
        self.labels.get(labels::SNAPSHOT_REF).map(String::as_str)
    }
}

impl crate::filters::Fields for Snapshot {
    fn field(&self, fieldpath: &[String]) -> Option<String> {
        let (first, rest) = fieldpath.split_first()?;
        match first.as_str() {
            "kind" => Some(self.kind.as_str().to_owned()),
            "name" => Some(self.name.clone()),
            "parent" => Some(self.parent_name().to_owned()),
            "labels" => self.shown_labels().remove(&rest.join(".")),
            _ => None,
        }
    }
}
