//! `outcrop repository init`

use super::warn;
use crate::cli::{HashName, InitArgs};
use crate::commands::print;
use crate::error::{Error, Kind};
use crate::publishing::backend;
use crate::wiring;
use publisher::{InitOptions, Keys, MetaInfo, Repository};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// What makes a directory a repository.
const MANIFEST: &str = ".cvmfspublished";

/// Makes keys unless the directory has some, then the repository.
pub(super) fn run(args: &InitArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let now = jiff::Timestamp::now();
    let storage = backend::storage(&args.backend, &runtime)?;
    let directory = backend::keys_directory(&args.backend);
    // Before keys are made that nobody needs.
    if storage.size(MANIFEST)?.is_some() {
        return Err(publisher::Error::Exists {
            location: storage.location(),
        }
        .into());
    }
    let public_place = Path::new(&args.backend.repository);
    if args.backend.keys.is_some() && directory.starts_with(public_place) {
        warn(&format!(
            "the keys in {} lie within the repository, which web servers serve: move them elsewhere",
            directory.display()
        ));
    }
    let made = !Keys::exist(&directory, &args.fqrn);
    let keys = match made {
        true => Keys::generate(&args.fqrn, now)?,
        false => Keys::load(&directory, &args.fqrn)?,
    };
    // Before anything is signed with them: keys that are lost cannot be made again.
    if made {
        make_private(&directory)?;
        keys.save(&directory)?;
    }
    let repository = Repository::init(storage, keys, &options(args), now)?;
    let public = directory.join(format!("{}.pub", args.fqrn));
    if args.json {
        let head = repository.head();
        let summary = serde_json::json!({
            "fqrn": head.fqrn,
            "location": repository.storage().location(),
            "revision": head.revision,
            "root_catalog": head.root_catalog.to_string(),
            "public_key": public,
            "keys_made": made,
        });
        return print(out, &summary.to_string());
    }
    let location = repository.storage().location();
    print(out, &format!("made {} in {location}", args.fqrn))?;
    let what = if made { "made" } else { "used" };
    print(
        out,
        &format!(
            "{what} the keys in {}: clients need {}",
            directory.display(),
            public.display()
        ),
    )
}

fn options(args: &InitArgs) -> InitOptions {
    InitOptions {
        algorithm: match args.hash {
            HashName::Sha1 => cvmfs::Algorithm::Sha1,
            HashName::Rmd160 => cvmfs::Algorithm::Ripemd160,
            HashName::Shake128 => cvmfs::Algorithm::Shake128,
        },
        time_to_live: args.ttl.as_secs(),
        garbage_collectable: !args.no_gc,
        whitelist_days: args.whitelist_days,
        meta_info: MetaInfo {
            administrator: args.administrator.clone(),
            email: args.email.clone(),
            description: args.description.clone(),
            ..MetaInfo::default()
        },
    }
}

fn make_private(directory: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| {
            Error::new(
                Kind::Config,
                format!("cannot make the keys' directory {}", directory.display()),
            )
            .because(error)
            .hint("name another one with --keys")
        })
}
