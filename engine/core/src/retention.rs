//! Retention: which snapshots a policy keeps, and why. Pure: times, tags and a time zone go in, decisions come out.
//!
//! What users of restic know holds here too:
//! * the newest snapshot of an hour, day, week, month, quarter or year stands for it, and a count goes over those that have
//!   a snapshot, so nights without a backup cost nothing;
//! * one snapshot may be kept by several rules and counts for each;
//! * where a rule finds fewer hours, days, ... than it may keep, it keeps the oldest snapshot too, so that the history
//!   grows as long as there is room for it;
//! * "within" is counted back from the newest snapshot, not from the clock: a host that makes no more backups loses none.
//!
//! Clocks are wrong at times. The clock is asked for one thing only: a snapshot that lies in the future is not what
//! "within" is counted from. And a snapshot that is partial or lies in the future has its place in the counts like every
//! other, but does not push out the newest one that is complete or past: that one is kept as well.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Zoned};

use crate::record::snapshot::SnapshotOrder;
use crate::time::Timestamp;

/// How many a rule keeps. The default is none: the rule is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many of the newest.
    AtMost(u32),
    /// All of them.
    All,
}

impl Default for Count {
    fn default() -> Self {
        Self::AtMost(0)
    }
}

impl Count {
    /// Tells whether there is room for one more beside so many.
    fn has_room(self, used: usize) -> bool {
        match self {
            Self::All => true,
            Self::AtMost(most) => used < most as usize,
        }
    }

    fn is_none(self) -> bool {
        self == Self::AtMost(0)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "{most}"),
            Self::All => f.write_str("all"),
        }
    }
}

/// Why a text is not what a rule needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRuleError {
    /// It is not how many are to be kept.
    #[error("expected a number, or `all`, found `{text}`")]
    Count {
        /// What was given.
        text: String,
    },
    /// It is not a length of time.
    #[error("expected years, months, weeks, days and hours, such as `30d` or `2y5m7d3h`, found `{text}`")]
    Within {
        /// What was given.
        text: String,
    },
}

impl FromStr for Count {
    type Err = ParseRuleError;

    /// Reads a number, or `all` (restic's `unlimited` is understood too).
    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        match text {
            "all" | "unlimited" => Ok(Self::All),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map(Self::AtMost).map_err(|_| ParseRuleError::Count { text: text.into() })
            }
            _ => Err(ParseRuleError::Count { text: text.into() }),
        }
    }
}

/// A stretch of the calendar of which one snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// An hour, by local time. One that comes twice, as summer time ends, is two.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on (ISO 8601).
    Week,
    /// A month.
    Month,
    /// A quarter of a year.
    Quarter,
    /// A year.
    Year,
}

impl Period {
    /// Returns the name of the rule that keeps one of each.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Quarter => "quarterly",
            Self::Year => "yearly",
        }
    }

    /// Returns the name of the hour, day, ... that a moment belongs to. Each has one name, and no two share one.
    fn name_at(self, time: &Zoned) -> String {
        let (year, month) = (time.year(), time.month());
        match self {
            Self::Hour => {
                let hour = time.datetime().hour();
                format!("{} {hour:02}:00{}", time.date(), time.strftime("%:z"))
            }
            Self::Day => time.date().to_string(),
            Self::Week => {
                let week = time.date().iso_week_date();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Self::Month => format!("{year:04}-{month:02}"),
            Self::Quarter => format!("{year:04}-Q{}", (month - 1) / 3 + 1),
            Self::Year => format!("{year:04}"),
        }
    }
}

/// A length of time by the calendar: a month is as long as the month is, a day as long as the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Within {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Weeks.
    pub weeks: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

impl Within {
    const UNITS: [char; 5] = ['y', 'm', 'w', 'd', 'h'];

    fn parts(&self) -> [u32; 5] {
        [self.years, self.months, self.weeks, self.days, self.hours]
    }

    /// Returns the moment so long before another one; `None` where no calendar reaches back that far.
    fn before(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let span = Span::new().try_years(self.years).ok()?.try_months(self.months).ok()?;
        let span = span.try_weeks(self.weeks).ok()?.try_days(self.days).ok()?.try_hours(self.hours).ok()?;
        let start = time.to_jiff().to_zoned(zone.clone()).checked_sub(span).ok()?;
        Some(start.timestamp().into())
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in self.parts().into_iter().zip(Self::UNITS).filter(|(number, _)| *number > 0) {
            write!(f, "{number}{unit}")?;
        }
        Ok(())
    }
}

