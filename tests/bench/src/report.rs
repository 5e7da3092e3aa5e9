//! What was found: verdicts about the budgets, tables of numbers, charts.

use crate::machine::Machine;
use crate::sample::Sample;

/// What the ninetieth percentiles' ratio may be wherever medians have a budget.
const BUDGET_P90: f64 = 1.50;

pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) tables: Vec<Table>,
    pub(crate) charts: Vec<Chart>,
    pub(crate) profiles: Vec<Profile>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::now(),
            verdicts: Vec::new(),
            tables: Vec::new(),
            charts: Vec::new(),
            profiles: Vec::new(),
        }
    }
}

/// A budget, and whether it is met.
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) against: &'static str,
    pub(crate) budget: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
    /// What the difference is made of; shown where the budget is missed.
    pub(crate) difference: &'static str,
}

impl Verdict {
    /// About the ratio of the medians, and of the ninetieth percentiles.
    pub(crate) fn ratio(
        what: impl Into<String>,
        ours: &Sample,
        (against, theirs): (&'static str, &Sample),
        budget: f64,
        difference: &'static str,
    ) -> Self {
        let ratios = (ours.median() / theirs.median(), ours.at(90) / theirs.at(90));
        Self::ratios(what, against, ratios, budget, difference)
    }

    /// About two ratios, of medians and of ninetieth percentiles.
    pub(crate) fn ratios(
        what: impl Into<String>,
        against: &'static str,
        (ratio, p90): (f64, f64),
        budget: f64,
        difference: &'static str,
    ) -> Self {
        Self {
            what: what.into(),
            against,
            budget: format!("≤ {budget:.2}×, p90 ≤ {BUDGET_P90:.2}×"),
            measured: format!("{ratio:.2}×, p90 {p90:.2}×"),
            met: ratio <= budget && p90 <= BUDGET_P90,
            difference,
        }
    }

    /// About one number.
    pub(crate) fn limit(
        what: impl Into<String>,
        against: &'static str,
        (number, limit, unit): (f64, f64, &'static str),
        difference: &'static str,
    ) -> Self {
        Self {
            what: what.into(),
            against,
            budget: format!("≤ {}{unit}", short(limit)),
            measured: format!("{}{unit}", short(number)),
            met: number <= limit,
            difference,
        }
    }
}

/// A number with as many places as help.
pub(crate) fn short(number: f64) -> String {
    match number.abs() {
        number if number >= 100.0 => format!("{number:.0}"),
        _ if number.fract() == 0.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Some numbers side by side. The first row is ours.
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) note: String,
    pub(crate) rows: Vec<Row>,
    /// Whether all of it does the same work, so that a smaller number of another row is to be told.
    pub(crate) comparable: bool,
    /// Whether the rows are parts of one whole, so that their ratios say nothing.
    pub(crate) parts: bool,
    /// Whether what is round for round in the rows was taken side by side.
    pub(crate) by_pairs: bool,
}

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) sample: Sample,
}

impl Table {
    pub(crate) fn new(
        title: impl Into<String>,
        unit: &'static str,
        note: impl Into<String>,
        rows: impl IntoIterator<Item = (impl Into<String>, Sample)>,
    ) -> Self {
        let rows = rows.into_iter().map(|(name, sample)| {
            let name = name.into();
            Row { name, sample }
        });
        Self {
            title: title.into(),
            unit,
            note: note.into(),
            rows: rows.collect(),
            comparable: true,
            parts: false,
            by_pairs: false,
        }
    }

    /// How ours compares is told round by round as well, for rows that are so close that medians may come out either way.
    pub(crate) fn by_pairs(mut self) -> Self {
        self.by_pairs = true;
        self
    }

    pub(crate) fn of_parts(mut self) -> Self {
        self.parts = true;
        self.not_comparable()
    }

    pub(crate) fn not_comparable(mut self) -> Self {
        self.comparable = false;
        self
    }
}

/// What something is made of: a row for each part, a column for each of those who have it.
pub(crate) struct Profile {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<(String, Vec<f64>)>,
    /// Whether a row of sums makes sense.
    pub(crate) has_sum: bool,
}

impl Profile {
    pub(crate) fn new(
        title: impl Into<String>,
        note: impl Into<String>,
        columns: impl Into<Vec<&'static str>>,
    ) -> Self {
        Self {
            title: title.into(),
            note: note.into(),
            columns: columns.into(),
            rows: Vec::new(),
            has_sum: false,
        }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, numbers: impl Into<Vec<f64>>) {
        self.rows.push((name.into(), numbers.into()));
    }

    /// Parts of a whole: what differs most between the first two columns comes first, and what is below `least` everywhere is
    /// put together.
    pub(crate) fn summed(mut self, least: f64) -> Self {
        let difference = |numbers: &[f64]| numbers[0] - numbers.get(1).copied().unwrap_or(0.0);
        self.rows
            .sort_by(|(_, a), (_, b)| difference(b).total_cmp(&difference(a)));
        let is_small = |numbers: &[f64]| numbers.iter().all(|number| *number < least);
        let (small, large): (Vec<_>, Vec<_>) = self
            .rows
            .drain(..)
            .partition(|(_, numbers)| is_small(numbers));
        self.rows = large;
        if !small.is_empty() {
            let name = format!("{} more, each of less than {}", small.len(), short(least));
            let columns = small[0].1.len();
            let sum = |column: usize| small.iter().map(|(_, numbers)| numbers[column]).sum();
            self.rows.push((name, (0..columns).map(sum).collect()));
        }
        self.has_sum = true;
        self
    }
}

/// Lines over a logarithmic axis.
pub(crate) struct Chart {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) across: &'static str,
    pub(crate) up: &'static str,
    /// Whether the other axis is logarithmic too, or percentages.
    pub(crate) logarithmic: bool,
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Chart {
    /// The distributions of a table's rows.
    pub(crate) fn distributions(
        file: &'static str,
        title: &'static str,
        across: &'static str,
        table: &Table,
    ) -> Self {
        let lines = table.rows.iter();
        Self {
            file,
            title,
            across,
            up: "share of the runs, %",
            logarithmic: false,
            lines: lines
                .map(|row| (row.name.clone(), row.sample.distribution()))
                .collect(),
        }
    }
}
