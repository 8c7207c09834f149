//! Points in time, and where they come from.

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u32 = 1_000_000_000;

/// A point in time: seconds since 1970-01-01 UTC (negative before it) and the nanoseconds above them.
///
/// Unlike a calendar type it holds whatever a file system may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds above `secs`, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// Builds a time; `None` where `nanos` is a second or more.
    pub fn new(secs: i64, nanos: u32) -> Option<Self> {
        (nanos < NANOS_PER_SEC).then_some(Self { secs, nanos })
    }

    /// Returns the calendar time, clamped to the years -9999 to 9999.
    pub fn to_jiff(self) -> jiff::Timestamp {
        // a value out of range is one that no calendar has: show the nearest one
        jiff::Timestamp::new(self.secs, self.nanos as i32).unwrap_or(if self.secs < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }

    /// Returns the number of whole seconds from `earlier` to `self`, negative where it is later.
    pub fn seconds_since(self, earlier: Self) -> i64 {
        self.secs.saturating_sub(earlier.secs)
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        let (secs, nanos) = (time.as_second(), time.subsec_nanosecond());
        // jiff's parts have one sign; ours round down
        if nanos < 0 {
            Self { secs: secs - 1, nanos: (nanos + NANOS_PER_SEC as i32) as u32 }
        } else {
            Self { secs, nanos: nanos as u32 }
        }
    }
}

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_jiff().fmt(f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time: jiff::Timestamp = String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)?;
        Ok(time.into())
    }
}

/// Where time comes from.
///
/// Nothing that keeps data safe may depend on it: wall clocks jump.
pub trait Clock: Send + Sync {
    /// Returns the wall-clock time.
    fn now(&self) -> Timestamp;

    /// Returns nanoseconds of a clock that never goes back, from an arbitrary start.
    fn monotonic_ns(&self) -> u64;

    /// Lets so much time pass.
    fn sleep(&self, time: std::time::Duration);
}

/// Where randomness comes from.
pub trait Random: Send + Sync {
    /// Fills a buffer with bytes that nobody can guess.
    ///
    /// # Errors
    /// The system has no randomness to give.
    fn fill(&self, buffer: &mut [u8]) -> std::io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_round_down() {
        let time = Timestamp::from("1969-12-31T23:59:58.5Z".parse::<jiff::Timestamp>().unwrap());
        assert_eq!(time, Timestamp { secs: -2, nanos: 500_000_000 });
        assert_eq!(time.to_string(), "1969-12-31T23:59:58.5Z");
    }

    #[test]
    fn times_that_no_calendar_has_are_shown_as_the_nearest() {
        assert!(Timestamp { secs: i64::MAX, nanos: 0 }.to_string().starts_with("9999-"));
        assert!(Timestamp { secs: i64::MIN, nanos: 0 }.to_string().starts_with("-009999-"));
    }

    #[test]
    fn seconds_between_two_times_have_a_sign_and_never_overflow() {
        let at = |secs| Timestamp { secs, nanos: 0 };
        assert_eq!(at(100).seconds_since(at(40)), 60);
        assert_eq!(at(40).seconds_since(at(100)), -60);
        assert_eq!(at(i64::MAX).seconds_since(at(-1)), i64::MAX);
    }
}