impl FromStr for Within {
    type Err = ParseRuleError;

    /// Reads `2y5m7d3h`: years, months, weeks (`w`), days, hours, each at most once, in any order, not all of them zero.
    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let wrong = || ParseRuleError::Within { text: text.into() };
        let mut parts = [None; 5];
        let mut rest = text;
        while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
            let (number, after) = rest.split_at(end);
            let unit = after.chars().next().and_then(|unit| Self::UNITS.iter().position(|known| *known == unit));
            let part = unit.and_then(|unit| parts.get_mut(unit)).filter(|part| part.is_none()).ok_or_else(wrong)?;
            *part = Some(number.parse::<u32>().map_err(|_| wrong())?);
            // the units are one byte each
            rest = &after[1..];
        }
        let [years, months, weeks, days, hours] = parts.map(Option::unwrap_or_default);
        let within = Self { years, months, weeks, days, hours };
        if rest.is_empty() && within != Self::default() { Ok(within) } else { Err(wrong()) }
    }
}

/// What is to be kept. A snapshot is kept if any of these rules keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// So many of the newest.
    pub last: Count,
    /// The newest of so many hours.
    pub hourly: Count,
    /// The newest of so many days.
    pub daily: Count,
    /// The newest of so many weeks.
    pub weekly: Count,
    /// The newest of so many months.
    pub monthly: Count,
    /// The newest of so many quarters.
    pub quarterly: Count,
    /// The newest of so many years.
    pub yearly: Count,
    /// All that are younger than this, beside the newest one.
    pub within: Option<Within>,
    /// All with every tag of at least one of these groups. An empty group keeps nothing.
    pub tags: Vec<Vec<String>>,
}

impl Policy {
    /// Returns the rules that keep one snapshot of each hour, day, ..., with their counts.
    pub fn periods(&self) -> [(Period, Count); 6] {
        [
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Quarter, self.quarterly),
            (Period::Year, self.yearly),
        ]
    }

    /// Tells whether no rule can keep anything.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
            && self.periods().iter().all(|(_, count)| count.is_none())
            && self.within.is_none()
            && self.tags.iter().all(Vec::is_empty)
    }
}

impl fmt::Display for Policy {
    /// Writes the rules: `last 3, daily 7, within 30d, tag keep`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.periods().map(|(period, count)| (period.rule(), count));
        let counts = std::iter::once(("last", self.last)).chain(counts).filter(|(_, count)| !count.is_none());
        let mut rules: Vec<String> = counts.map(|(rule, count)| format!("{rule} {count}")).collect();
        rules.extend(self.within.map(|within| format!("within {within}")));
        rules
            .extend(self.tags.iter().filter(|group| !group.is_empty()).map(|group| format!("tag {}", group.join(","))));
        if rules.is_empty() { f.write_str("nothing") } else { f.write_str(&rules.join(", ")) }
    }
}

/// What a policy looks at in a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its place among the others, with the moment that it stands for.
    pub order: SnapshotOrder,
    /// Its tags.
    pub tags: &'a [String],
    /// Nothing is missing in it.
    pub is_complete: bool,
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is one of the newest.
    Last {
        /// Which one, the newest being 1.
        number: u32,
        /// How many are kept.
        of: Count,
    },
    /// It is the newest of its hour, day, ...
    NewestOf {
        /// What one is kept of.
        period: Period,
        /// Which one: `2026-11-17`, `2026-W47`, `2026-Q4`, ...
        name: String,
    },
    /// It is the oldest of all, and the rule had room for more.
    Oldest {
        /// The rule.
        period: Period,
    },
    /// It has all of these tags.
    Tags(Vec<String>),
    /// It is not older than this, beside the newest one.
    Within(Within),
    /// It is the newest that is complete; all newer ones that are kept are partial.
    NewestComplete,
    /// It is the newest that is complete and does not lie in the future; all such ones that are kept do.
    NewestPast,
}

