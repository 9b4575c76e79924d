//! `.cvmfswhitelist` as it is written: which certificate may sign, until when.

use crate::error::Error;
use crate::keys::Keys;
use cvmfs::Algorithm;

/// Name of the signed file.
pub(crate) const WHITELIST: &str = ".cvmfswhitelist";
/// Larger whitelists are refused.
pub(crate) const MAX_WHITELIST_BYTES: u64 = 1 << 20;
/// What `cvmfs_server` grants.
pub const WHITELIST_DAYS: u32 = 30;

/// A signed whitelist for the keys' certificate and `others` (printed fingerprints), valid from `now`.
pub(crate) fn signed(
    keys: &Keys,
    others: &[String],
    algorithm: Algorithm,
    days: u32,
    now: jiff::Timestamp,
) -> Result<Vec<u8>, Error> {
    let stamp = |time: jiff::Timestamp| time.strftime("%Y%m%d%H%M%S").to_string();
    let expiry = now + jiff::SignedDuration::from_hours(24 * i64::from(days));
    let own = keys.certificate()?.fingerprint(Algorithm::Sha1);
    let mut body = format!(
        "{}\nE{}\nN{}\n{own}\n",
        stamp(now),
        stamp(expiry),
        keys.fqrn()
    );
    for other in others.iter().filter(|other| **other != own) {
        body.push_str(other);
        body.push('\n');
    }
    keys.sign_whitelist(&body, algorithm)
}
