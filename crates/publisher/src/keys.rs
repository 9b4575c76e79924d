//! A repository's keys, in the files that `cvmfs_server` uses: `FQRN.pub`, `FQRN.masterkey`, `FQRN.crt`, `FQRN.key`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use cvmfs::{Algorithm, Certificate};
use rsa::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    LineEnding,
};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::{Pkcs1v15Sign, PrivateKey, PublicKey};
use sha1::Sha1;

use crate::certificate::self_signed;
use crate::error::Error;

const KEY_BITS: usize = 2048;
/// Larger key files are refused.
const MAX_KEY_BYTES: u64 = 64 << 10;

/// What a repository is signed with, and what clients verify it with. Private parts may be absent, and are never printed.
#[derive(Clone)]
pub struct Keys {
    fqrn: String,
    public: PublicKey,
    master: Option<PrivateKey>,
    signing: Option<Signing>,
}

#[derive(Clone)]
struct Signing {
    key: PrivateKey,
    pem: String,
    certificate: Certificate,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("fqrn", &self.fqrn)
            .field("master", &self.master.is_some())
            .field("signing", &self.signing.is_some())
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// New keys of 2048 bits, and a certificate that is valid from `now` for a year.
    ///
    /// # Errors
    /// If the name is none, or the system gives no random numbers.
    pub fn generate(fqrn: &str, now: jiff::Timestamp) -> Result<Self, Error> {
        check_name(fqrn)?;
        let mut random = SystemRandom::open()?;
        let mut key = || {
            PrivateKey::new(&mut random, KEY_BITS).map_err(|error| Error::Sign(error.to_string()))
        };
        let (master, key) = (key()?, key()?);
        let mut serial = [0; 16];
        random.try_fill_bytes(&mut serial).map_err(Error::Scratch)?;
        let pem = self_signed(fqrn, &key, serial, now)?;
        let certificate = Certificate::from_pem(pem.as_bytes()).map_err(Error::Sign)?;
        Ok(Self {
            fqrn: fqrn.to_owned(),
            public: master.to_public_key(),
            master: Some(master),
            signing: Some(Signing {
                key,
                pem,
                certificate,
            }),
        })
    }

    /// Reads the files of a repository. `FQRN.pub` must be there, the others may be absent: then what needs them fails.
    ///
    /// # Errors
    /// [`Error::Key`] if a file cannot be read, is no key, or does not belong to the others.
    pub fn load(directory: &Path, fqrn: &str) -> Result<Self, Error> {
        check_name(fqrn)?;
        let file = |end: &str| directory.join(format!("{fqrn}.{end}"));
        let path = file("pub");
        let pem = read(&path)?.ok_or_else(|| refused(&path, &"there is no such file"))?;
        let public =
            PublicKey::from_public_key_pem(&pem).map_err(|error| refused(&path, &error))?;
        let path = file("masterkey");
        let master = read(&path)?.map(|pem| private(&path, &pem)).transpose()?;
        if let Some(master) = &master
            && master.to_public_key() != public
        {
            return Err(refused(&path, &"it does not belong to the public key"));
        }
        Ok(Self {
            fqrn: fqrn.to_owned(),
            public,
            master,
            signing: load_signing(&file("key"), &file("crt"))?,
        })
    }

    /// Writes all that there is; private keys are readable for the owner only. Existing files are not replaced.
    ///
    /// # Errors
    /// [`Error::Key`] if a file exists already or cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        let path = |end: &str| directory.join(format!("{}.{end}", self.fqrn));
        fs::create_dir_all(directory).map_err(|error| refused(directory, &error))?;
        if let Some(master) = &self.master {
            write_private(&path("masterkey"), master)?;
        }
        if let Some(signing) = &self.signing {
            write_private(&path("key"), &signing.key)?;
            write(&path("crt"), &signing.pem, 0o644)?;
        }
        write(&path("pub"), &self.public_pem()?, 0o644)
    }

    /// Whether [`Keys::save`] would replace files of that directory.
    #[must_use]
    pub fn exist(directory: &Path, fqrn: &str) -> bool {
        ["pub", "masterkey", "crt", "key"]
            .iter()
            .any(|end| directory.join(format!("{fqrn}.{end}")).exists())
    }

    /// The repository that these are for.
    #[must_use]
    pub fn fqrn(&self) -> &str {
        &self.fqrn
    }

    /// What clients need, PEM.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn public_pem(&self) -> Result<String, Error> {
        self.public
            .to_public_key_pem(LineEnding::LF)
            .map_err(|error| Error::Sign(error.to_string()))
    }

    /// The master's public key.
    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The certificate, PEM.
    pub(crate) fn certificate_pem(&self) -> Result<&str, Error> {
        Ok(&self.signing()?.pem)
    }

    /// The certificate.
    pub(crate) fn certificate(&self) -> Result<&Certificate, Error> {
        Ok(&self.signing()?.certificate)
    }

    /// A whole `.cvmfspublished`: PKCS#1 v1.5 over the SHA-1 of the printed hash.
    pub(crate) fn sign_manifest(&self, body: &str, algorithm: Algorithm) -> Result<Vec<u8>, Error> {
        let key = &self.signing()?.key;
        framed(body, algorithm, |text| key.pkcs1v15_sign::<Sha1>(text))
    }

    /// A whole `.cvmfswhitelist`: PKCS#1 v1.5 type 1 padding of the printed hash itself.
    pub(crate) fn sign_whitelist(
        &self,
        body: &str,
        algorithm: Algorithm,
    ) -> Result<Vec<u8>, Error> {
        let master = self
            .master
            .as_ref()
            .ok_or_else(|| self.without("master key"))?;
        framed(body, algorithm, |text| {
            master.sign(Pkcs1v15Sign::new_unprefixed(), text)
        })
    }

    fn signing(&self) -> Result<&Signing, Error> {
        self.signing
            .as_ref()
            .ok_or_else(|| self.without("signing key"))
    }

    fn without(&self, what: &'static str) -> Error {
        Error::NoKey {
            fqrn: self.fqrn.clone(),
            what,
        }
    }
}

