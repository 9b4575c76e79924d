//! Times of a TOC: RFC 3339. Small enough to need no calendar library, and strict.

const SECONDS_A_DAY: i64 = 86_400;

/// Seconds since 1970 and nanoseconds.
pub(crate) fn parse(text: &str) -> Option<(i64, u32)> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 20 {
        return None;
    }
    let separators = bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't')
        && bytes[13] == b':'
        && bytes[16] == b':';
    let field = |range: std::ops::Range<usize>, least: i64, most: i64| {
        number(text.get(range)?).filter(|value| (least..=most).contains(value))
    };
    if !separators {
        return None;
    }
    let days = days_since_1970(
        field(0..4, 0, 9999)?,
        field(5..7, 1, 12)?,
        field(8..10, 1, 31)?,
    )?;
    // A leap second is the next second.
    let clock = field(11..13, 0, 23)? * 3600 + field(14..16, 0, 59)? * 60 + field(17..19, 0, 60)?;
    let (nanos, zone) = fraction(text.get(19..)?)?;
    Some((days * SECONDS_A_DAY + clock - offset(zone)?, nanos))
}

fn number(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// The nanoseconds, and what follows them.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let value: u32 = rest.get(..digits)?.parse().ok()?;
    let nanos = value * 10u32.pow(9 - u32::try_from(digits).ok()?);
    Some((nanos, rest.get(digits..)?))
}

/// How far the zone is before UTC, in seconds.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    if zone.len() != 6 || zone.as_bytes()[3] != b':' {
        return None;
    }
    let hours = number(zone.get(1..3)?).filter(|hours| *hours < 24)?;
    let minutes = number(zone.get(4..6)?).filter(|minutes| *minutes < 60)?;
    let seconds = hours * 3600 + minutes * 60;
    match zone.as_bytes()[0] {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// UTC text, with a fraction only where there is one; `None` for years that four digits cannot hold.
pub(crate) fn format(seconds: i64, nanos: u32) -> Option<String> {
    let (year, month, day) = date(seconds.div_euclid(SECONDS_A_DAY));
    if !(0..=9999).contains(&year) {
        return None;
    }
    let clock = seconds.rem_euclid(SECONDS_A_DAY);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos > 0 {
        text.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    text.push('Z');
    Some(text)
}

/// Days of the proleptic Gregorian calendar, counted in years that begin in March (Howard Hinnant, "chrono-compatible
/// low-level date algorithms"). `None` for a day that the month does not have.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let shifted = if month > 2 { year } else { year - 1 };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (date(days) == (year, month, day)).then_some(days)
}

fn date(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2023-11-14T22:13:20Z", 1_700_000_000, 0),
            ("2023-11-14T22:13:20.5Z", 1_700_000_000, 500_000_000),
            ("2023-11-15T00:13:20+02:00", 1_700_000_000, 0),
            ("2023-11-14T16:43:20.000000001-05:30", 1_700_000_000, 1),
            ("2000-02-29T12:00:00z", 951_825_600, 0),
            ("1969-12-31T23:59:59Z", -1, 0),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
        ] {
            assert_eq!(parse(text), Some((seconds, nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "Z",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14 22:13:20Z",
            "2023-13-14T22:13:20Z",
            "2023-02-30T22:13:20Z",
            "2100-02-29T00:00:00Z",
            "2023-11-14T24:13:20Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20.0000000001Z",
            "2023-11-14T22:13:20+0200",
            "2023-11-14T22:13:20+24:00",
            "+023-11-14T22:13:20Z",
            "2023-11-14T22:13:2éZ",
            "10000-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(format(253_402_300_800, 0), None);
        assert_eq!(format(i64::MIN, 0), None);
        assert_eq!(format(i64::MAX, 0), None);
    }

    proptest! {
        #[test]
        fn times_come_back(seconds in -62_167_219_200i64..253_402_300_800, nanos in 0u32..1_000_000_000) {
            let text = format(seconds, nanos).unwrap();
            prop_assert_eq!(parse(&text), Some((seconds, nanos)), "{}", text);
        }
    }
}
