//! `outcrop repository resign`

use crate::cli::ResignArgs;
use crate::commands::print;
use crate::error::Error;
use crate::publishing::backend;
use crate::wiring;
use std::io::Write;

/// Whitelist first: it allows the certificate with which the manifest is signed afterwards.
pub(super) fn run(args: &ResignArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let now = jiff::Timestamp::now();
    let repository = backend::open_writable(&args.backend, &runtime, true)?;
    let lock = backend::lock(&repository, &args.backend)?;
    if !args.manifest_only {
        repository.resign_whitelist(&lock, args.days, now)?;
    }
    repository.resign_manifest(&lock, now)?;
    let expiry = repository.info()?.whitelist_expiry;
    if args.json {
        let json = serde_json::json!({
            "fqrn": repository.fqrn(),
            "whitelist": !args.manifest_only,
            "whitelist_expiry": expiry.as_second(),
        });
        return print(out, &json.to_string());
    }
    let what = match args.manifest_only {
        true => "the manifest",
        false => "whitelist and manifest",
    };
    print(
        out,
        &format!(
            "signed {what} of {}; the whitelist is valid until {expiry}",
            repository.fqrn()
        ),
    )
}
