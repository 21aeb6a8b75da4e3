//! The report as one page that needs nothing else: style and drawings are in it, no script, no network.

mod drawing;

use anyhow::Result;
use seawall_wal_device::passport::utc;

use super::findings::{Findings, name_and_unit, with_unit};
use super::report::{Failure, Report};
use super::verdict::{BadSlices, Level, Verdict};

const STYLE: &str = include_str!("html/style.css");

pub fn page(report: &Report) -> Result<String> {
    let mut body = String::new();
    body += &format!(
        "<h1>Qualification report</h1>\n<p class=\"{}\">{} &middot; {} &middot; seawall-qualify {}</p>\n",
        class(report.level),
        word(report.level),
        date(report.made_unix_s),
        escape(&report.version)
    );
    body += &overview(report);
    for (verdict, findings) in report.verdicts.iter().zip(&report.findings) {
        body += &part(verdict, findings)?;
    }
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Qualification report</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    ))
}

/// Verdicts, the worst first, outliers and what did not end: what one reads first, and often alone.
fn overview(report: &Report) -> String {
    let mut text = "<table class=\"verdicts\">\n".to_owned();
    let mut verdicts: Vec<&Verdict> = report.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| std::cmp::Reverse(verdict.level));
    for verdict in verdicts {
        let Verdict { host, subject, summary, level, .. } = verdict;
        text += &format!(
            "<tr class=\"{}\"><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            class(*level),
            word(*level),
            escape(host),
            escape(if subject == host { "" } else { subject }),
            escape(summary)
        );
    }
    for Failure { host, probe, error } in &report.failures {
        text += &format!(
            "<tr class=\"fail\"><td>no result</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            escape(host),
            escape(probe),
            escape(error)
        );
    }
    text += "</table>\n";
    if !report.outliers.is_empty() {
        text += "<h2>Outliers</h2>\n<ul>\n";
        for outlier in &report.outliers {
            text += &format!("<li>{}</li>\n", escape(&outlier.sentence));
        }
        text += "</ul>\n";
    }
    text
}

fn part(verdict: &Verdict, findings: &Findings) -> Result<String> {
    let place = if findings.subject == findings.host {
        findings.host.clone()
    } else {
        format!("{} on {}", findings.subject, findings.host)
    };
    let mut text = format!(
        "<section>\n<h2>{}: {}</h2>\n<p class=\"{}\">{}</p>\n",
        escape(findings.role.title()),
        escape(&place),
        class(verdict.level),
        escape(&verdict.summary)
    );
    text += "<table>\n<tr><th></th><th>asked</th><th>seen</th><th>must be</th><th>why</th></tr>\n";
    for check in &verdict.checks {
        let slices = check.slices.map_or(String::new(), |BadSlices { bad, of, worst }| {
            format!(" ({bad} of {of} slices, the worst is slice {})", worst + 1)
        });
        text += &format!(
            "<tr class=\"{}\"><td>{}</td><td>{}</td><td>{}{}</td><td>{}</td><td class=\"why\">{}</td></tr>\n",
            class(check.level),
            check.level,
            escape(&check.title),
            escape(&check.seen),
            escape(&slices),
            escape(&check.bound),
            escape(if check.level == Level::Pass { "" } else { &check.why })
        );
    }
    text += "</table>\n";
    text += "<div class=\"drawings\">\n";
    for (name, series) in &findings.series {
        if series.seen().count() >= 2 {
            text += &drawing::series(name, series, verdict.checks.iter().find(|check| check.name == *name))?;
        }
    }
    for (name, distribution) in &findings.distributions {
        if distribution.buckets.len() >= 2 {
            text += &drawing::histogram(name, distribution)?;
        }
    }
    text += "</div>\n<details>\n<summary>Everything that was seen</summary>\n<table>\n";
    for (name, fact) in &findings.facts {
        text +=
            &format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(&name.replace('_', " ")), escape(&fact.to_string()));
    }
    for (name, value) in &findings.measures {
        let (words, _) = name_and_unit(name);
        text += &format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(&words), escape(&with_unit(name, *value)));
    }
    text += "</table>\n</details>\n";
    for note in &findings.notes {
        text += &format!("<p class=\"note\">{}</p>\n", escape(note));
    }
    Ok(text + "</section>\n")
}

fn class(level: Level) -> &'static str {
    match level {
        Level::Pass => "pass",
        Level::Warn => "warn",
        Level::Fail => "fail",
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Pass => "qualified",
        Level::Warn => "with warnings",
        Level::Fail => "not qualified",
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

/// `2026-11-21 23:04 UTC`.
fn date(unix_s: u64) -> String {
    let text = utc(unix_s);
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    format!("{day} {} UTC", time.get(..5).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_795_302_240), "2026-11-21 23:04 UTC");
    }
}
