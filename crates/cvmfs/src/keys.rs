//! Master public keys: the root of trust, from files of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use rsa::PublicKey;
use rsa::pkcs8::DecodePublicKey;

use crate::error::Error;

/// Larger key files are refused.
const MAX_KEY_BYTES: u64 = 64 << 10;

/// The keys that may sign whitelists.
#[derive(Clone, Debug)]
pub struct MasterKeys {
    keys: Vec<PublicKey>,
}

impl MasterKeys {
    /// Reads PEM files, and all `*.pub` of directories.
    ///
    /// # Errors
    /// [`Error::PublicKey`] if a file cannot be read, is no RSA key, or there is none at all.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut keys = Vec::new();
        for path in paths {
            for file in files(path)? {
                keys.push(read(&file)?);
            }
        }
        if keys.is_empty() {
            return Err(refused(
                paths.first().map_or(Path::new("(none)"), PathBuf::as_path),
                &"no key found; configure files or directories with *.pub",
            ));
        }
        Ok(Self { keys })
    }

    /// All keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}

fn refused(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::PublicKey {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let metadata = fs::metadata(path).map_err(|error| refused(path, &error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| refused(path, &error))? {
        let file = entry.map_err(|error| refused(path, &error))?.path();
        if file.extension().is_some_and(|extension| extension == "pub") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<PublicKey, Error> {
    let size = fs::metadata(path)
        .map_err(|error| refused(path, &error))?
        .len();
    if size > MAX_KEY_BYTES {
        return Err(refused(path, &"too large for a public key"));
    }
    let pem = fs::read_to_string(path).map_err(|error| refused(path, &error))?;
    PublicKey::from_public_key_pem(&pem).map_err(|error| refused(path, &error))
}
