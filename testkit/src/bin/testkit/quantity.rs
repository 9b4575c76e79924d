use std::time::Duration;

use anyhow::{Context as _, Result};

/// `20ms`, `1.5s`, `300us`
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = split(text)?;
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => anyhow::bail!("unknown unit in {text:?}: s, ms or us"),
    };
    Ok(Duration::from_secs_f64(number * scale))
}

/// `1Gbit`, `100Mbit`, `5MB`: bytes a second.
pub(crate) fn bandwidth(text: &str) -> Result<u64> {
    let (number, unit) = split(text)?;
    let scale = match unit {
        "Gbit" => 1e9 / 8.0,
        "Mbit" => 1e6 / 8.0,
        "kbit" => 1e3 / 8.0,
        "GB" => 1e9,
        "MB" => 1e6,
        "kB" => 1e3,
        "B" => 1.0,
        _ => anyhow::bail!("unknown unit in {text:?}: Gbit, Mbit, kbit, GB, MB, kB or B"),
    };
    Ok((number * scale) as u64)
}

fn split(text: &str) -> Result<(f64, &str)> {
    let end = text
        .find(|letter: char| letter.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number
        .trim()
        .parse()
        .with_context(|| format!("no number in {text:?}"))?;
    anyhow::ensure!((0.0..1e12).contains(&number), "{text:?} is out of range");
    Ok((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        assert_eq!(duration("20ms").unwrap(), Duration::from_millis(20));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(bandwidth("1Gbit").unwrap(), 125_000_000);
        assert_eq!(bandwidth("5MB").unwrap(), 5_000_000);
        for text in ["", "5", "ms", "-1s", "5h", "nans"] {
            assert!(
                duration(text).is_err() && bandwidth(text).is_err(),
                "{text:?}"
            );
        }
    }
}
