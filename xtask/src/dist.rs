//! Man pages and shell completions from the command line's own description.

use anyhow::Result;

/// Writes them to `target/dist`.
#[cfg(feature = "dist")]
pub(crate) fn run() -> Result<()> {
    use clap_complete::Shell;

    let folder = e2e::workspace().join("target/dist");
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    std::fs::create_dir_all(&man)?;
    std::fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(outcrop::cli::command(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut outcrop::cli::command(), "outcrop", &completions)?;
    }
    println!("{}", folder.display());
    Ok(())
}

/// Builds this program once more, with the product in it.
#[cfg(not(feature = "dist"))]
pub(crate) fn run() -> Result<()> {
    crate::commands::run(crate::cargo::cargo().args([
        "run",
        "--quiet",
        "-p",
        "xtask",
        "--features",
        "dist",
        "--",
        "dist",
    ]))
}
