//! The remote flow: is the layer that containerd wants to fetch there already?

use std::cell::OnceCell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use image::{Digest, EMPTY_LAYER, chain_id};

use crate::Error;
use crate::labels::{self, LayerHint};
use crate::layers::{Annotations, ChainLayer, ClaimRequest, Claimed, ImageLayer, Refusal};
use crate::metrics::ClaimOutcome;
use crate::single_flight::{Outcome, Role, SingleFlight};
use crate::snapshotter::{NewRequest, Snapshotter};
use crate::store::{Claim, NewClaim, Snapshot, Usage};

/// Claims in progress by (snapshot.ref, parent's name).
pub(crate) type Flights = SingleFlight<(String, String), Landed>;

/// A leader's result, for those who asked about the same blob.
#[derive(Clone, Debug)]
pub(crate) struct Landed {
    layer: Option<Digest>,
    namespace: Option<String>,
    result: Result<String, Refusal>,
}

/// One Prepare with a ref.
struct Wanted<'a> {
    request: &'a NewRequest,
    snapshot_ref: &'a str,
    parent: Option<&'a Snapshot>,
    hint: LayerHint,
    namespace: Option<&'a str>,
    /// What containerd's content store says of the layer that the labels name, once it was asked.
    stated: OnceCell<Option<Candidate>>,
}

/// A blob that may be the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) layer: Digest,
    /// Layers of the image, shared by all its candidates.
    pub(crate) image: Arc<[ImageLayer]>,
    /// Where this one and those that follow begin in it.
    pub(crate) index: usize,
    /// A repository that has the image.
    pub(crate) reference: Option<String>,
}

impl Candidate {
    fn image_layers(&self) -> &[ImageLayer] {
        self.image.get(self.index..).unwrap_or_default()
    }

    /// What the manifest says of the layer itself.
    fn annotations(&self) -> Annotations {
        let own = self.image_layers().first();
        let own = own.filter(|own| own.digest == self.layer);
        own.map(|own| own.annotations.clone()).unwrap_or_default()
    }
}

/// Where the layer stands in the image, as chainIDs.
struct Position {
    target: Digest,
    below: Option<Digest>,
}

impl Snapshotter {
    /// Name of the committed snapshot for `snapshot_ref` on exactly that parent: one that is there, or a new claim.
    pub(crate) fn claim_or_share(
        &self,
        request: &NewRequest,
        snapshot_ref: &str,
        parent: Option<&Snapshot>,
    ) -> Result<String, Refusal> {
        let hint = LayerHint::read(&request.labels);
        let namespace = labels::namespace_of(&request.key);
        let wanted = Wanted {
            request,
            snapshot_ref,
            parent,
            hint,
            namespace,
            stated: OnceCell::new(),
        };
        let (outcome, result) = match self.share_or_fly(&wanted) {
            Ok((outcome, name)) => (outcome, Ok(name)),
            Err(refusal) => {
                tracing::info!(key = request.key, snapshot_ref, reason = refusal.reason(), %refusal, "ordinary snapshot");
                (refusal.reason(), Err(refusal))
            }
        };
        self.metrics()
            .claims
            .get_or_create(&ClaimOutcome { outcome })
            .inc();
        result
    }

    fn share_or_fly(&self, wanted: &Wanted<'_>) -> Result<(&'static str, String), Refusal> {
        let key = (
            wanted.snapshot_ref.to_owned(),
            wanted.request.parent.clone(),
        );
        loop {
            if let Some(name) = self.shareable(wanted)? {
                return Ok(("shared", name));
            }
            match self.flights.join(&key) {
                Role::Leader(flight) => {
                    // Another call may have landed between the look and the join.
                    let shared = self.shareable(wanted)?;
                    let result = shared.map_or_else(|| self.claim_guarded(wanted), Ok);
                    flight.land(Landed {
                        layer: wanted.hint.layer,
                        namespace: wanted.namespace.map(str::to_owned),
                        result: result.clone(),
                    });
                    return result.map(|name| ("claimed", name));
                }
                Role::Passenger(passenger) => match passenger.outcome(self.config.claim_wait) {
                    Outcome::Landed(landed) if wanted.same_question(&landed) => {
                        return Err(landed.result.err().unwrap_or(Refusal::NotFound));
                    }
                    Outcome::Landed(_) | Outcome::Abandoned => {}
                    Outcome::TimedOut => return Err(Refusal::ClaimTimeout),
                },
            }
        }
    }

