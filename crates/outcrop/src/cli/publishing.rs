//! Arguments of the commands that write repositories and images.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// `outcrop repository …`
#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Make an empty repository, with new keys unless there are some
    #[command(visible_alias = "mkfs")]
    Init(InitArgs),
    /// Say what a repository is and holds
    Info(ReadArgs),
    /// Show images, tags or revisions
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Name a revision, or take a name away
    Tag(TagArgs),
    /// Publish an old revision's content as the newest one
    ///
    /// Clients never go back: the old content gets a new number.
    Rollback(RollbackArgs),
    /// Sign the whitelist and the manifest anew
    ///
    /// Clients refuse a repository whose whitelist has expired. Needs the master key, unless with --manifest-only.
    Resign(ResignArgs),
    /// Take images out, with the layers that no other image needs
    ///
    /// Their objects stay until `gc` finds no kept revision that names them.
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
    /// Delete what only old revisions name
    Gc(GcArgs),
    /// Compute again whatever can be computed, and say what differs
    ///
    /// Prints one line for each finding, with the object that is wrong; the exit code is 5 if there are any.
    Check(CheckRepositoryArgs),
}

/// A repository that is read.
#[derive(Args, Clone, Debug)]
pub struct Backend {
    /// Where it lies: a directory, or s3+http(s)://HOST[:PORT]/BUCKET[/PREFIX][?region=NAME&style=virtual]
    #[arg(long, value_name = "DIR|URL")]
    pub repository: String,
    /// Directory with its keys FQRN.pub, FQRN.crt, FQRN.key and FQRN.masterkey [default: /etc/cvmfs/keys]
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// File with CVMFS_S3_ACCESS_KEY= and CVMFS_S3_SECRET_KEY= [default: AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the environment]
    #[arg(long, value_name = "FILE")]
    pub s3_credentials: Option<PathBuf>,
}

/// A repository that is written.
#[derive(Args, Clone, Debug)]
pub struct WritableBackend {
    /// Which one.
    #[command(flatten)]
    pub backend: Backend,
    /// Wait so long for another publisher to finish
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = duration)]
    pub wait: Duration,
}

/// `outcrop repository init`
#[derive(Args, Debug)]
pub struct InitArgs {
    /// The repository's full name, such as unpacked.example.org
    #[arg(value_name = "FQRN")]
    pub fqrn: String,
    /// Which one.
    #[command(flatten)]
    pub backend: Backend,
    /// Hash that names content
    #[arg(long, value_enum, default_value = "sha1")]
    pub hash: HashName,
    /// How often clients look for a new revision
    #[arg(long, value_name = "TIME", default_value = "4m", value_parser = duration)]
    pub ttl: Duration,
    /// Keep all revisions for ever: `gc` is refused
    #[arg(long)]
    pub no_gc: bool,
    /// How long the whitelist is valid
    #[arg(long, value_name = "DAYS", default_value_t = publisher::WHITELIST_DAYS, value_parser = days())]
    pub whitelist_days: u32,
    /// What is in it, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub description: String,
    /// Who keeps it, for people
    #[arg(long, value_name = "NAME", default_value = "")]
    pub administrator: String,
    /// How to reach them
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub email: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop repository info`
#[derive(Args, Debug)]
pub struct ReadArgs {
    /// Which one.
    #[command(flatten)]
    pub backend: Backend,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop repository list`
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Which one.
    #[command(flatten)]
    pub backend: Backend,
    /// What to show
    #[arg(value_enum, default_value = "images")]
    pub what: Listing,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `outcrop repository list` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Listing {
    /// Images in the newest revision
    Images,
    /// Named revisions
    Tags,
    /// All revisions that have not been collected
    Revisions,
}

/// `outcrop repository tag`
#[derive(Args, Debug)]
pub struct TagArgs {
    /// Letters, digits and - _ : .
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Which one.
    #[command(flatten)]
    pub backend: WritableBackend,
    /// Name the revision that has this tag [default: the newest]
    #[arg(long, value_name = "TAG", conflicts_with = "remove")]
    pub of: Option<String>,
    /// Say something about it
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        conflicts_with = "remove"
    )]
    pub description: String,
    /// Take the name away
    #[arg(long)]
    pub remove: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop repository rollback`
#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// Tag of the revision to go back to [default: trunk-previous, the one before the newest]
    #[arg(
        value_name = "TAG",
        default_value = "trunk-previous",
        hide_default_value = true
    )]
    pub tag: String,
    /// Which one.
    #[command(flatten)]
    pub backend: WritableBackend,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop repository resign`