impl Reason {
    /// Returns the name of the rule: `last`, `hourly`, ..., `within`, `tag`, or `newest-complete`, `newest-past`.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Last { .. } => "last",
            Self::NewestOf { period, .. } | Self::Oldest { period } => period.rule(),
            Self::Tags(_) => "tag",
            Self::Within(_) => "within",
            Self::NewestComplete => "newest-complete",
            Self::NewestPast => "newest-past",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last { number, of } => write!(f, "last {number} of {of}"),
            Self::NewestOf { period, name } => write!(f, "{} {name}", period.rule()),
            Self::Oldest { period } => write!(f, "{}: oldest", period.rule()),
            Self::Tags(tags) => write!(f, "tag {}", tags.join(",")),
            Self::Within(within) => write!(f, "within {within}"),
            Self::NewestComplete => f.write_str("newest complete one"),
            Self::NewestPast => f.write_str("newest one that is not in the future"),
        }
    }
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Why it is kept; none: it is not.
    pub reasons: Vec<Reason>,
}

impl Decision {
    /// Tells whether the snapshot is kept.
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Decides over the snapshots of one group; the decisions come in the order of the candidates, which does not matter.
///
/// Hours, days, ... are those of `zone`. `now` only tells which snapshots lie in the future.
pub fn decide(candidates: &[Candidate<'_>], policy: &Policy, zone: &TimeZone, now: Timestamp) -> Vec<Decision> {
    let mut newest_first: Vec<usize> = (0..candidates.len()).collect();
    newest_first.sort_by_key(|&at| Reverse(candidates[at].order));
    let mut group = Group { candidates, newest_first, decisions: vec![Decision::default(); candidates.len()] };
    group.keep_last(policy.last);
    for (period, count) in policy.periods().into_iter().filter(|(_, count)| !count.is_none()) {
        group.keep_newest_of_each(period, count, zone);
    }
    if let Some(within) = policy.within {
        group.keep_within(within, zone, now);
    }
    for tags in policy.tags.iter().filter(|tags| !tags.is_empty()) {
        group.keep_where(Reason::Tags(tags.clone()), |candidate| tags.iter().all(|tag| candidate.tags.contains(tag)));
    }
    group.protect_newest(Reason::NewestComplete, |candidate| candidate.is_complete);
    group.protect_newest(Reason::NewestPast, |candidate| candidate.is_complete && candidate.order.time <= now);
    group.decisions
}

/// The snapshots that are decided over together.
struct Group<'a> {
    candidates: &'a [Candidate<'a>],
    newest_first: Vec<usize>,
    decisions: Vec<Decision>,
}

