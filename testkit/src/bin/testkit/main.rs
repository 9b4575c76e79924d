//! `testkit`: the outside world as a program, for end-to-end tests and demonstrations of the unmodified product.

// The program's answers are its standard output.
#![allow(clippy::print_stdout, reason = "a command line program")]

mod quantity;
mod serve;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use testkit::{DemoOptions, DuccOptions, Field, Image, RepositoryBuilder, Truth};

#[derive(Parser)]
#[command(about = "Stratum 1, registry, images and truth for tests of Outcrop")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a Stratum 1 and a registry until SIGTERM; prints one line of JSON when ready
    Serve(serve::Options),
    /// Unpack the fixture into DIR/fixture-small
    UnpackFixture { directory: PathBuf },
    /// Print a directory tree as a truth file
    Walk { directory: PathBuf },
    /// Compare a directory with a truth file, or with `fixture` or `fixture-v1`; exit code 1 and words if they differ
    CompareTruth(Compare),
    /// Build the demonstration image into a registry's directory and, if asked, into a repository as DUCC does
    Image(BuildImage),
    /// Write a sandbox image as an OCI archive, for `ctr images import`
    PauseImage {
        output: PathBuf,
        /// Name of the image
        #[arg(long, default_value = "registry.k8s.io/pause:3.10")]
        name: String,
    },
}

#[derive(Args)]
struct Compare {
    directory: PathBuf,
    /// A truth file, or `fixture`, or `fixture-v1`
    truth: PathBuf,
    /// Compare with what the truth has below this path
    #[arg(long)]
    below: Option<String>,
    /// Columns not to look at: nlink,xattrs,…
    #[arg(long, value_delimiter = ',')]
    ignore: Vec<String>,
    /// Paths to leave out on both sides
    #[arg(long)]
    without: Vec<String>,
}

#[derive(Args)]
struct BuildImage {
    /// Directory of the registry
    images: PathBuf,
    #[arg(long, default_value = "library/demo")]
    name: String,
    #[arg(long, default_value = "1.0")]
    tag: String,
    /// More small files, in a layer of their own
    #[arg(long, default_value_t = 0)]
    files: usize,
    /// Bytes of /data/blob
    #[arg(long, default_value_t = 0)]
    blob_bytes: usize,
    /// Also write a repository with the layers into this (new) directory
    #[arg(long)]
    repository: Option<PathBuf>,
    /// Name of that repository
    #[arg(long, default_value = "unpacked.test.local")]
    fqrn: String,
    /// Keep xattrs and hardlinks, which DUCC loses
    #[arg(long)]
    lossless: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve(options) => serve::run(&options)?,
        Command::UnpackFixture { directory } => {
            println!("{}", testkit::unpack_fixture(&directory)?.display());
        }
        Command::Walk { directory } => print!("{}", testkit::walk(&directory)?.to_tsv()),
        Command::CompareTruth(options) => return compare(&options),
        Command::Image(options) => build_image(&options)?,
        Command::PauseImage { output, name } => {
            write(&output, &testkit::pause_image()?.oci_archive(&name)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn compare(options: &Compare) -> Result<ExitCode> {
    let mut expected = match options.truth.to_str() {
        Some("fixture") => testkit::truth(),
        Some("fixture-v1") => testkit::truth_v1(),
        _ => {
            let text = fs::read(&options.truth)
                .with_context(|| format!("cannot read {}", options.truth.display()))?;
            Truth::parse(&text)?
        }
    };
    if let Some(path) = &options.below {
        expected = expected.below(path);
    }
    let ignored: Vec<Field> = options
        .ignore
        .iter()
        .map(|name| field(name))
        .collect::<Result<_>>()?;
    let keep = |path: &str, _: &testkit::Row| !options.without.iter().any(|one| one == path);
    let found = testkit::walk(&options.directory)?.filtered(keep);
    match expected.filtered(keep).compare(&found, &ignored) {
        Ok(()) => {
            println!("{} paths as they should be", found.rows.len());
            Ok(ExitCode::SUCCESS)
        }
        Err(difference) => {
            println!("{difference}");
            Ok(ExitCode::from(1))
        }
    }
}

fn field(name: &str) -> Result<Field> {
    let known = Field::ALL.into_iter().find(|field| field.name() == name);
    known.with_context(|| {
        format!(
            "no column {name:?}; there are {}",
            Field::ALL.map(Field::name).join(", ")
        )
    })
}

fn build_image(options: &BuildImage) -> Result<()> {
    let image = testkit::demo_image(DemoOptions {
        files: options.files,
        blob_bytes: options.blob_bytes,
    })?;
    image.write_to(&options.images, &options.name, &options.tag)?;
    if let Some(repository) = &options.repository {
        write_repository(repository, &image, options)?;
    }
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| [&layer.digest, &layer.diff_id])
        .collect();
    println!(
        "{}",
        serde_json::json!({"digest": image.digest, "layers": layers})
    );
    Ok(())
}

fn write_repository(directory: &Path, image: &Image, options: &BuildImage) -> Result<()> {
    let mut builder = RepositoryBuilder::new(directory, &options.fqrn);
    let how = DuccOptions {
        keep_xattrs: options.lossless,
        keep_hardlinks: options.lossless,
        ..DuccOptions::default()
    };
    for layer in &image.layers {
        builder.add_layer(layer, &how)?;
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    builder.publish(i64::try_from(now)?)?;
    Ok(())
}
