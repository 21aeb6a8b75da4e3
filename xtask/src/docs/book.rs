//! The book of docs/: its table of contents, which is mdBook's, names every page, and its links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::{Found, Page, folder, links};

const SUMMARY: &str = "SUMMARY.md";

pub fn check(pages: &[Page], found: &mut Found) -> anyhow::Result<()> {
    let summary = fs::read_to_string(folder().join(SUMMARY))?;
    let files = pages.iter().filter_map(|page| page.path.strip_prefix("docs").ok().map(|path| path.to_owned()));
    for problem in differences(&summary, files) {
        found.problem(&problem);
    }
    let broken = links::broken(pages);
    println!("{} pages, {} links", pages.len(), broken.looked_at);
    found.fine(broken.looked_at);
    for problem in broken.problems {
        found.problem(&problem);
    }
    Ok(())
}

/// Pages that the table of contents does not name, and names without a page.
fn differences(summary: &str, files: impl Iterator<Item = PathBuf>) -> Vec<String> {
    let listed: BTreeSet<PathBuf> = links::targets(summary).into_iter().map(PathBuf::from).collect();
    let files: BTreeSet<PathBuf> = files.filter(|file| file.as_os_str() != SUMMARY).collect();
    let missing = files.difference(&listed).map(|file| {
        let file = file.display();
        format!(
            "docs/{file} is not in docs/SUMMARY.md: add a line `- [Title]({file})` where a reader would look for it"
        )
    });
    let gone =
        listed.difference(&files).map(|file| format!("docs/SUMMARY.md names {}, which is not there", file.display()));
    missing.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_not_listed_and_a_name_without_a_page_are_found() {
        let summary = "# Summary\n- [A](a.md)\n  - [B](f/b.md)\n";
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>().into_iter();
        assert!(differences(summary, files(&["SUMMARY.md", "a.md", "f/b.md"])).is_empty());
        let problems = differences(summary, files(&["a.md", "c.md"]));
        assert!(problems[0].starts_with("docs/c.md is not in"), "{problems:?}");
        assert!(problems[1].contains("names f/b.md"), "{problems:?}");
    }
}
