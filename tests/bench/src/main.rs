//! What rmux-bootstrap costs, measured beside the least that can be written by hand and beside its peers.
//!
//! `cargo run --release --manifest-path tests/bench/Cargo.toml` measures everything, prints it, and writes
//! `BENCHMARKS.md` and its charts. A machine is noisy, so whatever is compared takes turns, sample by sample, and what
//! counts is the ratio of medians.

mod chart;
mod machine;
mod measure;
mod page;
mod place;
mod report;
mod sample;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use program::Outcome;

use crate::place::Bench;
use crate::report::Report;

/// Measures rmux-bootstrap beside its budgets and its peers
#[derive(Parser)]
struct Arguments {
    /// A tenth of the rounds: for a look, not for the record. Writes no page unless --output is given
    #[arg(long)]
    quick: bool,
    /// Measure these only, and write no page unless --output is given
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<What>,
    /// Where the page and the charts go; this package's directory if everything is measured
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum What {
    Calls,
    Warm,
    Cold,
    Profile,
    Load,
    Wait,
    Herd,
    Growth,
    Cycle,
    Gap,
    Idle,
    Build,
    Tools,
}

fn main() -> ExitCode {
    if let Some(code) = measure::compile::as_wrapper() {
        return code;
    }
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Outcome {
    let Arguments {
        quick,
        only,
        output,
    } = arguments;
    let whole = only.is_empty() && !quick;
    let output = output.or_else(|| whole.then(|| PathBuf::from(env!("CARGO_MANIFEST_DIR"))));
    let mut bench = Bench::new(quick)?;
    let mut report = Report::new();
    let all = What::value_variants();
    for (at, what) in all.iter().enumerate() {
        if only.is_empty() || only.contains(what) {
            eprintln!("[{}/{}] {what:?}", at + 1, all.len());
            measure(*what, &mut bench, &mut report)?;
        }
    }
    print!("{}", page::terminal(&report));
    if let Some(output) = output {
        for chart in &report.charts {
            chart::draw(chart, &output)?;
        }
        let page = output.join("BENCHMARKS.md");
        std::fs::write(&page, page::markdown(&report, quick))?;
        eprintln!("written: {}", page.display());
    }
    Ok(())
}

fn measure(what: What, bench: &mut Bench, report: &mut Report) -> Outcome {
    match what {
        What::Calls => measure::warm::calls(bench, report),
        What::Warm => measure::warm::processes(bench, report),
        What::Cold => measure::cold::processes(bench, report),
        What::Profile => measure::profile::cold_start(bench, report),
        What::Load => measure::load::processes(bench, report),
        What::Wait => measure::cold::extra_wait(bench, report),
        What::Herd => measure::herd::herds(bench, report),
        What::Growth => measure::herd::growth(bench, report),
        What::Cycle => measure::cycle::cycles(bench, report),
        What::Gap => measure::cycle::gaps(bench, report),
        What::Idle => measure::idle::idle(bench, report),
        What::Build => measure::build::builds(bench, report),
        What::Tools => measure::tools::tools(bench, report),
    }
}
