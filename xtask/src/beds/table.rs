//! What the suite said of each store, as a table: for the screen and for docs/backends/conformance.md.

use serde::Deserialize;

use super::habits::Habit;
use super::starts::Said;

/// What `seawall backend check --json` prints.
#[derive(Deserialize)]
pub struct Suite {
    usable: bool,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    base: bool,
    ms: u64,
    error: Option<String>,
}

impl Suite {
    pub fn verdict(&self) -> String {
        let failed = self.cases.iter().filter(|case| case.error.is_some()).count();
        let usable = if self.usable { "usable" } else { "NOT usable" };
        format!("{usable}, {} cases passed, {failed} failed", self.cases.len() - failed)
    }

    fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.case == name)
    }
}

/// One store, reached in one way.
pub struct Column {
    pub kind: &'static str,
    pub version: String,
    pub form: &'static str,
    pub suite: Suite,
    pub kills: u64,
    /// None where the crash test was not run.
    pub crash: Option<bool>,
    /// Empty where nobody asked.
    pub habits: Vec<Habit>,
    /// Of starts that must fail; empty where none was tried.
    pub starts: Vec<Said>,
}

impl Column {
    pub fn passed(&self) -> bool {
        let all_told = self.starts.iter().all(|(_, instead)| instead.is_none());
        let all_passed = self.suite.cases.iter().all(|case| case.error.is_none());
        self.suite.usable && all_passed && self.crash != Some(false) && all_told
    }

    fn cell(&self, case: &str) -> &'static str {
        match self.suite.case(case) {
            Some(Case { error: None, .. }) => "ok",
            Some(_) => "**failed**",
            None => "not offered",
        }
    }

    fn title(&self) -> String {
        format!("{} {}", self.kind, self.form)
    }
}

/// Markdown that people can read as it is.
pub fn render(columns: &[Column]) -> String {
    let mut rows = vec![row("case", columns, Column::title), row("---", columns, |_| "---".to_owned())];
    for (name, base) in cases(columns) {
        let name = if base { format!("{name} (base)") } else { name };
        let case = name.trim_end_matches(" (base)").to_owned();
        rows.push(row(&name, columns, |column| column.cell(&case).to_owned()));
    }
    rows.push(row("seconds of the suite", columns, |column| {
        let ms: u64 = column.suite.cases.iter().map(|case| case.ms).sum();
        format!("{:.1}", ms as f64 / 1e3)
    }));
    rows.push(row("crash test: every acked record is there, once and in order", columns, |column| {
        match (column.crash, column.kills) {
            (Some(true), kills) => format!("ok, {kills} kills"),
            (Some(false), _) => "**failed**".to_owned(),
            (None, _) => "not run".to_owned(),
        }
    }));
    let mut wrongs: Vec<&str> = Vec::new();
    for (wrong, _) in columns.iter().flat_map(|column| &column.starts) {
        if !wrongs.contains(wrong) {
            wrongs.push(wrong);
        }
    }
    for wrong in wrongs {
        let cell = |column: &Column| match column.starts.iter().find(|(tried, _)| *tried == wrong) {
            Some((_, None)) => "told".to_owned(),
            Some((_, Some(_))) => "**not told**".to_owned(),
            None => "not run".to_owned(),
        };
        rows.push(row(&format!("a start with {wrong} is refused"), columns, cell));
    }
    let mut text = rows.concat();
    for column in columns {
        for (wrong, instead) in &column.starts {
            if let Some(instead) = instead {
                text += &format!("\n- {}, a start with {wrong}: {instead}", column.title());
            }
        }
        for case in column.suite.cases.iter() {
            if let Some(error) = &case.error {
                text += &format!("\n- {}, \"{}\": {error}", column.title(), case.case);
            }
        }
    }
    text
}

