//! What all probes have in common at their end: judge, print, save, and say by the exit code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::findings::Findings;
use super::html;
use super::report::{Failure, Report, SCHEMA, unix_s};
use super::thresholds::Thresholds;
use super::verdict::Level;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct OutputArgs {
    /// What to ask instead of the built-in thresholds (`seawall-qualify thresholds` prints those)
    #[arg(long, value_name = "FILE")]
    pub thresholds: Option<PathBuf>,
    /// Print JSON; the table goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Write a page with curves and histograms, which needs nothing else to be read
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the JSON here as well
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Warnings fail, too
    #[arg(long)]
    pub strict: bool,
}

/// Reports that were saved: judged again, and put together.
#[derive(Debug, Clone, clap::Args)]
pub struct ReportArgs {
    /// As `--json` printed or `--save` wrote it
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Whether everything is qualified.
pub fn conclude(findings: Vec<Findings>, failures: Vec<Failure>, args: &OutputArgs) -> Result<bool> {
    let thresholds = Thresholds::load(args.thresholds.as_deref())?;
    let report = Report::new(findings, failures, &thresholds, unix_s());
    let json = serde_json::to_string(&report)?;
    if let Some(file) = &args.save {
        write(file, &json)?;
    }
    if let Some(file) = &args.html {
        write(file, &html::page(&report)?)?;
    }
    if args.json {
        eprint!("{}", report.table());
        println!("{json}");
    } else {
        print!("{}", report.table());
    }
    Ok(match report.level {
        Level::Pass => true,
        Level::Warn => !args.strict,
        Level::Fail => false,
    })
}

pub fn report(args: &ReportArgs) -> Result<bool> {
    let (mut findings, mut failures) = (Vec::new(), Vec::new());
    for file in &args.files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let report = parse(&text).with_context(|| file.display().to_string())?;
        findings.extend(report.findings);
        failures.extend(report.failures);
    }
    conclude(findings, failures, &args.output)
}

pub fn parse(json: &str) -> Result<Report> {
    #[derive(serde::Deserialize)]
    struct Schema {
        schema: u32,
    }
    let Schema { schema } = serde_json::from_str(json).context("not a report")?;
    ensure!(schema == SCHEMA, "a report of schema {schema}; this program reads {SCHEMA}");
    serde_json::from_str(json).context("not a report")
}

/// Whole or not at all.
fn write(file: &Path, text: &str) -> Result<()> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, file));
    written.with_context(|| format!("cannot write {}", file.display()))
}
