//! Tables of what was measured: medians, and the medians of the ratios within each round.

use std::collections::BTreeMap;

use crate::measure::Figures;

/// One measurement.
#[derive(Debug, Clone)]
pub struct Record {
    pub round: usize,
    pub tool: String,
    pub phase: String,
    pub figures: Figures,
    /// Bytes of the repository after it.
    pub stored: u64,
    /// Requests to a bucket.
    pub requests: u64,
}

/// What of a measurement a table shows.
type Metric = fn(&Record) -> f64;

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// Prints every table. Ratios are those of the first tool to each other one.
pub fn print(records: &[Record], phases: &[String]) {
    let mut tools: Vec<&str> = Vec::new();
    for record in records {
        if !tools.contains(&record.tool.as_str()) {
            tools.push(&record.tool);
        }
    }
    let mut metrics: Vec<(&str, Metric)> = vec![
        ("wall time, s", |record| record.figures.wall),
        ("processor time, s", |record| record.figures.cpu),
        ("peak memory, MiB", |record| record.figures.rss),
        ("repository, MB", |record| record.stored as f64 / 1e6),
    ];
    if records.iter().any(|record| record.requests > 0) {
        metrics.push(("requests", |record| record.requests as f64));
    }
    let rounds = |tool: &str, phase: &str, metric: Metric| -> BTreeMap<usize, f64> {
        let mine = records.iter().filter(|record| record.tool == tool && record.phase == phase);
        mine.map(|record| (record.round, metric(record))).collect()
    };
    let table = |title: &str, tools: &[&str], cell: &dyn Fn(&str, &str) -> Option<f64>| {
        println!("\n| {title} | {} |\n|---|{}", phases.join(" | "), "---:|".repeat(phases.len()));
        for tool in tools {
            let cells: Vec<String> = phases.iter().map(|phase| shown(cell(tool, phase))).collect();
            println!("| {tool} | {} |", cells.join(" | "));
        }
    };
    for &(title, metric) in &metrics {
        table(title, &tools, &|tool, phase| median(rounds(tool, phase, metric).into_values().collect()));
    }
    let Some((first, others)) = tools.split_first() else { return };
    for (title, metric) in metrics {
        table(&format!("{first}, ratio: {title}"), others, &|tool, phase| {
            let ours = rounds(first, phase, metric);
            let ratios = rounds(tool, phase, metric).into_iter();
            median(
                ratios.filter_map(|(round, value)| Some(ours.get(&round)? / value).filter(|r| r.is_finite())).collect(),
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
        assert_eq!(shown(Some(0.126)), "0.13");
        assert_eq!(shown(Some(12.34)), "12.3");
        assert_eq!(shown(Some(1234.0)), "1234");
    }
}