/// What the stores do beyond what is needed of them.
fn habits(columns: &[Column]) -> String {
    let asked: Vec<&Column> = columns.iter().filter(|column| !column.habits.is_empty()).collect();
    let line = |name: &str, cell: &dyn Fn(&Column) -> String| -> String {
        let cells: String = asked.iter().map(|&column| format!(" {} |", cell(column))).collect();
        format!("| {name} |{cells}\n")
    };
    let mut text = line("request", &Column::title) + &line("---", &|_| "---".to_owned());
    let questions =
        asked.first().map(|column| column.habits.iter().map(|(question, _)| *question)).into_iter().flatten();
    for question in questions {
        text += &line(question, &|column| {
            let seen = column.habits.iter().find(|(asked, _)| *asked == question);
            seen.map(|(_, seen)| seen.clone()).unwrap_or_default()
        });
    }
    text
}

/// The whole page.
pub fn page(columns: &[Column]) -> String {
    let mut versions: Vec<String> =
        columns.iter().map(|column| format!("`{}` {}", column.kind, column.version)).collect();
    versions.dedup();
    format!(
        "# Conformance\n\n\
         Written by `cargo xtask stores --write`: every cell was run against the real server on loopback. `(base)` is what a broker\n\
         cannot do without. {}\n\n\
         Versions: {}.\n\n{}\n\n\
         ## Habits\n\
         What the stores answer beyond that, asked with signed requests without our client. Nothing here is needed.\n\n{}",
        if columns.iter().any(|column| column.kind == "cubefs") { "" } else { "Not run on a real CubeFS." },
        versions.join(", "),
        render(columns),
        habits(columns)
    )
}

/// Every case that any of them ran, in the order of the suite.
fn cases(columns: &[Column]) -> Vec<(String, bool)> {
    let mut all: Vec<(String, bool)> = Vec::new();
    for case in columns.iter().flat_map(|column| &column.suite.cases) {
        if !all.iter().any(|(name, _)| *name == case.case) {
            all.push((case.case.clone(), case.base));
        }
    }
    all
}

fn row(name: &str, columns: &[Column], cell: impl Fn(&Column) -> String) -> String {
    let cells: String = columns.iter().map(|column| format!(" {} |", cell(column))).collect();
    format!("| {name} |{cells}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(form: &'static str, document: &str) -> Column {
        let suite = serde_json::from_str(document).unwrap();
        Column {
            kind: "minio",
            version: "v1".into(),
            form,
            suite,
            kills: 4,
            crash: Some(true),
            habits: Vec::new(),
            starts: Vec::new(),
        }
    }

    #[test]
    fn a_case_that_failed_shows_in_its_cell_and_with_its_words() {
        let mut good = column(
            "http",
            r#"{"kind":"minio","usable":true,"load":[],"cases":[{"case":"a put is read","base":true,"ms":1,"error":null}]}"#,
        );
        let bad = column(
            "https",
            r#"{"kind":"minio","usable":true,"load":[],"cases":[{"case":"parts join","base":false,"ms":1,"error":"lost"}]}"#,
        );
        assert!(good.passed() && !bad.passed());
        good.starts.push(("another secret key", None));
        good.habits.push(("another bucket", "404 NoSuchBucket".to_owned()));
        let page = page(&[good, bad]);
        assert!(page.contains("| a put is read (base) | ok | not offered |"), "{page}");
        assert!(page.contains("| parts join | not offered | **failed** |"), "{page}");
        assert!(page.contains("| another bucket | 404 NoSuchBucket |\n"), "{page}");
        assert!(page.contains("| a start with another secret key is refused | told | not run |"), "{page}");
        assert!(page.contains("- minio https, \"parts join\": lost"), "{page}");
    }

    #[test]
    fn a_crash_test_that_failed_is_a_failure() {
        let good = r#"{"usable":true,"cases":[]}"#;
        assert!(column("http", good).passed());
        assert!(!Column { crash: Some(false), ..column("http", good) }.passed());
        let starts = vec![("another secret key", Some("it started".to_owned()))];
        assert!(!Column { starts, ..column("http", good) }.passed());
    }
}
