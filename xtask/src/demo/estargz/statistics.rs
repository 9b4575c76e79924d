//! Medians, and what ratios of medians are worth.

use serde::Serialize;

/// Resamples of an interval: its ends are then steady to well below a percent.
const RESAMPLES: usize = 10_000;

/// Ratio of two medians with its 95 % interval, by bootstrap over pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ratio {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Median; the mean of the middle two of an even number. None of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    match sorted.len() % 2 {
        0 => Some(f64::midpoint(sorted[middle - 1], upper)),
        _ => Some(upper),
    }
}

/// Median of the first of each pair by that of the second. None without pairs, and where the second's is 0.
pub(super) fn ratio(pairs: &[[f64; 2]]) -> Option<Ratio> {
    let value = of_medians(pairs)?;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let drawn: Vec<[f64; 2]> = pairs
                .iter()
                .map(|_| pairs[random.below(pairs.len())])
                .collect();
            of_medians(&drawn)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * (ratios.len() - 1) as f64).round();
        ratios.get(index as usize).copied()
    };
    Some(Ratio {
        value,
        low: at(0.025)?,
        high: at(0.975)?,
    })
}

fn of_medians(pairs: &[[f64; 2]]) -> Option<f64> {
    let side = |index: usize| {
        let values: Vec<f64> = pairs.iter().map(|pair| pair[index]).collect();
        median(&values)
    };
    let (ours, peer) = (side(0)?, side(1)?);
    (peer != 0.0).then(|| ours / peer)
}

/// xorshift64: the same figures give the same interval.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 100.0]), Some(3.5));
    }

    #[test]
    fn equal_pairs_leave_no_doubt() {
        let ratio = ratio(&[[1.0, 2.0]; 5]).unwrap();
        assert_eq!((ratio.value, ratio.low, ratio.high), (0.5, 0.5, 0.5));
    }

    #[test]
    fn an_interval_holds_its_value_and_grows_with_the_spread() {
        let narrow = ratio(&[
            [1.0, 2.0],
            [1.01, 2.0],
            [0.99, 2.0],
            [1.02, 2.0],
            [0.98, 2.0],
        ]);
        let wide = ratio(&[[1.0, 2.0], [1.5, 2.0], [0.5, 2.0], [1.8, 2.0], [0.2, 2.0]]);
        let (narrow, wide) = (narrow.unwrap(), wide.unwrap());
        assert_eq!((narrow.value, wide.value), (0.5, 0.5));
        assert!(narrow.low <= 0.5 && 0.5 <= narrow.high);
        assert!(narrow.high - narrow.low < wide.high - wide.low);
        // Ends are figures that occur.
        assert!(wide.low >= 0.1 && wide.high <= 0.9, "{wide:?}");
    }

    #[test]
    fn it_is_the_ratio_of_medians() {
        let ratio = ratio(&[[2.0, 1.0], [3.0, 3.0], [9.0, 3.0]]).unwrap();
        assert_eq!(ratio.value, 1.0);
    }

    #[test]
    fn nothing_by_nothing_is_no_ratio() {
        assert_eq!(ratio(&[]), None);
        assert_eq!(ratio(&[[0.0, 0.0]; 5]), None);
        assert_eq!(ratio(&[[0.0, 7.0]; 5]).unwrap().high, 0.0);
    }

    #[test]
    fn the_same_figures_give_the_same_interval() {
        let pairs = [[1.0, 2.0], [1.5, 2.1], [0.5, 1.7], [1.8, 2.0], [0.2, 1.9]];
        assert_eq!(ratio(&pairs), ratio(&pairs));
    }
}