impl Group<'_> {
    fn keep_last(&mut self, count: Count) {
        for (&at, number) in self.newest_first.iter().zip(1..) {
            if !count.has_room(number as usize - 1) {
                break;
            }
            self.decisions[at].reasons.push(Reason::Last { number, of: count });
        }
    }

    fn keep_newest_of_each(&mut self, period: Period, count: Count, zone: &TimeZone) {
        // a set, since local time may go back across midnight, and days then do not come in order
        let mut seen = HashSet::new();
        for (position, &at) in self.newest_first.iter().enumerate() {
            if !count.has_room(seen.len()) {
                break;
            }
            let name = period.name_at(&self.candidates[at].order.time.to_jiff().to_zoned(zone.clone()));
            if seen.insert(name.clone()) {
                self.decisions[at].reasons.push(Reason::NewestOf { period, name });
            } else if position + 1 == self.newest_first.len() {
                self.decisions[at].reasons.push(Reason::Oldest { period });
            }
        }
    }

    fn keep_within(&mut self, within: Within, zone: &TimeZone, now: Timestamp) {
        let times = || self.newest_first.iter().map(|&at| self.candidates[at].order.time);
        // where all lie in the future it is our clock that is behind, or theirs was: the newest is all there is to go by
        let Some(newest) = times().find(|&time| time <= now).or_else(|| times().next()) else { return };
        let start = within.before(newest, zone);
        self.keep_where(Reason::Within(within), |candidate| start.is_none_or(|start| candidate.order.time > start));
    }

    fn keep_where(&mut self, reason: Reason, is_kept: impl Fn(&Candidate<'_>) -> bool) {
        for (candidate, decision) in self.candidates.iter().zip(&mut self.decisions) {
            if is_kept(candidate) {
                decision.reasons.push(reason.clone());
            }
        }
    }

    /// Keeps the newest snapshot that is of a kind, where only newer ones that are not have pushed it out.
    fn protect_newest(&mut self, reason: Reason, is_of_kind: impl Fn(&Candidate<'_>) -> bool) {
        let Some(position) = self.newest_first.iter().position(|&at| is_of_kind(&self.candidates[at])) else { return };
        let newer_is_kept = self.newest_first[..position].iter().any(|&at| self.decisions[at].is_kept());
        let decision = &mut self.decisions[self.newest_first[position]];
        if newer_is_kept && !decision.is_kept() {
            decision.reasons.push(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ID_LEN, SnapshotId};

    /// Of snapshots of one moment the later ones have the greater ids.
    fn order(number: usize, time: Timestamp) -> SnapshotOrder {
        let mut bytes = [1; ID_LEN];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        SnapshotOrder { time, is_made_of_another: false, finished: time, id: SnapshotId::new(bytes) }
    }

    fn time(text: &str) -> Timestamp {
        text.parse::<jiff::Timestamp>().unwrap().into()
    }

    const NOW: &str = "2026-12-31T00:00:00Z";

    fn policy(rules: &str) -> Policy {
        let mut policy = Policy::default();
        for rule in rules.split_whitespace() {
            let (name, value) = rule.split_once('=').unwrap();
            let count = || value.parse::<Count>().unwrap();
            match name {
                "last" => policy.last = count(),
                "hourly" => policy.hourly = count(),
                "daily" => policy.daily = count(),
                "weekly" => policy.weekly = count(),
                "monthly" => policy.monthly = count(),
                "quarterly" => policy.quarterly = count(),
                "yearly" => policy.yearly = count(),
                "within" => policy.within = Some(value.parse().unwrap()),
                "tag" => policy.tags.push(value.split(',').map(str::to_owned).collect()),
                _ => panic!("{name}"),
            }
        }
        policy
    }

    /// A snapshot of an example: a time, then what it is besides: `partial`, or tags.
    #[derive(Debug)]
    struct Example {
        time: Timestamp,
        tags: Vec<String>,
        is_complete: bool,
    }

    fn examples(lines: &[&str]) -> Vec<Example> {
        let example = |line: &&str| {
            let (moment, rest) = line.split_once(' ').unwrap_or((line, ""));
            let tags = rest.split_whitespace().filter(|word| *word != "partial").map(str::to_owned).collect();
            Example { time: time(moment), tags, is_complete: !rest.contains("partial") }
        };
        lines.iter().map(example).collect()
    }

    fn candidates(examples: &[Example]) -> Vec<Candidate<'_>> {
        let all = examples.iter().enumerate();
        all.map(|(number, Example { time, tags, is_complete })| Candidate {
            order: order(number, *time),
            tags,
            is_complete: *is_complete,
        })
        .collect()
    }

    /// Returns what is said of each snapshot, `-` where it is forgotten.
    fn decided(lines: &[&str], rules: &str, zone: &TimeZone) -> Vec<String> {
        let examples = examples(lines);
        let decisions = decide(&candidates(&examples), &policy(rules), zone, time(NOW));
        let said = |decision: &Decision| match decision.is_kept() {
            true => decision.reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", "),
            false => "-".into(),
        };
        decisions.iter().map(said).collect()
    }

    #[test]
    fn the_newest_of_each_bucket_counts_and_pauses_cost_nothing() {
        let nights = [
            "2026-11-10T02:00:00Z",
            "2026-11-15T02:00:00Z",
            "2026-11-15T14:00:00Z",
            "2026-11-17T02:00:00Z",
            "2026-11-17T09:00:00Z",
        ];
        assert_eq!(
            decided(&nights, "last=1 daily=2", &TimeZone::UTC),
            ["-", "-", "daily 2026-11-15", "-", "last 1 of 1, daily 2026-11-17"]
        );
        assert_eq!(
            decided(&nights, "weekly=5 quarterly=1 yearly=all", &TimeZone::UTC),
            [
                "weekly: oldest, yearly: oldest",
                "-",
                "weekly 2026-W46",
                "-",
                "weekly 2026-W47, quarterly 2026-Q4, yearly 2026"
            ]
        );
    }

    #[test]
    fn the_oldest_is_kept_while_a_rule_has_room() {
        let day = ["2026-11-17T01:00:00Z", "2026-11-17T02:00:00Z", "2026-11-17T03:00:00Z"];
        assert_eq!(decided(&day, "daily=1", &TimeZone::UTC), ["-", "-", "daily 2026-11-17"]);
        assert_eq!(decided(&day, "daily=2", &TimeZone::UTC), ["daily: oldest", "-", "daily 2026-11-17"]);
        assert_eq!(decided(&day, "last=2", &TimeZone::UTC), ["-", "last 2 of 2", "last 1 of 2"]);
        assert_eq!(decided(&day[..1], "monthly=9", &TimeZone::UTC), ["monthly 2026-11"]);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let night = ["2026-11-16T22:30:00Z", "2026-11-16T23:30:00Z"];
        assert_eq!(decided(&night, "daily=1", &TimeZone::UTC), ["-", "daily 2026-11-16"]);
        assert_eq!(decided(&night, "daily=5", &zone), ["daily 2026-11-16", "daily 2026-11-17"]);
        // the hour from two to three comes twice
        let autumn = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"];
        let hours = ["hourly 2026-10-25 02:00+02:00", "hourly 2026-10-25 02:00+01:00"];
        assert_eq!(decided(&autumn, "hourly=2", &zone), hours);
    }

    #[test]
    fn a_day_that_is_left_and_entered_again_is_one_day() {
        // at 00:01 the clocks went back to 23:01 of the day before
        let zone = TimeZone::get("America/St_Johns").unwrap();
        let night = ["2006-10-29T02:20:00Z", "2006-10-29T02:30:30Z", "2006-10-29T02:40:00Z"];
        assert_eq!(decided(&night, "daily=2", &zone), ["-", "daily 2006-10-29", "daily 2006-10-28"]);
    }

    #[test]
    fn within_counts_back_from_the_newest_by_the_calendar() {
        let nights = ["2026-02-28T02:00:00Z", "2026-02-28T02:00:01Z", "2026-03-31T02:00:00Z"];
        assert_eq!(decided(&nights, "within=1m", &TimeZone::UTC), ["-", "within 1m", "within 1m"]);
        assert_eq!(decided(&nights, "within=31d", &TimeZone::UTC), ["-", "within 31d", "within 31d"]);
        assert_eq!(decided(&nights, "within=1h", &TimeZone::UTC), ["-", "-", "within 1h"]);
        let all = ["within 4294967295y"; 3];
        assert_eq!(decided(&nights, "within=4294967295y", &TimeZone::UTC), all);
    }

    #[test]
    fn tags_keep_where_all_of_a_group_are_there() {
        let nights = ["2026-11-10T00:00:00Z a b", "2026-11-11T00:00:00Z a", "2026-11-12T00:00:00Z c"];
        assert_eq!(decided(&nights, "tag=a,b tag=c", &TimeZone::UTC), ["tag a,b", "-", "tag c"]);
    }

    #[test]
    fn a_snapshot_in_the_future_pushes_nothing_out() {
        let nights = ["2026-11-16T02:00:00Z", "2026-11-17T02:00:00Z", "2027-11-18T02:00:00Z"];
        assert_eq!(
            decided(&nights, "last=1", &TimeZone::UTC),
            ["-", "newest one that is not in the future", "last 1 of 1"]
        );
        assert_eq!(decided(&nights, "within=2d", &TimeZone::UTC), ["within 2d"; 3]);
        // our clock may be the one that is wrong
        let later = ["2027-11-01T02:00:00Z", "2027-11-18T02:00:00Z"];
        assert_eq!(decided(&later, "within=2d", &TimeZone::UTC), ["-", "within 2d"]);
        assert_eq!(decided(&later, "last=1", &TimeZone::UTC), ["-", "last 1 of 1"]);
    }

    #[test]
    fn partial_snapshots_do_not_push_out_the_last_complete_one() {
        let nights = [
            "2026-11-15T02:00:00Z",
            "2026-11-16T02:00:00Z",
            "2026-11-17T02:00:00Z partial",
            "2026-11-18T02:00:00Z partial",
        ];
        let kept = ["-", "newest complete one", "last 2 of 2", "last 1 of 2"];
        assert_eq!(decided(&nights, "last=2", &TimeZone::UTC), kept);
        assert_eq!(decided(&nights[..2], "tag=x", &TimeZone::UTC), ["-", "-"]);
        assert_eq!(decided(&nights[2..], "last=1", &TimeZone::UTC), ["-", "last 1 of 1"]);
    }

    #[test]
    fn times_that_no_calendar_has_are_decided_over_too() {
        let times = [i64::MIN, -1, i64::MAX];
        let tags = [];
        let candidates: Vec<_> = times
            .iter()
            .enumerate()
            .map(|(number, &secs)| Candidate {
                order: order(number, Timestamp { secs, nanos: 0 }),
                tags: &tags,
                is_complete: true,
            })
            .collect();
        let policy = policy("last=1 hourly=9 daily=9 weekly=9 monthly=9 quarterly=9 yearly=9 within=1y");
        for zone in ["UTC", "Pacific/Apia", "America/St_Johns"].map(|name| TimeZone::get(name).unwrap()) {
            let decisions = decide(&candidates, &policy, &zone, Timestamp::default());
            assert!(decisions.iter().all(Decision::is_kept), "{decisions:?}");
        }
    }

    #[test]
    fn rules_are_read_and_written() {
        for text in ["30d", "2y5m7d3h", "1w", "36h"] {
            assert_eq!(text.parse::<Within>().unwrap().to_string(), text);
        }
        assert_eq!("3h2y".parse::<Within>().unwrap().to_string(), "2y3h");
        for text in ["", "0d", "30", "d", "1d2d", "-1d", "+1d", "1 d", "1D", "5000000000d", "1s", "1ü"] {
            assert_eq!(text.parse::<Within>(), Err(ParseRuleError::Within { text: text.into() }), "{text}");
        }
        assert_eq!("all".parse(), Ok(Count::All));
        assert_eq!("17".parse(), Ok(Count::AtMost(17)));
        for text in ["", "-1", "+1", "many", "4294967296"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
        let all = policy("last=3 daily=7 yearly=all within=30d tag=keep,safe tag=x");
        assert_eq!(all.to_string(), "last 3, daily 7, yearly all, within 30d, tag keep,safe, tag x");
        assert!(Policy::default().is_empty());
        for one in ["last=1", "hourly=1", "yearly=all", "within=1d", "tag=x"] {
            assert!(!policy(one).is_empty(), "{one}");
        }
        assert!(Policy { tags: vec![Vec::new()], ..Policy::default() }.is_empty());
        assert_eq!(Policy { tags: vec![Vec::new()], ..Policy::default() }.to_string(), "nothing");
    }

    #[test]
    fn reasons_name_their_rules() {
        let name = "2026-W47".to_owned();
        let rules = [
            (Reason::Last { number: 1, of: Count::AtMost(3) }, "last"),
            (Reason::NewestOf { period: Period::Week, name }, "weekly"),
            (Reason::Oldest { period: Period::Year }, "yearly"),
            (Reason::Tags(vec!["keep".into()]), "tag"),
            (Reason::Within("1d".parse().unwrap()), "within"),
            (Reason::NewestComplete, "newest-complete"),
            (Reason::NewestPast, "newest-past"),
        ];
        for (reason, rule) in rules {
            assert_eq!(reason.rule(), rule);
        }
    }

    /// As in a listing: what was made of another one takes its place, whatever their ids are.
    #[test]
    fn of_snapshots_of_one_moment_the_one_made_last_is_the_newest() {
        let (moment, later) = (time("2026-11-17T02:00:00Z"), time("2026-11-18T02:00:00Z"));
        let damaged = order(9, moment);
        let repaired = SnapshotOrder { is_made_of_another: true, finished: later, ..order(1, moment) };
        let repaired_again = SnapshotOrder { finished: time("2026-11-19T02:00:00Z"), ..repaired };
        let candidates =
            [damaged, repaired_again, repaired].map(|order| Candidate { order, tags: &[], is_complete: true });
        for rule in ["last=1", "daily=1"] {
            let kept = decide(&candidates, &policy(rule), &TimeZone::UTC, later);
            assert_eq!(kept.iter().map(Decision::is_kept).collect::<Vec<_>>(), [false, true, false], "{rule}");
        }
    }

    mod naive {
        //! The same rules said another way: of each snapshot by itself, by counting over all the others.

        use super::*;

        fn is_newer(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
            let by = |it: &Candidate<'_>| (it.order.time, it.order.is_made_of_another, it.order.id);
            by(a) > by(b)
        }

        /// The numbers that tell a bucket from others.
        fn bucket(period: Period, candidate: &Candidate<'_>, zone: &TimeZone) -> [i32; 5] {
            let local = candidate.order.time.to_jiff().to_zoned(zone.clone());
            let (year, month, day) = (i32::from(local.year()), i32::from(local.month()), i32::from(local.day()));
            match period {
                Period::Hour => [year, month, day, i32::from(local.hour()), local.offset().seconds()],
                Period::Day => [year, month, day, 0, 0],
                Period::Week => {
                    // the Monday that begins it
                    let back = i64::from(local.date().weekday().to_monday_zero_offset());
                    let monday = local.date().checked_sub(Span::new().days(back)).unwrap();
                    [monday.year().into(), monday.month().into(), monday.day().into(), 0, 0]
                }
                Period::Month => [year, month, 0, 0, 0],
                Period::Quarter => [year, [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4][month as usize], 0, 0, 0],
                Period::Year => [year, 0, 0, 0, 0],
            }
        }

        fn allows(count: Count, before: usize) -> bool {
            matches!(count, Count::All) || matches!(count, Count::AtMost(most) if before < most as usize)
        }

        /// Counts back month by month, day by day, on paper.
        fn start(within: &Within, from: Timestamp, zone: &TimeZone) -> jiff::Timestamp {
            let local = from.to_jiff().to_zoned(zone.clone()).datetime();
            let months = i64::from(local.year()) * 12 + i64::from(local.month()) - 1;
            let months = months - i64::from(within.years) * 12 - i64::from(within.months);
            let (year, month) = (months.div_euclid(12) as i16, months.rem_euclid(12) as i8 + 1);
            let first = jiff::civil::date(year, month, 1);
            let date = jiff::civil::date(year, month, local.day().min(first.days_in_month()));
            let days = i64::from(within.weeks) * 7 + i64::from(within.days);
            let date = date.checked_sub(Span::new().days(days)).unwrap();
            let start = zone.to_timestamp(date.to_datetime(local.time())).unwrap();
            start - jiff::SignedDuration::from_hours(within.hours.into())
        }

        /// Tells whether a snapshot is kept by a rule proper.
        fn by_rule(
            all: &[Candidate<'_>],
            it: &Candidate<'_>,
            policy: &Policy,
            zone: &TimeZone,
            now: Timestamp,
        ) -> bool {
            let newer: Vec<_> = all.iter().filter(|other| is_newer(other, it)).collect();
            let is_oldest = newer.len() + 1 == all.len();
            let by_period = policy.periods().into_iter().any(|(period, count)| {
                let buckets: HashSet<_> = newer.iter().map(|other| bucket(period, other, zone)).collect();
                let is_first = !buckets.contains(&bucket(period, it, zone));
                allows(count, buckets.len()) && (is_first || is_oldest)
            });
            let newest = all.iter().map(|other| other.order.time).filter(|time| *time <= now).max();
            let newest = newest.or(all.iter().map(|other| other.order.time).max()).unwrap();
            let by_time = policy.within.is_some_and(|within| it.order.time.to_jiff() > start(&within, newest, zone));
            let has = |tag: &String| it.tags.iter().any(|own| own == tag);
            let by_tag = policy.tags.iter().any(|group| !group.is_empty() && group.iter().all(has));
            allows(policy.last, newer.len()) || by_period || by_time || by_tag
        }

        pub(super) fn kept(all: &[Candidate<'_>], policy: &Policy, zone: &TimeZone, now: Timestamp) -> Vec<bool> {
            let mut kept: Vec<bool> = all.iter().map(|it| by_rule(all, it, policy, zone, now)).collect();
            for with_future in [true, false] {
                let is_sound = |it: &Candidate<'_>| it.is_complete && (with_future || it.order.time <= now);
                let sound = (0..all.len()).filter(|&at| is_sound(&all[at]));
                let newest = sound.max_by_key(|&at| all[at].order);
                if let Some(newest) = newest {
                    kept[newest] |= (0..all.len()).any(|at| kept[at] && is_newer(&all[at], &all[newest]));
                }
            }
            kept
        }
    }

    mod random {
        use proptest::collection::vec;
        use proptest::prelude::*;
        use proptest::sample::select;

        use super::*;

        /// Close together and far apart, around changes of summer time, years and the present.
        fn any_time() -> impl Strategy<Value = Timestamp> {
            let anchors = ["2006-10-29T02:31:00Z", "2026-01-01T00:00:00Z", "2026-10-25T01:00:00Z", NOW];
            let anchors: Vec<i64> = anchors.iter().map(|text| time(text).secs).collect();
            let steps = prop_oneof![-7200..7200i64, -500_000..500_000i64, -40_000_000..40_000_000i64];
            (select(anchors), steps, 0..2u32).prop_map(|(anchor, step, nanos)| Timestamp { secs: anchor + step, nanos })
        }

        fn any_example() -> impl Strategy<Value = Example> {
            let tags = vec(select(vec!["a", "b", "c"]), 0..3);
            (any_time(), tags, any::<bool>()).prop_map(|(time, tags, is_complete)| Example {
                time,
                tags: tags.into_iter().map(str::to_owned).collect(),
                is_complete,
            })
        }

        fn any_count() -> impl Strategy<Value = Count> {
            prop_oneof![4 => Just(Count::default()), 4 => (1..6u32).prop_map(Count::AtMost), 1 => Just(Count::All)]
        }

        fn any_within() -> impl Strategy<Value = Option<Within>> {
            let within = (0..3u32, 0..14u32, 0..3u32, 0..40u32, 0..50u32);
            proptest::option::of(within.prop_map(|(years, months, weeks, days, hours)| Within {
                years,
                months,
                weeks,
                days,
                hours,
            }))
        }

        fn any_policy() -> impl Strategy<Value = Policy> {
            let counts = proptest::array::uniform7(any_count());
            let tags = vec(vec(select(vec!["a", "b", "c"]), 0..3), 0..3);
            (counts, any_within(), tags).prop_map(|(counts, within, tags)| {
                let [last, hourly, daily, weekly, monthly, quarterly, yearly] = counts;
                let owned = |group: Vec<&str>| group.into_iter().map(str::to_owned).collect();
                let tags = tags.into_iter().map(owned).collect();
                Policy { last, hourly, daily, weekly, monthly, quarterly, yearly, within, tags }
            })
        }

        fn any_zone() -> impl Strategy<Value = TimeZone> {
            select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"])
                .prop_map(|name| TimeZone::get(name).unwrap())
        }

        fn kept(candidates: &[Candidate<'_>], policy: &Policy, zone: &TimeZone) -> Vec<bool> {
            decide(candidates, policy, zone, time(NOW)).iter().map(Decision::is_kept).collect()
        }

        proptest! {
            #[test]
            fn what_is_kept_is_what_the_naive_rules_keep(
                examples in vec(any_example(), 0..30), policy in any_policy(), zone in any_zone()
            ) {
                let candidates = candidates(&examples);
                let naive = naive::kept(&candidates, &policy, &zone, time(NOW));
                prop_assert_eq!(kept(&candidates, &policy, &zone), naive);
            }

            #[test]
            fn the_order_of_the_candidates_does_not_matter(
                examples in vec(any_example(), 0..20), policy in any_policy(), zone in any_zone()
            ) {
                let mut candidates = candidates(&examples);
                let mut forward = kept(&candidates, &policy, &zone);
                candidates.reverse();
                forward.reverse();
                prop_assert_eq!(kept(&candidates, &policy, &zone), forward);
            }

            #[test]
            fn to_apply_a_policy_again_forgets_nothing_more(
                examples in vec(any_example(), 0..30), policy in any_policy(), zone in any_zone()
            ) {
                let all = candidates(&examples);
                let first = kept(&all, &policy, &zone);
                let left: Vec<_> = all.iter().zip(&first).filter(|(_, kept)| **kept).map(|(it, _)| *it).collect();
                prop_assert!(kept(&left, &policy, &zone).into_iter().all(|kept| kept));
            }

            #[test]
            fn the_newest_snapshots_are_kept_if_any_count_is(
                examples in vec(any_example(), 1..30), policy in any_policy(), zone in any_zone()
            ) {
                let all = candidates(&examples);
                let counts = !policy.last.is_none() || policy.periods().iter().any(|(_, count)| !count.is_none());
                if counts {
                    let decided = kept(&all, &policy, &zone);
                    let newest = (0..all.len()).max_by_key(|&at| all[at].order);
                    let complete = (0..all.len()).filter(|&at| all[at].is_complete);
                    let complete = complete.max_by_key(|&at| all[at].order);
                    for at in newest.into_iter().chain(complete) {
                        prop_assert!(decided[at]);
                    }
                }
            }

            #[test]
            fn no_text_makes_reading_a_rule_panic(text in "\\PC{0,12}") {
                let _ = (text.parse::<Within>(), text.parse::<Count>());
            }
        }
    }
}