    /// A committed snapshot that this caller may have. Across namespaces only what is proven, or was unpacked and so
    /// checked by containerd.
    fn shareable(&self, wanted: &Wanted<'_>) -> Result<Option<String>, Refusal> {
        let found = self
            .records
            .with_ref(wanted.snapshot_ref, &wanted.request.parent)
            .map_err(internal)?;
        Ok(found
            .into_iter()
            .find(|snapshot| self.may_have(wanted, snapshot))
            .map(|snapshot| snapshot.name))
    }

    /// A bug in a source costs the laziness of one layer, not the pull.
    fn claim_guarded(&self, wanted: &Wanted<'_>) -> Result<String, Refusal> {
        let started = Instant::now();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.claim(wanted)))
            .unwrap_or_else(|_| Err(Refusal::Internal("the claim panicked".to_owned())));
        self.metrics()
            .claim_seconds
            .observe(started.elapsed().as_secs_f64());
        result
    }

    fn claim(&self, wanted: &Wanted<'_>) -> Result<String, Refusal> {
        let position = Position::of(wanted)?;
        let diff_id = position.known_diff_id(&wanted.hint);
        let (candidates, complete) =
            self.candidates(wanted, diff_id.as_ref(), Freshness::MayBeMemoised)?;
        let mut tried = Vec::new();
        let first = self.try_all(wanted, &position, diff_id, &candidates, &mut tried);
        match first {
            Err(refusal) if !complete => {
                // All that was memoised fails; another image may have the same layer by another digest.
                let (fresh, _) = self.candidates(wanted, diff_id.as_ref(), Freshness::AskAgain)?;
                let others: Vec<_> = fresh
                    .into_iter()
                    .filter(|one| !tried.contains(&one.layer))
                    .collect();
                if others.is_empty() {
                    Err(refusal)
                } else {
                    self.try_all(wanted, &position, diff_id, &others, &mut tried)
                }
            }
            Err(Refusal::NotFound | Refusal::NoTocDigest(_)) if wanted.hint.layer.is_some() => {
                self.try_with_all(wanted, &position, diff_id, &candidates)
            }
            other => other,
        }
    }

    /// Again, with what the manifest says beyond the labels.
    fn try_with_all(
        &self,
        wanted: &Wanted<'_>,
        position: &Position,
        diff_id: Option<Digest>,
        labelled: &[Candidate],
    ) -> Result<String, Refusal> {
        let stated = self.stated(wanted);
        let candidate = stated.or(labelled.first()).ok_or(Refusal::UnknownLayer)?;
        self.try_one(wanted, position, diff_id, candidate, true)
    }

    /// The layer that the labels name, as its manifest in containerd's content store has it.
    fn stated<'a>(&self, wanted: &'a Wanted<'_>) -> Option<&'a Candidate> {
        let found = wanted.stated.get_or_init(|| {
            let (content, namespace) = (self.content.as_ref()?, wanted.namespace?);
            let target = wanted.snapshot_ref.parse().ok()?;
            let (found, _) = content.lookup(namespace, &target).ok()?;
            found
                .into_iter()
                .find(|one| Some(one.layer) == wanted.hint.layer)
        });
        found.as_ref()
    }

    fn may_have(&self, wanted: &Wanted<'_>, snapshot: &Snapshot) -> bool {
        wanted.may_have(snapshot, || {
            self.stated(wanted)
                .map(Candidate::annotations)
                .unwrap_or_default()
        })
    }

    fn try_all(
        &self,
        wanted: &Wanted<'_>,
        position: &Position,
        diff_id: Option<Digest>,
        candidates: &[Candidate],
        tried: &mut Vec<Digest>,
    ) -> Result<String, Refusal> {
        let mut first_refusal = None;
        for candidate in candidates {
            tried.push(candidate.layer);
            // What comes from the content store is all that there is.
            let complete = wanted.hint.layer.is_none();
            match self.try_one(wanted, position, diff_id, candidate, complete) {
                Ok(name) => return Ok(name),
                Err(refusal) => {
                    first_refusal.get_or_insert(refusal);
                }
            }
        }
        Err(first_refusal.unwrap_or(Refusal::UnknownLayer))
    }

    fn try_one(
        &self,
        wanted: &Wanted<'_>,
        position: &Position,
        diff_id: Option<Digest>,
        candidate: &Candidate,
        complete: bool,
    ) -> Result<String, Refusal> {
        let mut annotations = candidate.annotations();
        annotations.extend(wanted.hint.annotations.clone());
        let reference = wanted.hint.image_reference.clone();
        let reference = reference.or_else(|| candidate.reference.clone());
        let claimed = self.layers.claim(&ClaimRequest {
            snapshot_ref: wanted.snapshot_ref.to_owned(),
            parent_chain_id: position.below.map(|below| below.to_string()),
            layer: candidate.layer,
            annotations: annotations.clone(),
            diff_id,
            image_layers: candidate.image_layers().to_vec(),
            complete,
            image_reference: reference.clone(),
            namespace: wanted.namespace.unwrap_or_default().to_owned(),
        })?;
        position.check(&claimed)?;
        let private = self.is_private(wanted, &claimed)?;
        let layer = ChainLayer {
            layer: candidate.layer,
            tree: claimed.tree,
            source: claimed.source,
            diff_id: claimed.diff_id,
            reference,
            annotations,
        };
        let usage = Usage {
            size: claimed.size,
            inodes: claimed.inodes,
        };
        self.record(wanted, layer, usage, private)
    }

    /// Whether the chainID is not earned. Such a layer is refused where another namespace holds the same chainID
    /// without proof: containerd would take the first one that a list shows.
    fn is_private(&self, wanted: &Wanted<'_>, claimed: &Claimed) -> Result<bool, Refusal> {
        let believed = claimed.diff_id.is_some() || self.config.trusts(&claimed.source);
        let parent_private = wanted
            .parent
            .and_then(|parent| parent.claim.as_ref())
            .is_some_and(|claim| claim.private);
        let private = !believed || parent_private;
        if !private {
            return Ok(false);
        }
        let rivals = self
            .records
            .with_ref(wanted.snapshot_ref, &wanted.request.parent)
            .map_err(internal)?;
        if rivals.iter().any(|rival| !self.may_have(wanted, rival)) {
            Err(Refusal::UnprovenChainId)
        } else {
            Ok(true)
        }
    }

    fn record(
        &self,
        wanted: &Wanted<'_>,
        layer: ChainLayer,
        usage: Usage,
        private: bool,
    ) -> Result<String, Refusal> {
        let id = self.directories.next_id();
        let name = wanted.name(id, private);
        let claim = Claim {
            layer,
            private,
            namespace: wanted.namespace.unwrap_or_default().to_owned(),
        };
        let recorded = self.records.claim(&NewClaim {
            id,
            name: &name,
            parent: &wanted.request.parent,
            labels: &wanted.request.labels,
            claim: &claim,
            usage,
            now: self.now(),
        });
        match recorded {
            Ok(()) => Ok(name),
            // Lost a race, e.g. against a commit of an ordinary unpack.
            Err(Error::KeyExists(_)) => self.shareable(wanted)?.ok_or(Refusal::UnprovenChainId),
            Err(error) => Err(internal(error)),
        }
    }

    /// Blobs that may be the layer, and whether there can be no others.
    fn candidates(
        &self,
        wanted: &Wanted<'_>,
        diff_id: Option<&Digest>,
        freshness: Freshness,
    ) -> Result<(Vec<Candidate>, bool), Refusal> {
        let labelled = |layer| Candidate {
            layer,
            image: wanted.hint.image(),
            index: 0,
            reference: None,
        };
        if let Some(layer) = wanted.hint.layer {
            return Ok((vec![labelled(layer)], true));
        }
        if diff_id == Some(&EMPTY_LAYER) {
            return Ok((vec![labelled(EMPTY_LAYER)], true));
        }
        let (Some(content), Some(namespace)) = (&self.content, wanted.namespace) else {
            return Err(Refusal::UnknownLayer);
        };
        let Ok(target) = wanted.snapshot_ref.parse() else {
            return Err(Refusal::UnknownLayer);
        };
        let found = match freshness {
            Freshness::MayBeMemoised => content.lookup(namespace, &target),
            Freshness::AskAgain => content
                .lookup_again(namespace, &target)
                .map(|found| (found, true)),
        };
        let (candidates, complete) =
            found.map_err(|error| Refusal::ContentStore(error.to_string()))?;
        if candidates.is_empty() {
            Err(Refusal::UnknownLayer)
        } else {
            Ok((candidates, complete))
        }
    }
}

