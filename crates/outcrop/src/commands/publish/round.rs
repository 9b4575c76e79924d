//! All images once.

use super::stop::{Stop, Stoppable};
use super::{Order, say};
use crate::cli::{PublishArgs, RegistryArgs};
use crate::error::{Error, Kind};
use crate::publishing::progress::LayerBars;
use crate::publishing::summary::{Became, Outcome, Run, interrupted};
use crate::publishing::{backend, registries, wishlist_file};
use image::{Digest, Reference};
use publisher::publish::PublishOptions;
use publisher::wishlist::{Wishlist, WishlistName};
use publisher::{
    NewTag, ObjectStore, Options, RepositoryBackend, SourceOptions, SubtreeOptions, open_source,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;
use tokio::runtime::Runtime;

/// What does not change from round to round.
pub(super) struct Round<'a> {
    pub(super) args: &'a PublishArgs,
    pub(super) order: &'a Order,
    pub(super) runtime: &'a Runtime,
    pub(super) stop: &'a Stop,
}

/// What the last round left, as long as nobody else has changed the repository since.
#[derive(Default)]
pub(super) struct Known {
    revision: Option<u64>,
    digests: BTreeMap<String, Digest>,
}

/// An open repository and open registries.
struct Open {
    backend: RepositoryBackend,
    sources: SourceOptions,
}

