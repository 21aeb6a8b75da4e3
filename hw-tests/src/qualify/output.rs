//! What all probes have in common at their end: judge, print, save, and say by the exit code.

use std::fs;
use std::io::{self, Write};
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

impl OutputArgs {
    /// What would end a run at its end is found at its beginning.
    pub fn check(&self) -> Result<()> {
        Thresholds::load(self.thresholds.as_deref())?;
        [&self.save, &self.html].into_iter().flatten().try_for_each(|file| check_writable(file))
    }
}

/// Whether everything is qualified.
pub fn conclude(findings: Vec<Findings>, failures: Vec<Failure>, args: &OutputArgs) -> Result<bool> {
    let thresholds = Thresholds::load(args.thresholds.as_deref())?;
    tell(&Report::new(findings, failures, &thresholds, unix_s()), args)
}

/// As `conclude`, of a report that was made. It is printed first, and what fails keeps nothing else from being told: the run may
/// have taken a day.
pub fn tell(report: &Report, args: &OutputArgs) -> Result<bool> {
    let json = serde_json::to_string(report)?;
    let printed = print(report, &json, args.json);
    let saved = args.save.as_ref().map_or(Ok(()), |file| write(file, &json));
    let drawn = args.html.as_ref().map_or(Ok(()), |file| write(file, &html::page(report)?));
    printed.and(saved).and(drawn)?;
    Ok(match report.level {
        Level::Pass => true,
        Level::Warn => !args.strict,
        Level::Fail => false,
    })
}

fn print(report: &Report, json: &str, as_json: bool) -> Result<()> {
    let table = report.table();
    let printed = if as_json {
        let table = io::stderr().write_all(table.as_bytes());
        writeln!(io::stdout(), "{json}").and(table)
    } else {
        io::stdout().write_all(table.as_bytes())
    };
    printed.and_then(|()| io::stdout().flush()).context("cannot print the report")
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

/// `Err` when nothing can be written under that name, or what has it is no file. Leaves nothing behind.
pub fn check_writable(file: &Path) -> Result<()> {
    if let Ok(metadata) = fs::metadata(file) {
        ensure!(metadata.is_file(), "{} is there, and is no file", file.display());
    }
    let unfinished = unfinished(file);
    let written = fs::write(&unfinished, "").and_then(|()| fs::remove_file(&unfinished));
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Whole or not at all.
pub fn write(file: &Path, text: &str) -> Result<()> {
    let unfinished = unfinished(file);
    let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, file));
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::findings::Role;
    use super::*;

    #[test]
    fn a_name_that_cannot_be_written_is_found_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let named = |name: &str| Some(folder.path().join(name));
        let of = |save, html| OutputArgs { save, html, ..OutputArgs::default() };
        of(named("report.json"), named("report.html")).check().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the check leaves nothing behind");
        fs::write(folder.path().join("report.json"), "of yesterday").unwrap();
        of(named("report.json"), None).check().unwrap();
        assert_eq!(fs::read(folder.path().join("report.json")).unwrap(), b"of yesterday");
        for args in [of(named("missing/report.json"), None), of(None, named("missing/page")), of(None, named(""))] {
            assert!(args.check().is_err(), "{args:?}");
        }
        let args = OutputArgs { thresholds: named("missing"), ..OutputArgs::default() };
        assert!(args.check().is_err());
    }

    #[test]
    fn a_file_that_cannot_be_written_does_not_cost_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let html = folder.path().join("page.html");
        let save = Some(folder.path().join("missing/report.json"));
        let args = OutputArgs { save, html: Some(html.clone()), ..OutputArgs::default() };
        let error = conclude(vec![Findings::new(Role::Host, "h", "h", 0)], Vec::new(), &args).unwrap_err();
        assert!(error.to_string().contains("missing/report.json"), "{error:#}");
        assert!(fs::read_to_string(html).unwrap().contains("<html"));
    }
}