/// Whether the content store's memory will do.
#[derive(Clone, Copy)]
enum Freshness {
    MayBeMemoised,
    AskAgain,
}

impl Wanted<'_> {
    /// `stated` says what the manifest says of the layer beyond the labels; it is asked only where that matters.
    fn may_have(&self, snapshot: &Snapshot, stated: impl Fn() -> Annotations) -> bool {
        match &snapshot.claim {
            None => true,
            // Labels can be updated, names cannot.
            Some(_) if snapshot.claimed_chain_id() != Some(self.snapshot_ref) => false,
            Some(claim) if !claim.private => true,
            Some(claim) => {
                self.namespace
                    .is_some_and(|namespace| namespace == claim.namespace)
                    && self.hint.layer == Some(claim.layer.layer)
                    && self.is_verified_as(&claim.layer.annotations, stated)
            }
        }
    }

    /// Whether this layer would be verified by the same digests.
    fn is_verified_as(&self, claimed: &Annotations, stated: impl Fn() -> Annotations) -> bool {
        let differs = |own: &Annotations| claimed != own;
        if !differs(&self.hint.annotations) {
            return true;
        }
        let mut own = stated();
        own.extend(self.hint.annotations.clone());
        !differs(&own)
    }

    /// Whether a leader's refusal answers this call, too. What it found, the records show.
    fn same_question(&self, landed: &Landed) -> bool {
        landed.result.is_err()
            && landed.layer == self.hint.layer
            && landed.namespace.as_deref() == self.namespace
    }

    /// A name that is unique in the backend and says which parent it has: containerd looks for an exact parent.
    fn name(&self, id: i64, private: bool) -> String {
        let chain = self.snapshot_ref;
        match self.parent {
            _ if private => format!("{chain}@{id}"),
            Some(parent) if parent.claimed_chain_id() != Some(&parent.name) => {
                format!("{chain}@{}", parent.id)
            }
            _ => chain.to_owned(),
        }
    }
}

