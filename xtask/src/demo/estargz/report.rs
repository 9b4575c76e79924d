//! `target/bench-estargz.json`, and the table.

use std::fmt::Write;

use serde::Serialize;

use super::daemon::Mode;
use super::statistics::{median, ratio};

/// The file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// As the peer's program says it; null if there was none.
    pub(super) peer_version: Option<String>,
    pub(super) runs: Vec<Run>,
}

/// Before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Snapshotter and containerd have nothing.
    Cold,
    /// The image has run; the snapshotter has been started again with its cache.
    Warm,
}

impl State {
    const ALL: [Self; 2] = [Self::Cold, Self::Warm];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) image: String,
    pub(super) mode: Mode,
    pub(super) state: State,
    /// From the pull's begin to the job's first line.
    pub(super) startup_seconds: f64,
    /// From there to its last line.
    pub(super) job_seconds: f64,
    pub(super) total_seconds: f64,
    /// All that the registry has sent.
    pub(super) received_bytes: u64,
    /// Of the snapshotter's process since its start.
    pub(super) cpu_seconds: f64,
    /// Likewise: the most it had resident.
    pub(super) memory_peak_bytes: u64,
}

type Figure = (&'static str, fn(&Run) -> f64);

const FIGURES: [Figure; 6] = [
    ("start s", |run| run.startup_seconds),
    ("job s", |run| run.job_seconds),
    ("total s", |run| run.total_seconds),
    ("received MB", |run| run.received_bytes as f64 / 1e6),
    ("CPU s", |run| run.cpu_seconds),
    ("memory MB", |run| run.memory_peak_bytes as f64 / 1e6),
];

/// Medians and ratios, and what was fetched after a restart.
pub(super) fn text(runs: &[Run]) -> String {
    let mut text = String::new();
    let mut images: Vec<&str> = runs.iter().map(|run| run.image.as_str()).collect();
    images.dedup();
    let _ = writeln!(
        text,
        "{:34}  {:5}  {:12}  {:>9}  {:>9}  ratio (95 % interval)",
        "image", "state", "median of", "ours", "peer"
    );
    for image in &images {
        for state in State::ALL {
            let runs: Vec<&Run> = runs
                .iter()
                .filter(|run| run.image == **image && run.state == state)
                .collect();
            for (name, figure) in FIGURES {
                line(&mut text, (image, state, name), figure, &runs);
            }
        }
    }
    for mode in Mode::ALL {
        let warm = runs
            .iter()
            .filter(|run| run.mode == mode && run.state == State::Warm);
        let bytes: Vec<u64> = warm.map(|run| run.received_bytes).collect();
        if let Some(most) = bytes.iter().max() {
            let said = match most {
                0 => "fetched nothing".to_owned(),
                most => format!("fetched up to {most} bytes"),
            };
            let _ = writeln!(text, "{mode}: warm runs {said}");
        }
    }
    text
}

fn line(
    text: &mut String,
    (image, state, name): (&str, State, &str),
    figure: fn(&Run) -> f64,
    runs: &[&Run],
) {
    let of = |mode: Mode| -> Vec<f64> {
        let ours = runs.iter().filter(|run| run.mode == mode);
        ours.map(|run| figure(run)).collect()
    };
    let (ours, peer) = (of(Mode::RegistryLazy), of(Mode::StargzSnapshotter));
    // A pair is what was measured one after the other.
    let pairs: Vec<[f64; 2]> = ours
        .iter()
        .zip(&peer)
        .map(|(&ours, &peer)| [ours, peer])
        .collect();
    let shown = |values: &[f64]| match median(values) {
        Some(value) => format!("{value:.2}"),
        None => "–".to_owned(),
    };
    let ratio = match ratio(&pairs) {
        Some(ratio) => format!("{:.3} ({:.3} to {:.3})", ratio.value, ratio.low, ratio.high),
        None => "–".to_owned(),
    };
    let _ = writeln!(
        text,
        "{image:34}  {:5}  {name:12}  {:>9}  {:>9}  {ratio}",
        state.name(),
        shown(&ours),
        shown(&peer),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: Mode, state: State, startup_seconds: f64, received_bytes: u64) -> Run {
        Run {
            image: "one:1".to_owned(),
            mode,
            state,
            startup_seconds,
            job_seconds: 2.0,
            total_seconds: startup_seconds + 2.0,
            received_bytes,
            cpu_seconds: 0.25,
            memory_peak_bytes: 1_000_000,
        }
    }

    #[test]
    fn the_file_has_the_promised_keys() {
        let report = Report {
            peer_version: Some("stargz 1".to_owned()),
            runs: vec![
                run(Mode::RegistryLazy, State::Cold, 1.5, 7),
                run(Mode::StargzSnapshotter, State::Warm, 0.5, 0),
            ],
        };
        let one = |start: &str, total: &str, bytes: u32| {
            format!(
                r#""startup_seconds":{start},"job_seconds":2.0,"total_seconds":{total},"received_bytes":{bytes},"#
            ) + r#""cpu_seconds":0.25,"memory_peak_bytes":1000000}"#
        };
        let expected = r#"{"peer_version":"stargz 1","runs":["#.to_owned()
            + r#"{"image":"one:1","mode":"registry-lazy","state":"cold","#
            + &one("1.5", "3.5", 7)
            + r#",{"image":"one:1","mode":"stargz-snapshotter","state":"warm","#
            + &one("0.5", "2.5", 0)
            + "]}";
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
    }

    #[test]
    fn a_file_without_peer_says_so() {
        let report = Report {
            peer_version: None,
            runs: Vec::new(),
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(text, r#"{"peer_version":null,"runs":[]}"#);
    }

    #[test]
    fn the_table_has_medians_and_ratios() {
        let mut runs = Vec::new();
        for (ours, peer) in [(1.0, 2.0), (1.1, 2.0), (0.9, 2.0)] {
            runs.push(run(Mode::RegistryLazy, State::Cold, ours, 10_000_000));
            runs.push(run(Mode::RegistryLazy, State::Warm, ours, 0));
            runs.push(run(Mode::StargzSnapshotter, State::Cold, peer, 40_000_000));
            runs.push(run(Mode::StargzSnapshotter, State::Warm, peer, 4096));
        }
        let text = text(&runs);
        let words = |start: [&str; 4]| -> Vec<String> {
            let lines = text.lines().map(|line| line.split_whitespace());
            let mut lines = lines.map(|words| words.map(str::to_owned).collect::<Vec<_>>());
            lines
                .find(|words| words.starts_with(&start.map(str::to_owned)))
                .unwrap()
        };
        let start = words(["one:1", "cold", "start", "s"]);
        assert_eq!(start[4..7], ["1.00", "2.00", "0.500"]);
        let received = words(["one:1", "cold", "received", "MB"]);
        assert_eq!(received[4..7], ["10.00", "40.00", "0.250"]);
        assert!(
            text.contains("registry-lazy: warm runs fetched nothing"),
            "{text}"
        );
        assert!(
            text.contains("stargz-snapshotter: warm runs fetched up to 4096 bytes"),
            "{text}"
        );
    }

    #[test]
    fn one_side_alone_has_no_ratio() {
        let text = text(&[run(Mode::RegistryLazy, State::Cold, 1.0, 1)]);
        let line = text.lines().find(|line| line.contains("start s")).unwrap();
        assert!(line.ends_with("–"), "{line}");
        assert!(!text.contains("stargz-snapshotter"), "{text}");
    }
}
