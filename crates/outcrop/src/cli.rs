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
    #[command(subcommand)]
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
              serve    Serve containerd's snapshots over a socket until SIGTERM
              mount    Mount a whole CVMFS repository, in the foreground
              check    Say, one line each, whether everything is there that `serve` needs
              release  Unmount everything of ours, whether a daemon runs or not
              config   The configuration file
              version  Print the version
              help     Print this message or the help of the given subcommand(s)

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
    fn two_revisions_are_one_too_many() {
        let parse = |arguments: &[&str]| {
            Cli::try_parse_from([&["outcrop", "mount", "a.b", "/m"], arguments].concat())
        };
        assert!(parse(&["--tag", "v1", "--variable", "A=1", "--variable", "B=2"]).is_ok());
        assert!(parse(&["--tag", "v1", "--date", "2026-01-01"]).is_err());
        assert!(parse(&["--cache-quota", "much"]).is_err());
    }
}