impl Position {
    /// Lazy layers form a prefix of the image: the parent, if any, is a lazy one.
    fn of(wanted: &Wanted<'_>) -> Result<Self, Refusal> {
        let below = match wanted.parent {
            None => None,
            Some(parent) => Some(parse(
                parent.claimed_chain_id().ok_or(Refusal::AboveLocalLayer)?,
            )?),
        };
        Ok(Self {
            target: parse(wanted.snapshot_ref)?,
            below,
        })
    }

    fn leads_here(&self, diff_id: &Digest) -> bool {
        chain_id(self.below.as_ref(), diff_id) == self.target
    }

    /// The diffID, where it can be known without asking anybody.
    fn known_diff_id(&self, hint: &LayerHint) -> Option<Digest> {
        [Some(EMPTY_LAYER), hint.diff_id]
            .into_iter()
            .flatten()
            .find(|diff_id| self.leads_here(diff_id))
    }

    /// containerd checks diffIDs only where it unpacks; here the chainID must be earned by what the source states.
    fn check(&self, claimed: &Claimed) -> Result<(), Refusal> {
        match claimed.diff_id {
            Some(stated) if !self.leads_here(&stated) => Err(Refusal::DiffIdMismatch {
                stated: stated.to_string(),
                snapshot_ref: self.target.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

fn parse(chain_id: &str) -> Result<Digest, Refusal> {
    chain_id
        .parse()
        .map_err(|_| Refusal::Unsupported(format!("{chain_id:?} is no chainID")))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn internal(error: Error) -> Refusal {
    Refusal::Internal(error.to_string())
}
