//! Sizes, rates, shares and budgets as people write them.
//!
//! `K`, `KiB`, `M`, `MiB`, `G`, `GiB`, `T`, `TiB` count in 1024s, `kB`, `MB`, `GB`, `TB` in 1000s; a bare number counts
//! bytes.

use std::time::Duration;

/// Splits `1.5GiB` into `1.5` and `GiB`.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    Some((number, unit.trim()))
}

/// Reads a size in bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let failed = || format!("expected a size such as 512KiB, 50MB or 20GiB, found `{text}`");
    let (number, unit) = split(text.trim()).ok_or_else(failed)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(failed()),
    };
    let bytes = number * factor as f64;
    // whole numbers of bytes are exact in a float up to 2^53, which is 8 PiB
    if bytes > (1u64 << 53) as f64 { Err(failed()) } else { Ok(bytes as u64) }
}

/// Reads a rate in bytes a second, of which there must be some.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text.trim().trim_end_matches("/s")) {
        Ok(rate) if rate > 0 => Ok(rate),
        _ => Err(format!("expected bytes a second, such as 50MiB, found `{text}`")),
    }
}

/// Reads a share such as `5%`, as a number above 0 and at most 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("expected a share such as 5%, above 0% and up to 100%, found `{text}`")),
    }
}

/// What a verification may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Budget {
    /// Time.
    Time(Duration),
    /// Bytes.
    Bytes(u64),
}

/// Reads a budget: a time such as `10m` or a size such as `20GiB`. Sizes must end in `B`, or `10M` could be either.
pub(crate) fn parse_budget(text: &str) -> Result<Budget, String> {
    let failed = || format!("expected a time such as 90s, 10m or 2h, or a size such as 20GiB, found `{text}`");
    let (number, unit) = split(text.trim()).ok_or_else(failed)?;
    let seconds = match unit {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ if unit.ends_with(['b', 'B']) => return parse_size(text).map(Budget::Bytes).map_err(|_| failed()),
        _ => return Err(failed()),
    };
    Duration::try_from_secs_f64(number * seconds).map(Budget::Time).map_err(|_| failed())
}

/// Reads a length of time such as `90s`, `10m` or `2h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_budget(text) {
        // no time is the same in every unit
        _ if text == "0" => Ok(Duration::ZERO),
        Ok(Budget::Time(time)) => Ok(time),
        _ => Err(format!("expected a time such as 90s, 10m or 2h, found `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024_or_1000() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("1K", 1024),
            ("1KiB", 1024),
            ("1kB", 1000),
            ("256MiB", 256 << 20),
            ("256 MiB", 256 << 20),
            ("1.5g", 3 << 29),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1X", "1..2", "99999999T", "1e3", "5%"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_never_zero() {
        assert_eq!(parse_rate("50MiB/s"), Ok(50 << 20));
        assert_eq!(parse_rate("1000"), Ok(1000));
        assert!(parse_rate("0").is_err());
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert_eq!(parse_share("100 %"), Ok(1.0));
        for text in ["5", "0%", "101%", "%", "NaN%", "0.05"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn budgets_are_times_or_sizes_and_never_in_doubt() {
        assert_eq!(parse_budget("10m"), Ok(Budget::Time(Duration::from_secs(600))));
        assert_eq!(parse_budget("1.5h"), Ok(Budget::Time(Duration::from_secs(5400))));
        assert_eq!(parse_budget("20GiB"), Ok(Budget::Bytes(20 << 30)));
        assert_eq!(parse_budget("20GB"), Ok(Budget::Bytes(20_000_000_000)));
        for text in ["10M", "10", "m", "10x", ""] {
            assert!(parse_budget(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("10").is_err() && parse_duration("20GiB").is_err());
    }
}
