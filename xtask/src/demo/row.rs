//! What one pull and run took, and the table of all.

use std::fmt::Write;

use serde::Serialize;

use super::mode::{Client, Mode};

/// An entry of `target/demo.json` (docs/demo.md).
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) mode: Mode,
    pub(super) client: Client,
    pub(super) image: String,
    /// Compressed layers, as a full pull fetches them.
    pub(super) image_bytes: u64,
    /// Once for the repository, before any pull; 0 where nothing of it is used.
    pub(super) publish_seconds: f64,
    pub(super) pull_seconds: f64,
    pub(super) create_seconds: f64,
    /// From the pull's start.
    pub(super) pull_to_first_output_seconds: f64,
    /// From the first line of the job's output to its last.
    pub(super) job_seconds: f64,
    /// What the job has computed: the same in every row.
    pub(super) result_digest: String,
    pub(super) layer_bytes_from_registry: u64,
    pub(super) bytes_from_cvmfs: u64,
    /// By both servers' count.
    pub(super) received_bytes: u64,
    pub(super) cpu_seconds: f64,
    pub(super) memory_peak_bytes: u64,
    pub(super) cache_bytes: u64,
    pub(super) storage_bytes: u64,
}

const HEAD: [&str; 12] = [
    "mode",
    "client",
    "publish s",
    "pull s",
    "start s",
    "job s",
    "total s",
    "received MB",
    "CPU s",
    "memory MB",
    "cache MB",
    "storage MB",
];

impl Row {
    fn cells(&self) -> [String; 12] {
        let seconds = |value: f64| format!("{value:.2}");
        let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        [
            self.mode.to_string(),
            self.client.to_string(),
            seconds(self.publish_seconds),
            seconds(self.pull_seconds),
            seconds(self.pull_to_first_output_seconds),
            seconds(self.job_seconds),
            seconds(self.pull_to_first_output_seconds + self.job_seconds),
            megabytes(self.received_bytes),
            seconds(self.cpu_seconds),
            megabytes(self.memory_peak_bytes),
            megabytes(self.cache_bytes),
            megabytes(self.storage_bytes),
        ]
    }
}

/// The rows as text; also what README shows.
pub(super) fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].len())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            // Names to the left, figures to the right.
            let _ = match column {
                0 => write!(text, "{cell:width$}"),
                1 => write!(text, "  {cell:width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            mode: Mode::Cvmfs,
            client: Client::Ctr,
            image: "one".to_owned(),
            image_bytes: 1,
            publish_seconds: 17.5,
            pull_seconds: 0.5,
            create_seconds: 0.25,
            pull_to_first_output_seconds: 1.0,
            job_seconds: 8.0,
            result_digest: "abc".to_owned(),
            layer_bytes_from_registry: 0,
            bytes_from_cvmfs: 2,
            received_bytes: 3,
            cpu_seconds: 4.0,
            memory_peak_bytes: 1_250_000,
            cache_bytes: 6,
            storage_bytes: 7_000_000_000,
        }
    }

    #[test]
    fn the_file_has_the_promised_keys() {
        assert_eq!(
            serde_json::to_string(&row()).unwrap(),
            r#"{"mode":"cvmfs","client":"ctr","image":"one","image_bytes":1,"publish_seconds":17.5,"#.to_owned()
                + r#""pull_seconds":0.5,"create_seconds":0.25,"pull_to_first_output_seconds":1.0,"#
                + r#""job_seconds":8.0,"result_digest":"abc","layer_bytes_from_registry":0,"bytes_from_cvmfs":2,"#
                + r#""received_bytes":3,"cpu_seconds":4.0,"memory_peak_bytes":1250000,"cache_bytes":6,"#
                + r#""storage_bytes":7000000000}"#
        );
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let text = table(&[row()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), lines[1].len());
        let cells: Vec<&str> = lines[1].split_whitespace().collect();
        let expected = [
            "cvmfs", "ctr", "17.50", "0.50", "1.00", "8.00", "9.00", "0.0", "4.00", "1.2", "0.0",
            "7000.0",
        ];
        assert_eq!(cells, expected);
    }
}