fn framed(
    body: &str,
    algorithm: Algorithm,
    sign: impl FnOnce(&[u8]) -> rsa::Result<Vec<u8>>,
) -> Result<Vec<u8>, Error> {
    let hash = algorithm.digest(body.as_bytes()).to_string();
    let signature = sign(hash.as_bytes()).map_err(|error| Error::Sign(error.to_string()))?;
    Ok([body.as_bytes(), b"--\n", hash.as_bytes(), b"\n", &signature].concat())
}

/// Names become parts of paths and of lines: only what host names have.
pub(crate) fn check_name(fqrn: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let reason = if fqrn.is_empty() || fqrn.len() > 255 {
        "it must have 1 to 255 characters"
    } else if !fqrn.bytes().all(plain) {
        "letters, digits and . - _ only"
    } else if !fqrn.starts_with(|first: char| first.is_ascii_alphanumeric()) || fqrn.contains("..")
    {
        "it must begin with a letter or digit and hold no empty part"
    } else if !fqrn.contains('.') {
        "it must be fully qualified: name.domain"
    } else {
        return Ok(());
    };
    Err(Error::BadName {
        fqrn: fqrn.chars().take(255).collect(),
        reason,
    })
}

fn refused(path: &Path, reason: &dyn fmt::Display) -> Error {
    Error::Key {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(path, &error)),
    };
    let mut text = String::new();
    file.take(MAX_KEY_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| refused(path, &error))?;
    Ok(Some(text))
}

fn private(path: &Path, pem: &str) -> Result<PrivateKey, Error> {
    use rsa::pkcs1::DecodeRsaPrivateKey as _;
    // Old servers wrote PKCS#1 ("BEGIN RSA PRIVATE KEY").
    PrivateKey::from_pkcs8_pem(pem)
        .or_else(|error| PrivateKey::from_pkcs1_pem(pem).map_err(|_| error))
        .map_err(|error| refused(path, &error))
}

fn load_signing(key_path: &Path, certificate_path: &Path) -> Result<Option<Signing>, Error> {
    let (Some(key), Some(pem)) = (read(key_path)?, read(certificate_path)?) else {
        return Ok(None);
    };
    let key = private(key_path, &key)?;
    let certificate = Certificate::from_pem(pem.as_bytes())
        .map_err(|reason| refused(certificate_path, &reason))?;
    if *certificate.key() != key.to_public_key() {
        return Err(refused(certificate_path, &"it does not belong to the key"));
    }
    Ok(Some(Signing {
        key,
        pem,
        certificate,
    }))
}

fn write_private(path: &Path, key: &PrivateKey) -> Result<(), Error> {
    let pem = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|error| refused(path, &error))?;
    write(path, &pem, 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let inner = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    inner().map_err(|error: io::Error| refused(path, &error))
}

/// The kernel's random numbers.
struct SystemRandom(fs::File);

impl SystemRandom {
    fn open() -> Result<Self, Error> {
        let path = PathBuf::from("/dev/urandom");
        fs::File::open(&path)
            .map(Self)
            .map_err(|error| refused(&path, &error))
    }
}

impl TryRng for SystemRandom {
    type Error = io::Error;

    fn try_next_u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.0.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(bytes)
    }
}

impl TryCryptoRng for SystemRandom {}
