//! What was found, as a page and for the terminal.

use std::fmt::Write;

use crate::report::{Profile, Report, Row, Table, Verdict, short};

/// What the numbers in brackets are, where there are some.
const BY_PAIRS: &str =
    "In brackets: where the median of the rounds' own ratios is, with a certainty of 95 %.";

const COMMAND: &str = "cargo run --release --manifest-path tests/bench/Cargo.toml";

/// What each chart shows, for those who do not see it.
fn caption(file: &str) -> &'static str {
    match file {
        "warm.svg" => "Distributions of the time that one join takes in process, per crate",
        "cold.svg" => {
            "Distributions of the time that a cold start takes as a whole process, per crate"
        }
        "wait.svg" => {
            "Distributions of the time between readiness and the caller's return, per crate"
        }
        _ => "Time until the last process of a herd has ended, over the herd's size, per crate",
    }
}

/// The whole page.
pub(crate) fn markdown(report: &Report, quick: bool) -> String {
    let mut page = String::from("# Benchmarks\n\n");
    let mut line = |text: &str| {
        page.push_str(text);
        page.push('\n');
    };
    line(&format!(
        "Written by `{COMMAND}`, which needs a Linux machine, some minutes, and nothing else. Whatever is compared takes \
         turns, sample by sample, on the same machine, in another order each time. Ratios are those of medians."
    ));
    line("");
    for fact in report.machine.lines() {
        line(&format!("- {fact}"));
    }
    if quick {
        line("- **A quick run: a tenth of the rounds. Not for the record.**");
    }
    line("\n## Budgets\n");
    line("| what | against | budget | measured | |");
    line("| --- | --- | --- | --- | --- |");
    for verdict in &report.verdicts {
        line(&budget_row(verdict));
    }
    let missed: Vec<_> = report
        .verdicts
        .iter()
        .filter(|verdict| !verdict.met)
        .collect();
    if !missed.is_empty() {
        line("\nWhat stands between, where a budget is missed:\n");
        for verdict in missed {
            line(&format!("- **{}**: {}", verdict.what, verdict.difference));
        }
    }
    line("\n## Where others are faster or smaller\n");
    let better = better(report);
    if better.is_empty() {
        line("Nowhere in this run.");
    }
    for fact in better {
        line(&format!("- {fact}"));
    }
    if !report.profiles.is_empty() {
        line("\n## What it is made of");
    }
    for profile in &report.profiles {
        line(&format!("\n### {}\n\n{}\n", profile.title, profile.note));
        for row in profile_lines(profile) {
            line(&row);
        }
    }
    if !report.charts.is_empty() {
        line("\n## Charts");
    }
    for chart in &report.charts {
        line(&format!("\n![{}]({})", caption(chart.file), chart.file));
    }
    line("\n## Numbers");
    for table in &report.tables {
        let by_pairs = if table.by_pairs { BY_PAIRS } else { "" };
        let note = format!("{} {by_pairs}", table.note);
        line(&format!("\n### {}\n\n{}\n", table.title, note.trim_end()));
        line(&format!(
            "| | median, {u} | p90, {u} | p99, {u} | ours is |",
            u = unit(table)
        ));
        line("| --- | ---: | ---: | ---: | ---: |");
        for row in &table.rows {
            let [median, p90, p99] = numbers(row);
            let ratio = ratio(table, row);
            line(&format!(
                "| {} | {median} | {p90} | {p99} | {ratio} |",
                row.name
            ));
        }
    }
    page
}

fn profile_lines(profile: &Profile) -> Vec<String> {
    let head = format!("| | {} |", profile.columns.join(" | "));
    let rule = format!("| --- |{}", " ---: |".repeat(profile.columns.len()));
    let row = |name: &str, numbers: &[f64]| {
        let numbers: Vec<_> = numbers.iter().map(|number| short(*number)).collect();
        format!("| {name} | {} |", numbers.join(" | "))
    };
    let mut lines = vec![head, rule];
    lines.extend(
        profile
            .rows
            .iter()
            .map(|(name, numbers)| row(name, numbers)),
    );
    if profile.has_sum {
        let sum = |column: usize| {
            profile
                .rows
                .iter()
                .map(|(_, numbers)| numbers[column])
                .sum()
        };
        let sums: Vec<f64> = (0..profile.columns.len()).map(sum).collect();
        lines.push(row("**together**", &sums));
    }
    lines
}

fn budget_row(verdict: &Verdict) -> String {
    let Verdict {
        what,
        against,
        budget,
        measured,
        ..
    } = verdict;
    let met = if verdict.met { "met" } else { "**missed**" };
    format!("| {what} | {against} | {budget} | {measured} | {met} |")
}

fn unit(table: &Table) -> &str {
    if table.unit.is_empty() {
        "count"
    } else {
        table.unit
    }
}

fn numbers(row: &Row) -> [String; 3] {
    [50, 90, 99].map(|percent| short(row.sample.at(percent)))
}

/// How our median compares with this row's.
fn ratio(table: &Table, row: &Row) -> String {
    let ours = &table.rows[0];
    if table.parts || std::ptr::eq(ours, row) || row.sample.median() == 0.0 {
        return String::new();
    }
    let medians = format!("{:.2}×", ours.sample.median() / row.sample.median());
    if !table.by_pairs {
        return medians;
    }
    match ours.sample.ratio_by_pairs(&row.sample) {
        Some([low, high]) => format!("{medians} ({low:.3} to {high:.3})"),
        None => medians,
    }
}

/// Every row that beats ours at the same work.
fn better(report: &Report) -> Vec<String> {
    let tables = report.tables.iter().filter(|table| table.comparable);
    let rows = tables.flat_map(|table| table.rows.iter().skip(1).map(move |row| (table, row)));
    // Not counted as behind where that may be chance.
    let is_ahead = |(table, row): &(&Table, &Row)| {
        let ours = &table.rows[0].sample;
        let by_pairs = table
            .by_pairs
            .then(|| ours.ratio_by_pairs(&row.sample))
            .flatten();
        by_pairs.map_or(row.sample.median() < ours.median(), |[low, _]| low > 1.0)
    };
    let ahead = rows.filter(is_ahead);
    let tell = |(table, row): (&Table, &Row)| {
        let (theirs, ours) = (row.sample.median(), table.rows[0].sample.median());
        let (theirs, ours, unit) = (short(theirs), short(ours), unit(table));
        let compared = if table.by_pairs {
            format!(": {}", ratio(table, row))
        } else {
            String::new()
        };
        format!(
            "{}: {} with {theirs} {unit}, ours {ours} {unit}{compared}",
            table.title, row.name
        )
    };
    ahead.map(tell).collect()
}

/// The same, without the words around it.
pub(crate) fn terminal(report: &Report) -> String {
    let mut text = String::new();
    for table in &report.tables {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{} ({})", table.title, unit(table));
        for row in &table.rows {
            let [median, p90, p99] = numbers(row);
            let ratio = ratio(table, row);
            let line = format!(
                "  {:<58} {median:>9} {p90:>9} {p99:>9} {ratio:>8}  n = {}",
                row.name,
                row.sample.len()
            );
            let _ = writeln!(text, "{line}");
        }
    }
    let _ = writeln!(
        text,
        "\nBudgets (median, p90 and p99 above; the last column is ours against it)"
    );
    for Verdict {
        what,
        budget,
        measured,
        met,
        ..
    } in &report.verdicts
    {
        let met = if *met { "met" } else { "MISSED" };
        let _ = writeln!(text, "  {what:<70} {budget:<24} {measured:<22} {met}");
    }
    text
}