#[derive(Args, Debug)]
pub struct ResignArgs {
    /// Which one.
    #[command(flatten)]
    pub backend: WritableBackend,
    /// How long the whitelist is valid from now on
    #[arg(long, value_name = "DAYS", default_value_t = publisher::WHITELIST_DAYS, value_parser = days(), conflicts_with = "manifest_only")]
    pub days: u32,
    /// Only the manifest: needs no master key
    #[arg(long)]
    pub manifest_only: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop repository remove`
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Images as `outcrop repository list` shows them
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Which one.
    #[command(flatten)]
    pub backend: WritableBackend,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop repository gc`
#[derive(Args, Debug)]
pub struct GcArgs {
    /// Which one.
    #[command(flatten)]
    pub backend: WritableBackend,
    /// Keep revisions that were the newest within this time: clients may still show them
    #[arg(long, value_name = "TIME", default_value = "3d", value_parser = duration)]
    pub grace: Duration,
    /// Keep so many of the newest revisions whatever their age
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub keep: usize,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Write figures for the textfile collector of a node exporter
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub metrics_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop repository check`
#[derive(Args, Debug)]
pub struct CheckRepositoryArgs {
    /// Which one.
    #[command(flatten)]
    pub backend: Backend,
    /// Read and hash every object instead of only looking whether it is there
    #[arg(long)]
    pub content: bool,
    /// Only the newest revision, not the tagged ones
    #[arg(long)]
    pub no_tags: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Hashes that name content, as clients know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HashName {
    /// What every client reads
    Sha1,
    /// RIPEMD-160
    Rmd160,
    /// SHAKE-128
    Shake128,
}

/// `outcrop publish`
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["images", "wishlist"]))]
pub struct PublishArgs {
    /// Images: REFERENCE, oci-layout:DIR[:TAG] or docker-archive:FILE[:NAME[:TAG]]
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Which repository.
    #[command(flatten)]
    pub backend: WritableBackend,
    /// In which form: layers, unpacked, stargz, flat, registry, erofs; several with commas
    #[arg(long, value_name = "LAYOUT", value_delimiter = ',', default_value = "layers", value_parser = layout)]
    pub layout: Vec<publisher::layouts::Layout>,
    /// The image's name in the repository, for a layout or archive that states none, or another one
    #[arg(long, value_name = "REFERENCE", conflicts_with = "wishlist")]
    pub name: Option<String>,
    /// Publish what this list names (the YAML of cvmfs_ducc, version 1; * in tags)
    #[arg(long, value_name = "FILE")]
    pub wishlist: Option<PathBuf>,
    /// With --wishlist: take images out of the repository that the list no longer names
    #[arg(long, requires = "wishlist")]
    pub prune: bool,
    /// Look again for changes after each interval, until SIGTERM
    #[arg(long, value_name = "INTERVAL", value_parser = duration, conflicts_with = "dry_run")]
    pub watch: Option<Duration>,
    /// Name the new revision, of several images the last one's
    #[arg(long, value_name = "NAME", conflicts_with_all = ["wishlist", "watch", "dry_run"])]
    pub tag: Option<String>,
    /// Store layers again that are there already
    #[arg(long)]
    pub again: bool,
    /// Publish nothing, only say what would be
    #[arg(long)]
    pub dry_run: bool,
    /// Threads that compress [default: one a processor]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Layers at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub parallel: u16,
    /// Directory for temporary files [default: TMPDIR of the environment, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Write figures for the textfile collector of a node exporter
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub metrics_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How registries are spoken to.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistryArgs {
    /// Directory with containerd's HOST/hosts.toml
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    pub hosts_directory: PathBuf,
    /// User names and passwords, as `docker login` writes them [default: config.json in DOCKER_CONFIG or ~/.docker]
    #[arg(long, value_name = "FILE")]
    pub docker_config: Option<PathBuf>,
    /// Speak to this registry without TLS
    #[arg(long, value_name = "HOST[:PORT]")]
    pub plain_http: Vec<String>,
}

/// `outcrop convert`
#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// Image: REFERENCE, oci-layout:DIR[:TAG] or docker-archive:FILE[:NAME[:TAG]]
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where it goes: REFERENCE (pushed), oci-layout:DIR[:TAG] or oci-archive:FILE[:NAME]
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Form of the layers
    #[arg(
        long,
        value_enum,
        default_value = "estargz",
        alias = "compression-format"
    )]
    pub format: LayerFormat,
    /// Of the compression: 1 to 9 for estargz [default: 9], 1 to 22 for zstd-chunked [default: 3]
    #[arg(
        long,
        value_name = "NUMBER",
        alias = "compression-level",
        allow_negative_numbers = true
    )]
    pub level: Option<i32>,
    /// Most bytes of a file in one chunk
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    pub chunk_size: bytesize::ByteSize,
    /// File with one path a line: these come first and are prefetched
    #[arg(long, value_name = "FILE", alias = "prioritized-files")]
    pub prioritized: Option<PathBuf>,
    /// Convert layers again that are of the wanted form
    #[arg(long)]
    pub again: bool,
    /// Threads that compress [default: one a processor]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Directory for temporary files [default: TMPDIR of the environment, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Forms of layers that can be read piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayerFormat {
    /// gzip members and a table of contents: read by every runtime
    Estargz,
    /// zstd frames and a table of contents: smaller
    #[value(alias = "zstd:chunked")]
    ZstdChunked,
}

/// Ten years at most.
fn days() -> clap::builder::RangedU64ValueParser<u32> {
    clap::builder::RangedU64ValueParser::new().range(1..=3650)
}

/// `90s`, `4m`, `3d`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 90s, 4m, 12h or 3d");
    let span: jiff::SignedDuration = match text.strip_suffix('d').map(str::parse::<i64>) {
        Some(Ok(days)) => days
            .checked_mul(24)
            .and_then(jiff::SignedDuration::try_from_hours)
            .ok_or_else(wrong)?,
        _ => text.parse().map_err(|_| wrong())?,
    };
    Duration::try_from(span).map_err(|_| wrong())
}

fn layout(name: &str) -> Result<publisher::layouts::Layout, String> {
    publisher::layouts::Layout::parse(name).ok_or_else(|| {
        let names = publisher::layouts::Layout::ALL.map(publisher::layouts::Layout::name);
        format!("one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let seconds = |text| duration(text).map(|time| time.as_secs()).ok();
        let cases = [
            ("90s", Some(90)),
            ("4m", Some(240)),
            ("12h", Some(43_200)),
            ("3d", Some(259_200)),
            ("1h30m", Some(5400)),
            ("0s", Some(0)),
            ("-1s", None),
            ("4", None),
            ("", None),
            ("d", None),
            ("99999999999999999999d", None),
            ("9223372036854775807d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
