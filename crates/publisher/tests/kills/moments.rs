//! When a publication is killed: after some time, or as soon as it has written something.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Marsaglia's xorshift: the same moments for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// A publication that nobody killed.
pub(crate) struct Whole {
    pub(crate) took: Duration,
    pub(crate) after_first_catalog: Duration,
    pub(crate) catalogs: u64,
}

/// When to kill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// After this time.
    After(Duration),
    /// This time after so many new catalogs are stored.
    Catalogs(u64, Duration),
    /// A new history is stored: what follows are certificate, reflog and manifest.
    History,
    /// A reflog is about to be replaced.
    Reflog,
}

/// What a kill hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Killed {
    /// No catalog was stored yet.
    BeforeTheFirstCatalog,
    /// After the first catalog and before the manifest's rename.
    BeforeTheManifest,
    /// It was published already.
    AfterTheManifest,
}

impl Moment {
    /// One in four at any time, the others after the first catalog.
    pub(crate) fn choose(number: u64, whole: &Whole, random: &mut Random) -> Self {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap();
        match number % 4 {
            0 => Self::After(Duration::from_micros(random.below(micros(whole.took)))),
            1 | 2 => {
                let catalogs = 1 + random.below(whole.catalogs.saturating_sub(1));
                let pause = micros(whole.after_first_catalog) / (4 * whole.catalogs.max(1));
                Self::Catalogs(catalogs, Duration::from_micros(random.below(pause)))
            }
            _ if random.below(2) == 0 => Self::History,
            _ => Self::Reflog,
        }
    }

    /// Waits for it, or until `ended`.
    pub(crate) fn wait(self, seen: &Watch<'_>, started: Instant, mut ended: impl FnMut() -> bool) {
        let come = || match self {
            Self::After(time) => started.elapsed() >= time,
            Self::Catalogs(count, _) => seen.new_objects('C') >= count,
            Self::History => seen.new_objects('H') > 0,
            Self::Reflog => seen.reflog_pending(),
        };
        while !come() && !ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Self::Catalogs(_, pause) = self {
            std::thread::sleep(pause);
        }
    }
}

/// Looks at a backend while somebody publishes.
pub(crate) struct Watch<'a> {
    directory: &'a Path,
    before: BTreeSet<String>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(directory: &'a Path) -> Self {
        let before = objects(directory);
        Self { directory, before }
    }

    /// Objects with this suffix that were not there.
    pub(crate) fn new_objects(&self, suffix: char) -> u64 {
        let objects = objects(self.directory);
        let new = objects.difference(&self.before);
        new.filter(|name| name.ends_with(suffix)).count() as u64
    }

    fn reflog_pending(&self) -> bool {
        self.directory.join("data/txn/reflog").exists()
    }
}

/// Names of all objects, as `ab/cdef…C`.
pub(crate) fn objects(directory: &Path) -> BTreeSet<String> {
    let mut objects = BTreeSet::new();
    for folder in std::fs::read_dir(directory.join("data")).unwrap().flatten() {
        let folder_name = folder.file_name().into_string().unwrap();
        let Ok(entries) = std::fs::read_dir(folder.path()) else {
            continue;
        };
        if folder_name == "txn" {
            continue;
        }
        let names = entries.flatten().map(|entry| entry.file_name());
        objects.extend(names.map(|name| format!("{folder_name}/{}", name.to_str().unwrap())));
    }
    objects
}
