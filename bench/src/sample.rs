//! Paired figures: median, and the spread of the ratio.

use serde::Serialize;

/// Figures of one piece of work in one state, over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// Name of the work.
    pub work: &'static str,
    /// `cold`, `warm` or `hot`.
    pub state: &'static str,
    /// Seconds with Outcrop: median.
    pub seconds: f64,
    /// Seconds on the local disk: median.
    pub local_seconds: f64,
    /// Median of the rounds' ratios.
    pub ratio: f64,
    /// Lowest and highest ratio.
    pub ratio_range: [f64; 2],
    /// Medians of what the process used; cold and warm only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Every round: seconds with Outcrop, seconds on the local disk.
    pub rounds: Vec<[f64; 2]>,
}

/// What the measured process used.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Process {
    pub cpu_seconds: f64,
    pub peak_memory_bytes: u64,
    pub requests: u64,
    pub received_bytes: u64,
}

impl Comparison {
    pub(crate) fn of(
        work: &'static str,
        state: &'static str,
        rounds: Vec<[f64; 2]>,
        process: Option<Process>,
    ) -> Self {
        let mut ratios: Vec<f64> = rounds.iter().map(|[ours, local]| ours / local).collect();
        let ratio = median(&mut ratios);
        Self {
            work,
            state,
            seconds: median(&mut rounds.iter().map(|round| round[0]).collect::<Vec<_>>()),
            local_seconds: median(&mut rounds.iter().map(|round| round[1]).collect::<Vec<_>>()),
            ratio,
            ratio_range: [ratios[0], ratios[ratios.len() - 1]],
            process,
            rounds,
        }
    }
}

/// Median; sorts its argument, which must not be empty.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The round whose CPU time is the median one.
pub(crate) fn median_process(mut processes: Vec<Process>) -> Option<Process> {
    processes.sort_by(|a, b| a.cpu_seconds.total_cmp(&b.cpu_seconds));
    processes.get(processes.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_pairs_and_not_of_medians() {
        let compared = Comparison::of(
            "find",
            "cold",
            vec![[2.0, 1.0], [3.0, 3.0], [9.0, 3.0]],
            None,
        );
        assert_eq!((compared.seconds, compared.local_seconds), (3.0, 3.0));
        assert_eq!(compared.ratio, 2.0);
        assert_eq!(compared.ratio_range, [1.0, 3.0]);
    }
}
