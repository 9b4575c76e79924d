//! A repository with one image, and a second one whose publication is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use publisher::storage::LocalStorage;
use publisher::{CheckOptions, GcOptions, Keys, Repository};
use tempfile::TempDir;
use testkit::Layer;

use crate::moments::{Killed, Moment, Watch, Whole};
use crate::{image, truth};

const FQRN: &str = "killed.test.local";

/// Layers with much content.
const LAYERS: u64 = 6;

/// Entries of a layer with a large catalog.
const MANY: usize = 12_000;

/// What cannot be forgotten: catalogs of layers, images and pointers.
const LAYOUTS: &str = "layers,flat,registry";

pub(crate) struct World {
    program: PathBuf,
    folder: TempDir,
    /// What the repository shows before the publication.
    old: Vec<String>,
    /// In each large layer.
    files: u64,
}

impl World {
    /// `None` where the program was not built.
    pub(crate) fn new(files: u64) -> Option<Self> {
        let program = program()?;
        let folder = TempDir::new().unwrap();
        let mut world = Self {
            program,
            folder,
            old: Vec::new(),
            files,
        };
        image::write(&world.path("small"), &image::layers(2, 20, 1000));
        let mut large = image::layers(LAYERS, files, 330_000);
        // Catalogs that take long, too.
        large.extend([Layer::bulk(MANY), Layer::bulk(MANY / 2)]);
        image::write(&world.path("large"), &large);
        let base = world.path("base");
        world.run(&["repository", "init", FQRN], &base);
        // A revision before the one that must stand: collection has something to do.
        world.finish(world.publish("small", "first", &base, 2));
        world.finish(world.publish("small", "second", &base, 2));
        world.old = world.seen(&base, true);
        assert!(world.old.len() > 50, "{}", world.old.len());
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn keys(&self) -> PathBuf {
        self.path("keys")
    }

    fn seen(&self, repository: &Path, contents: bool) -> Vec<String> {
        let key = self.keys().join(format!("{FQRN}.pub"));
        truth::seen(repository, FQRN, &key, contents)
    }

    fn command(&self, arguments: &[&str], repository: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        command.arg("--repository").arg(repository);
        command.arg("--keys").arg(self.keys());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str], repository: &Path) {
        let mut command = self.command(arguments, repository);
        assert!(command.status().unwrap().success(), "{command:?}");
    }

    fn publish(&self, layout: &str, name: &str, repository: &Path, threads: u32) -> Child {
        let source = format!("oci-layout:{}", self.path(layout).display());
        let name = format!("registry.test/{name}:1");
        let threads = threads.to_string();
        let arguments = [
            "publish",
            &source,
            "--name",
            &name,
            "--layout",
            LAYOUTS,
            "--threads",
            &threads,
        ];
        let mut command = self.command(&arguments, repository);
        // A killed one leaves its scratch files without names, but a folder may stay.
        command.arg("--scratch").arg(self.folder.path());
        command.spawn().unwrap()
    }

    fn finish(&self, mut publication: Child) {
        assert!(publication.wait().unwrap().success());
    }

    /// A repository of its own for each publication.
    fn copy(&self) -> TempDir {
        let copy = TempDir::new_in(self.folder.path()).unwrap();
        let mut command = Command::new("cp");
        command.arg("--archive").arg(self.path("base").join("."));
        assert!(command.arg(copy.path()).status().unwrap().success());
        copy
    }

    /// How long the publication takes when nobody kills it.
    pub(crate) fn measure(&self) -> Whole {
        let repository = self.copy();
        let watch = Watch::new(repository.path());
        let started = Instant::now();
        let mut publication = self.publish("large", "large", repository.path(), 1);
        let mut first = None;
        while publication.try_wait().unwrap().is_none() {
            if first.is_none() && watch.new_objects('C') > 0 {
                first = Some(started.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = started.elapsed();
        self.finish(publication);
        Whole {
            took,
            after_first_catalog: took - first.unwrap_or(took),
            catalogs: watch.new_objects('C'),
        }
    }

    /// Kills a publication at this moment, and expects what must hold then and after the next one.
    pub(crate) fn killed_at(&self, moment: Moment) -> Killed {
        let repository = self.copy();
        let at = repository.path();
        let manifest = std::fs::read(at.join(".cvmfspublished")).unwrap();
        let watch = Watch::new(at);
        let started = Instant::now();
        let mut publication = self.publish("large", "large", at, 1);
        moment.wait(&watch, started, || {
            publication.try_wait().unwrap().is_some()
        });
        publication.kill().unwrap();
        publication.wait().unwrap();
        let published = std::fs::read(at.join(".cvmfspublished")).unwrap() != manifest;
        let killed = match (published, watch.new_objects('C')) {
            (true, _) => Killed::AfterTheManifest,
            (false, 0) => Killed::BeforeTheFirstCatalog,
            (false, _) => Killed::BeforeTheManifest,
        };
        if !published {
            assert_eq!(self.seen(at, true), self.old, "{moment:?}");
        }
        assert_clean(&self.open(at), moment);
        self.finish(self.publish("large", "large", at, 2));
        self.assert_nothing_left(at, moment);
        self.assert_published(at, moment);
        killed
    }

    /// Names only: the check before has read every byte.
    fn assert_published(&self, repository: &Path, moment: Moment) {
        let shown = self.seen(repository, false);
        let layers = shown.iter().filter(|line| line.contains("layerfs/layer"));
        // Directories and files of the large layers, and of the two small ones.
        assert_eq!(
            layers.count(),
            usize::try_from(LAYERS * (1 + 7 + self.files) + 2 * (1 + 7 + 20)).unwrap(),
            "{moment:?}"
        );
    }

    fn assert_nothing_left(&self, at: &Path, moment: Moment) {
        let repository = self.open(at);
        let now = jiff::Timestamp::now();
        let lock = repository.lock(Duration::from_secs(10), now).unwrap();
        let options = GcOptions {
            grace: Duration::ZERO,
            ..GcOptions::default()
        };
        repository.gc(Some(&lock), options, now).unwrap();
        drop(lock);
        let repository = self.open(at);
        assert_clean(&repository, moment);
        let report = repository.check(CheckOptions::default()).unwrap();
        assert_eq!(report.unnamed, 0, "{moment:?}");
        let mut left: Vec<_> = std::fs::read_dir(at.join("data/txn"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.retain(|name| name != "publisher.lock");
        assert!(left.is_empty(), "{moment:?}: {left:?}");
    }

    fn open(&self, at: &Path) -> Repository {
        let keys = Keys::load(&self.keys(), FQRN).unwrap();
        let storage = Arc::new(LocalStorage::new(at));
        Repository::open(storage, Some(keys), jiff::Timestamp::now()).unwrap()
    }
}

fn assert_clean(repository: &Repository, moment: Moment) {
    let options = CheckOptions {
        content: true,
        tags: true,
    };
    assert_eq!(
        repository.check(options).unwrap().findings,
        [],
        "{moment:?}"
    );
}

/// The release build, as users get it, or else the one beside this test.
fn program() -> Option<PathBuf> {
    let here = std::env::current_exe().unwrap();
    let folders = here
        .ancestors()
        .flat_map(|folder| [folder.join("release"), folder.join("debug")]);
    folders
        .map(|folder| folder.join("outcrop"))
        .find(|file| file.is_file())
}
