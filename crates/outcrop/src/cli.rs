//! The command line.

mod publishing;

pub use publishing::*;

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;

/// Containers that start from where their layers already lie.
///
/// Outcrop is a snapshotter for containerd that shows image layers out of a CVMFS repository
/// instead of downloading them, and a CVMFS client.
#[derive(Debug, Parser)]
#[command(
    name = "outcrop",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve containerd's snapshots over a socket until SIGTERM
    ///
    /// What is mounted stays mounted when the daemon stops: `outcrop release` unmounts.
    Serve(ServeArgs),
    /// Mount a whole CVMFS repository, in the foreground
    ///
    /// Runs until SIGTERM or SIGINT, which unmount, or until somebody unmounts DIR.
    Mount(Box<MountArgs>),
    /// Say, one line each, whether everything is there that `serve` needs
    ///
    /// A line that fails names the next step. The exit code is 0 if none fails.
    Check(CheckArgs),
    /// Say of each layer of an image or container where it comes from, or why it was pulled
    Explain(ExplainArgs),
    /// Unmount everything of ours, whether a daemon runs or not
    ///
    /// Containers that still run from these layers lose their files.
    Release(ReleaseArgs),
    /// Put images into a CVMFS repository that any client can mount
    ///
    /// Needs neither root nor a mount. What is there already is not stored again; all of an image appears in
    /// one revision, or nothing does.
    Publish(Box<PublishArgs>),
    /// Write an image with layers that can be read piece by piece
    Convert(Box<ConvertArgs>),
    /// Make and keep the repositories that `publish` writes
    #[command(subcommand, visible_alias = "repo")]
    Repository(Box<RepositoryCommand>),
    /// The configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version
    Version,
    /// Print a file's first bytes; `check` runs it as a child, so that a read that never returns hurts nobody
    #[command(hide = true)]
    ProbeRead {
        /// The file.
        file: PathBuf,
    },
    /// Print who owns what in a mounted repository; a child of `check`, too
    #[command(hide = true)]
    ProbeOwners {
        /// The repository's mount point.
        directory: PathBuf,
    },
}

/// `outcrop serve`
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Configuration [default: /etc/outcrop/config.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `outcrop mount`
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("revision"))]
pub struct MountArgs {
    /// The repository's full name, such as unpacked.cern.ch
    #[arg(value_name = "FQRN")]
    pub fqrn: String,
    /// An existing directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Stratum 1 with the repository's path; tried in the order given [default: CVMFS_SERVER_URL of
    /// /etc/cvmfs]
    #[arg(long, value_name = "URL")]
    pub server_url: Vec<String>,
    /// Master key, or a directory with *.pub [default: CVMFS_PUBLIC_KEY or CVMFS_KEYS_DIR of
    /// /etc/cvmfs]
    #[arg(long, value_name = "FILE|DIR")]
    pub public_key: Vec<PathBuf>,
    /// Proxies: `|` between those that share the load, `;` between groups, DIRECT for none
    /// [default: DIRECT with --server-url, else CVMFS_HTTP_PROXY of /etc/cvmfs]
    #[arg(long, value_name = "LIST")]
    pub proxy: Option<String>,
    /// Where external data lies; without it external files cannot be read
    #[arg(long, value_name = "URL")]
    pub external_url: Vec<String>,
    /// Directory of the cache [default: /var/lib/outcrop/mount/FQRN]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Upper limit of the cache, such as 20GiB [default: CVMFS_QUOTA_LIMIT of /etc/cvmfs, else 4GiB]
    #[arg(long, value_name = "SIZE")]
    pub cache_quota: Option<bytesize::ByteSize>,
    /// Mount the revision with this tag
    #[arg(long, value_name = "NAME", group = "revision")]
    pub tag: Option<String>,
    /// Mount the last revision published at or before this time, such as 2026-01-31 or
    /// 2026-01-31T12:00:00Z
    #[arg(long, value_name = "ISO", group = "revision")]
    pub date: Option<String>,
    /// Mount the revision with this root catalog
    #[arg(long, value_name = "HASH", group = "revision")]
    pub root_hash: Option<String>,
    /// Value of $(NAME) in symbolic links
    #[arg(long, value_name = "NAME=VALUE")]
    pub variable: Vec<String>,
    /// Log as JSON, one object a line
    #[arg(long)]
    pub log_json: bool,
}