impl Round<'_> {
    /// Publishes all that is named. Only what hinders it from beginning is an error.
    pub(super) fn run(&self, known: &mut Known) -> Result<Run, Error> {
        let started = Instant::now();
        let backend = self.backend()?;
        let repository = backend.repository.clone();
        if known.revision != Some(repository.head().revision) {
            *known = Known::default();
        }
        let mut run = Run {
            repository: repository.fqrn().to_owned(),
            dry_run: self.args.dry_run,
            ..Run::default()
        };
        let open = match (&self.args.wishlist, &self.order.list) {
            (Some(file), Some(name)) => {
                let list = wishlist_file::read(file, repository.fqrn())?;
                let open = self.open(backend, plain_http(&list));
                self.wishlist(&open, file, name, &list, known, &mut run);
                open
            }
            _ => {
                let open = self.open(backend, Vec::new());
                self.images(&open, known, &mut run);
                open
            }
        };
        run.revision = repository.head().revision;
        run.stored_bytes = open.backend.objects.statistics().written_bytes;
        run.seconds = started.elapsed().as_secs_f64();
        known.revision = Some(run.revision);
        Ok(run)
    }

    /// Opened anew each round: others publish too, and whitelists are signed anew.
    fn backend(&self) -> Result<RepositoryBackend, Error> {
        let args = self.args;
        let repository = backend::open_writable(&args.backend, self.runtime, false)?;
        let scratch = backend::scratch(args.scratch.as_deref());
        let objects = ObjectStore::new(
            repository.storage().clone(),
            repository.algorithm(),
            store_options(args, scratch),
        )?;
        Ok(RepositoryBackend {
            repository,
            objects,
            wait: args.backend.wait,
            now: jiff::Timestamp::now(),
            max_rows: SubtreeOptions::default().max_rows,
        })
    }

    fn open(&self, backend: RepositoryBackend, plain_http: Vec<String>) -> Open {
        let mut registries = RegistryArgs::clone(&self.args.registry);
        registries.plain_http.extend(plain_http);
        let sources = SourceOptions {
            scratch: backend::scratch(self.args.scratch.as_deref()),
            registry: Some(registries::client(&registries, self.runtime)),
        };
        Open { backend, sources }
    }

    /// The first failure ends it.
    fn images(&self, open: &Open, known: &mut Known, run: &mut Run) {
        for (number, image) in self.args.images.iter().enumerate() {
            let is_last = number + 1 == self.args.images.len();
            let options = PublishOptions {
                name: self.order.name.clone(),
                tag: self.tag().filter(|_| is_last),
                ..self.options()
            };
            let became = self.image(open, image, &options, known);
            let became = became.unwrap_or_else(Became::Failed);
            run.ended = matches!(became, Became::Failed(_));
            run.outcomes.push(outcome(image, became));
            if run.ended {
                return;
            }
        }
    }

    /// Failures are said and counted; only a signal ends it.
    fn wishlist(
        &self,
        open: &Open,
        file: &Path,
        name: &WishlistName,
        list: &Wishlist,
        known: &mut Known,
        run: &mut Run,
    ) {
        for warning in &list.warnings {
            say(&format_args!("warning: {}: {warning}", file.display()));
        }
        let (named, complete) = self.named(open, file, list, run);
        // What is named no longer may be pruned, and named again one day.
        let texts: BTreeSet<String> = named.iter().map(Reference::to_string).collect();
        known.digests.retain(|text, _| texts.contains(text));
        for image in &named {
            let text = image.to_string();
            let options = PublishOptions {
                wishlist: Some(name.clone()),
                ..self.options()
            };
            let became = self.image(open, &text, &options, known);
            let became = became.unwrap_or_else(Became::Failed);
            if let (Became::Failed(error), None) = (&became, self.stop.signal()) {
                say(error);
            }
            run.ended = self.stop.signal().is_some() && matches!(became, Became::Failed(_));
            run.outcomes.push(outcome(&text, became));
            if run.ended {
                return;
            }
        }
        if self.args.prune && complete {
            self.prune(open, name, &named, run);
        } else if self.args.prune {
            let reason = "it is not known what the list names, see above";
            run.not_pruned = Some(reason.to_owned());
        }
    }

    /// All images that the list names now, in its order, and whether these are all.
    fn named(
        &self,
        open: &Open,
        file: &Path,
        list: &Wishlist,
        run: &mut Run,
    ) -> (Vec<Reference>, bool) {
        let mut failed = |line: u64, entry: &str, error: Error| {
            say(&error);
            let became = Became::Failed(error);
            run.outcomes
                .push(outcome(&format!("line {line}: {entry}"), became));
        };
        let place = |line: u64| format!("{} line {line}", file.display());
        let mut complete = list.problems.is_empty();
        for problem in &list.problems {
            let message = format!(
                "{}: {}: {}",
                place(problem.line),
                problem.entry,
                problem.reason
            );
            let error = Error::new(Kind::Config, message);
            failed(problem.line, &problem.entry, error);
        }
        let (mut named, mut seen) = (Vec::new(), BTreeSet::new());
        for entry in &list.images {
            let client = self
                .stop
                .signal()
                .is_none()
                .then_some(&open.sources.registry);
            let Some(client) = client.and_then(Option::as_ref) else {
                return (named, false);
            };
            match entry.expand(client) {
                Ok(images) => {
                    if images.is_empty() {
                        let place = place(entry.line);
                        say(&format_args!(
                            "warning: {place}: {}: no tag matches",
                            entry.text
                        ));
                    }
                    named.extend(
                        images
                            .into_iter()
                            .filter(|image| seen.insert(image.clone())),
                    );
                }
                Err(error) => {
                    complete = false;
                    let error = Error::from(publisher::SourceError::from(error));
                    failed(entry.line, &entry.text, error);
                }
            }
        }
        (named, complete)
    }

    fn prune(&self, open: &Open, name: &WishlistName, named: &[Reference], run: &mut Run) {
        let backend = at_this_time(&open.backend);
        let (now, dry_run) = (backend.now, self.args.dry_run);
        match publisher::wishlist::prune(&backend, name, named, dry_run, now) {
            Ok(removed) => run.removed = removed,
            Err(error) => {
                let error = Error::from(error);
                say(&error);
                run.outcomes.push(outcome("pruning", Became::Failed(error)));
            }
        }
    }

    fn image(
        &self,
        open: &Open,
        text: &str,
        options: &PublishOptions,
        known: &mut Known,
    ) -> Result<Became, Error> {
        let revision = || open.backend.repository.head().revision;
        let stopped = |signal| interrupted(text, signal, revision());
        if let Some(signal) = self.stop.signal() {
            return Err(stopped(signal));
        }
        let attempt = || -> Result<_, Error> {
            let source = open_source(text, &open.sources)?;
            let digest = source.manifest(None)?.digest;
            if known.digests.get(text) == Some(&digest) {
                return Ok((digest, Became::Unchanged));
            }
            let source = Stoppable::new(source, self.stop);
            let bars = LayerBars::begin(text);
            let backend = at_this_time(&open.backend);
            let summary = publisher::publish::publish(&backend, &source, options, &bars)?;
            Ok((digest, Became::Done(summary)))
        };
        match (attempt(), self.stop.signal()) {
            (Ok((digest, became)), _) => {
                known.digests.insert(text.to_owned(), digest);
                Ok(became)
            }
            (Err(error), Some(signal)) => Err(stopped(signal).because(error)),
            (Err(error), None) => Err(error),
        }
    }

    fn options(&self) -> PublishOptions {
        let args = self.args;
        let mut options = PublishOptions::new(jiff::Timestamp::now());
        options.layouts.clone_from(&args.layout);
        options.parallel = usize::from(args.parallel);
        options.again = args.again;
        options.dry_run = args.dry_run;
        options
    }

    fn tag(&self) -> Option<NewTag> {
        self.args.tag.as_ref().map(|name| NewTag {
            name: name.clone(),
            description: String::new(),
        })
    }
}

fn outcome(image: &str, became: Became) -> Outcome {
    Outcome {
        image: image.to_owned(),
        became,
    }
}

/// A later image is published later.
fn at_this_time(backend: &RepositoryBackend) -> RepositoryBackend {
    RepositoryBackend {
        now: jiff::Timestamp::now(),
        ..backend.clone()
    }
}

/// Registries that the list wants to be asked without TLS.
fn plain_http(list: &Wishlist) -> Vec<String> {
    let entries = list.images.iter().filter(|entry| entry.plain_http);
    let hosts: BTreeSet<_> = entries.map(|entry| entry.registry().to_owned()).collect();
    hosts.into_iter().collect()
}

/// Objects on their way. Larger amounts make nothing faster; peak memory is some three times as much.
const MEMORY: u64 = 128 << 20;

/// Each waits for the server's answer.
const UPLOADS: usize = 16;

fn store_options(args: &PublishArgs, scratch: std::path::PathBuf) -> Options {
    let remote = args.backend.backend.repository.starts_with("s3+");
    Options {
        memory_limit: MEMORY,
        upload_threads: if remote { UPLOADS } else { 0 },
        ..Options::new(backend::threads(args.threads), scratch)
    }
}
