//! Figures in the text format that a node exporter's textfile collector reads.

use crate::error::{Error, Kind};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// One figure of one repository.
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// What it means, one line.
    pub help: &'static str,
    /// Its value.
    pub value: f64,
}

/// The file's text: all are gauges, because each run begins anew.
pub fn text(fqrn: &str, figures: &[Figure]) -> String {
    let mut text = String::new();
    for Figure { name, help, value } in figures {
        // Writing to a String cannot fail. Names of repositories hold nothing that must be escaped.
        let _ = writeln!(text, "# HELP {name} {help}");
        let _ = writeln!(text, "# TYPE {name} gauge");
        let _ = writeln!(text, "{name}{{repository=\"{fqrn}\"}} {value}");
    }
    text
}

/// Writes the file as a whole: the collector may read at any moment.
///
/// # Errors
/// It cannot be written.
pub fn write(file: &Path, text: &str) -> Result<(), Error> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // The collector reads *.prom only.
    let temporary = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let attempt = || {
        let mut output = std::fs::File::create(&temporary)?;
        output.write_all(text.as_bytes())?;
        output.sync_all()?;
        std::fs::rename(&temporary, file)
    };
    attempt().map_err(|error| {
        // What could not be made need not be removed.
        let _ = std::fs::remove_file(&temporary);
        let message = format!("cannot write the figures to {}", file.display());
        Error::new(Kind::Unavailable, message)
            .because(error)
            .hint("everything else is done; only the figures are missing")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_help_and_type() {
        let figures = [Figure {
            name: "outcrop_gc_removed_bytes",
            help: "Bytes.",
            value: 1024.0,
        }];
        insta::assert_snapshot!(text("a.example.org", &figures), @r#"
        # HELP outcrop_gc_removed_bytes Bytes.
        # TYPE outcrop_gc_removed_bytes gauge
        outcrop_gc_removed_bytes{repository="a.example.org"} 1024
        "#);
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("outcrop.prom");
        for content in ["one\n", "two\n"] {
            write(&file, content).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let error = write(&directory.path().join("no/such.prom"), "x").unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
    }
}