/// `outcrop check`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Configuration [default: /etc/outcrop/config.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop explain`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// An image as containerd names it, or a container's ID or its beginning
    #[arg(value_name = "IMAGE|CONTAINER")]
    pub name: String,
    /// containerd's namespace
    #[arg(long, value_name = "NAME", default_value = "k8s.io")]
    pub namespace: String,
    /// Name under which containerd knows this snapshotter
    #[arg(long, value_name = "NAME", default_value = "outcrop")]
    pub snapshotter: String,
    /// Configuration, for containerd's socket [default: /etc/outcrop/config.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `outcrop release`
#[derive(Args, Debug)]
pub struct ReleaseArgs {
    /// Configuration, for its `root` [default: /etc/outcrop/config.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `outcrop config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the default configuration with all keys and what they mean
    Show,
}

/// The whole command line as a value, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(path: &[&str]) -> String {
        let mut command = command().term_width(100);
        command.build();
        let mut command = &mut command;
        for name in path {
            command = command.find_subcommand_mut(name).unwrap();
        }
        command.render_help().to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn help_of_outcrop() {
        insta::assert_snapshot!(help(&[]), @r#"
            Containers that start from where their layers already lie

            Usage: outcrop <COMMAND>

            Commands:
              serve       Serve containerd's snapshots over a socket until SIGTERM
              mount       Mount a whole CVMFS repository, in the foreground
              check       Say, one line each, whether everything is there that `serve` needs
              explain     Say of each layer of an image or container where it comes from, or why it was pulled
              release     Unmount everything of ours, whether a daemon runs or not
              publish     Put images into a CVMFS repository that any client can mount
              convert     Write an image with layers that can be read piece by piece
              repository  Make and keep the repositories that `publish` writes [alias: repo]
              config      The configuration file
              version     Print the version
              help        Print this message or the help of the given subcommand(s)

            Options:
              -h, --help     Print help (see more with '--help')
              -V, --version  Print version
        "#);
    }

    #[test]
    fn help_of_serve() {
        insta::assert_snapshot!(help(&["serve"]), @r#"
            Serve containerd's snapshots over a socket until SIGTERM

            Usage: outcrop serve [OPTIONS]

            Options:
                  --config <FILE>  Configuration [default: /etc/outcrop/config.toml if it exists]
              -h, --help           Print help (see more with '--help')
        "#);
    }

    #[test]
    fn help_of_mount() {
        insta::assert_snapshot!(help(&["mount"]), @r#"
            Mount a whole CVMFS repository, in the foreground

            Usage: outcrop mount [OPTIONS] <FQRN> <DIR>

            Arguments:
              <FQRN>  The repository's full name, such as unpacked.cern.ch
              <DIR>   An existing directory

            Options:
                  --server-url <URL>       Stratum 1 with the repository's path; tried in the order given
                                           [default: CVMFS_SERVER_URL of /etc/cvmfs]
                  --public-key <FILE|DIR>  Master key, or a directory with *.pub [default: CVMFS_PUBLIC_KEY or
                                           CVMFS_KEYS_DIR of /etc/cvmfs]
                  --proxy <LIST>           Proxies: `|` between those that share the load, `;` between groups,
                                           DIRECT for none [default: DIRECT with --server-url, else
                                           CVMFS_HTTP_PROXY of /etc/cvmfs]
                  --external-url <URL>     Where external data lies; without it external files cannot be read
                  --cache <DIR>            Directory of the cache [default: /var/lib/outcrop/mount/FQRN]
                  --cache-quota <SIZE>     Upper limit of the cache, such as 20GiB [default: CVMFS_QUOTA_LIMIT
                                           of /etc/cvmfs, else 4GiB]
                  --tag <NAME>             Mount the revision with this tag
                  --date <ISO>             Mount the last revision published at or before this time, such as
                                           2026-01-31 or 2026-01-31T12:00:00Z
                  --root-hash <HASH>       Mount the revision with this root catalog
                  --variable <NAME=VALUE>  Value of $(NAME) in symbolic links
                  --log-json               Log as JSON, one object a line
              -h, --help                   Print help (see more with '--help')
        "#);
    }

    #[test]
    fn help_of_check() {
        insta::assert_snapshot!(help(&["check"]), @r#"
            Say, one line each, whether everything is there that `serve` needs

            Usage: outcrop check [OPTIONS]

            Options:
                  --config <FILE>  Configuration [default: /etc/outcrop/config.toml if it exists]
                  --json           Print one JSON object
              -h, --help           Print help (see more with '--help')
        "#);
    }

    #[test]
    fn help_of_release() {
        insta::assert_snapshot!(help(&["release"]), @r#"
            Unmount everything of ours, whether a daemon runs or not

            Usage: outcrop release [OPTIONS]

            Options:
                  --config <FILE>  Configuration, for its `root` [default: /etc/outcrop/config.toml if it
                                   exists]
              -h, --help           Print help (see more with '--help')
        "#);
    }

    #[test]
    fn help_of_config() {
        insta::assert_snapshot!(help(&["config"]), @r#"
            The configuration file

            Usage: outcrop config <COMMAND>

            Commands:
              show  Print the default configuration with all keys and what they mean
              help  Print this message or the help of the given subcommand(s)

            Options:
              -h, --help  Print help
        "#);
    }

    #[test]
    fn help_of_repository() {
        insta::assert_snapshot!(help(&["repository"]), @r#"
            Make and keep the repositories that `publish` writes

            Usage: outcrop repository <COMMAND>

            Commands:
              init      Make an empty repository, with new keys unless there are some [alias: mkfs]
              info      Say what a repository is and holds
              list      Show images, tags or revisions [alias: ls]
              tag       Name a revision, or take a name away
              rollback  Publish an old revision's content as the newest one
              resign    Sign the whitelist and the manifest anew
              remove    Take images out, with the layers that no other image needs [alias: rm]
              gc        Delete what only old revisions name
              check     Compute again whatever can be computed, and say what differs
              help      Print this message or the help of the given subcommand(s)

            Options:
              -h, --help  Print help
        "#);
    }

    #[test]
    fn help_of_repository_init() {
        insta::assert_snapshot!(help(&["repository", "init"]), @r#"
            Make an empty repository, with new keys unless there are some

            Usage: outcrop repository init [OPTIONS] --repository <DIR|URL> <FQRN>

            Arguments:
              <FQRN>  The repository's full name, such as unpacked.example.org

            Options:
                  --repository <DIR|URL>   Where it lies: a directory, or
                                           s3+http(s)://HOST[:PORT]/BUCKET[/PREFIX][?region=NAME&style=virtual]
                  --keys <DIR>             Directory with its keys FQRN.pub, FQRN.crt, FQRN.key and
                                           FQRN.masterkey [default: /etc/cvmfs/keys]
                  --s3-credentials <FILE>  File with CVMFS_S3_ACCESS_KEY= and CVMFS_S3_SECRET_KEY= [default:
                                           AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the
                                           environment]
                  --hash <HASH>            Hash that names content [default: sha1] [possible values: sha1,
                                           rmd160, shake128]
                  --ttl <TIME>             How often clients look for a new revision [default: 4m]
                  --no-gc                  Keep all revisions for ever: `gc` is refused
                  --whitelist-days <DAYS>  How long the whitelist is valid [default: 30]
                  --description <TEXT>     What is in it, for people [default: ""]
                  --administrator <NAME>   Who keeps it, for people [default: ""]
                  --email <ADDRESS>        How to reach them [default: ""]
                  --json                   Print one JSON object
              -h, --help                   Print help (see more with '--help')
        "#);
    }

    #[test]
    fn help_of_repository_gc() {
        insta::assert_snapshot!(help(&["repository", "gc"]), @r#"
            Delete what only old revisions name

            Usage: outcrop repository gc [OPTIONS] --repository <DIR|URL>

            Options:
                  --repository <DIR|URL>   Where it lies: a directory, or
                                           s3+http(s)://HOST[:PORT]/BUCKET[/PREFIX][?region=NAME&style=virtual]
                  --keys <DIR>             Directory with its keys FQRN.pub, FQRN.crt, FQRN.key and
                                           FQRN.masterkey [default: /etc/cvmfs/keys]
                  --s3-credentials <FILE>  File with CVMFS_S3_ACCESS_KEY= and CVMFS_S3_SECRET_KEY= [default:
                                           AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the
                                           environment]
                  --wait <TIME>            Wait so long for another publisher to finish [default: 90s]
                  --grace <TIME>           Keep revisions that were the newest within this time: clients may
                                           still show them [default: 3d]
                  --keep <NUMBER>          Keep so many of the newest revisions whatever their age [default: 1]
                  --dry-run                Only say what would go
                  --metrics-file <FILE>    Write figures for the textfile collector of a node exporter
                  --json                   Print one JSON object
              -h, --help                   Print help
        "#);
    }

    #[test]
    fn help_of_convert() {
        insta::assert_snapshot!(help(&["convert"]), @r#"
            Write an image with layers that can be read piece by piece

            Usage: outcrop convert [OPTIONS] <IMAGE> <TARGET>

            Arguments:
              <IMAGE>   Image: REFERENCE, oci-layout:DIR[:TAG] or docker-archive:FILE[:NAME[:TAG]]
              <TARGET>  Where it goes: REFERENCE (pushed), oci-layout:DIR[:TAG] or oci-archive:FILE[:NAME]

            Options:
                  --format <FORMAT>           Form of the layers [default: estargz] [possible values: estargz,
                                              zstd-chunked]
                  --level <NUMBER>            Of the compression: 1 to 9 for estargz [default: 9], 1 to 22 for
                                              zstd-chunked [default: 3]
                  --chunk-size <SIZE>         Most bytes of a file in one chunk [default: 4MiB]
                  --prioritized <FILE>        File with one path a line: these come first and are prefetched
                  --again                     Convert layers again that are of the wanted form
                  --threads <NUMBER>          Threads that compress [default: one a processor]
                  --scratch <DIR>             Directory for temporary files [default: TMPDIR of the environment,
                                              else /var/tmp]
                  --hosts-directory <DIR>     Directory with containerd's HOST/hosts.toml [default:
                                              /etc/containerd/certs.d]
                  --docker-config <FILE>      User names and passwords, as `docker login` writes them [default:
                                              config.json in DOCKER_CONFIG or ~/.docker]
                  --plain-http <HOST[:PORT]>  Speak to this registry without TLS
                  --json                      Print one JSON object
              -h, --help                      Print help (see more with '--help')
        "#);
    }

    #[test]
    fn two_revisions_are_one_too_many() {
        let parse = |arguments: &[&str]| {
            Cli::try_parse_from([&["outcrop", "mount", "a.b", "/m"], arguments].concat())
        };
        assert!(parse(&["--tag", "v1", "--variable", "A=1", "--variable", "B=2"]).is_ok());
        assert!(parse(&["--tag", "v1", "--date", "2026-01-01"]).is_err());
        assert!(parse(&["--cache-quota", "much"]).is_err());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let parse = |arguments: &[&str]| {
            let head = ["outcrop", "repository"];
            let backend = ["--repository", "/r", "--keys", "/k"];
            Cli::try_parse_from([&head, arguments, &backend].concat()).is_ok()
        };
        for (arguments, accepted) in [
            (&["init", "a.b"][..], true),
            (&["mkfs", "a.b", "--hash", "shake128", "--ttl", "1h"], true),
            (&["init", "a.b", "--hash", "md5"], false),
            (&["init", "a.b", "--whitelist-days", "0"], false),
            (&["resign", "--days", "0"], false),
            (&["resign", "--days", "60"], true),
            (&["resign", "--manifest-only"], true),
            (&["resign", "--days", "60", "--manifest-only"], false),
            (&["tag", "v1", "--of", "v0"], true),
            (&["tag", "v1", "--of", "v0", "--remove"], false),
            (&["rollback"], true),
            (&["remove"], false),
            (&["rm", "a.b/c:1", "a.b/c:2", "--dry-run"], true),
            (&["gc", "--grace", "12h", "--keep", "3"], true),
            (&["gc", "--grace", "12"], false),
            (&["gc", "--metrics-file", "/m", "--dry-run"], false),
            (&["ls", "revisions"], true),
            (&["list", "files"], false),
            (&["check", "--content", "--no-tags", "--json"], true),
        ] {
            assert_eq!(parse(arguments), accepted, "{arguments:?}");
        }
    }
}
