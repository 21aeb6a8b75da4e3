//! The book as mdBook builds it: without a warning, and each link of its pages leads to a page, a file and an anchor that are there.
//! `links.rs` looks at what was written, this at what a reader gets: redirects, rewritten links, mdBook's own anchors, images, the
//! table of contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::links::{self, Broken};
use super::{Found, folder};
use crate::process;
use crate::tools::{self, Tool};

pub fn check(found: &mut Found) -> anyhow::Result<()> {
    let program = Tool::Mdbook.find().with_context(|| format!("mdbook is missing: {}", Tool::Mdbook.hint()))?;
    let book = tools::target_folder().join("book");
    let mut build = Command::new(program);
    build.arg("build").arg(folder()).arg("--dest-dir").arg(&book).env_remove("RUST_LOG").env_remove("MDBOOK_LOG");
    let finished = process::capture(&mut build, Vec::new(), Duration::from_secs(120))?;
    if !finished.success {
        found.problem(&format!("mdbook build:\n{}\n{}", finished.stdout, finished.stderr));
        return Ok(());
    }
    for warning in warnings(&finished.stderr).chain(warnings(&finished.stdout)) {
        found.problem(&format!("mdbook build: {warning}"));
    }
    let pages = pages(&book)?;
    let broken = broken(&pages, |file| book.join(file).is_file());
    println!("{} built pages, {} links within them", pages.len(), broken.looked_at);
    found.fine(broken.looked_at);
    for problem in broken.problems {
        found.problem(&problem);
    }
    Ok(())
}

fn warnings(output: &str) -> impl Iterator<Item = &str> {
    let is_warning = |line: &&str| ["WARN", "ERROR"].iter().any(|level| line.trim_start().starts_with(level));
    output.lines().filter(is_warning)
}

/// Those of the built book, by their path in it.
fn pages(book: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut files = Vec::new();
    super::files_below(book, "html", &mut files)?;
    files.into_iter().map(|file| Ok((file.strip_prefix(book)?.to_owned(), fs::read_to_string(&file)?))).collect()
}

/// Links and images that lead nowhere. `is_file` knows what lies beside the pages.
fn broken(pages: &BTreeMap<PathBuf, String>, is_file: impl Fn(&Path) -> bool) -> Broken {
    let anchors: BTreeMap<&Path, BTreeSet<String>> =
        pages.iter().map(|(path, html)| (path.as_path(), values(html, "id").collect())).collect();
    let mut broken = Broken::default();
    for (page, html) in pages {
        for target in values(html, "href").chain(values(html, "src")).filter(|target| !links::is_elsewhere(target)) {
            broken.looked_at += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { Some(page.clone()) } else { links::plain(&page.with_file_name(path)) };
            let leads = file.is_some_and(|file| match pages.get(&file) {
                Some(_) if anchor.is_empty() => true,
                Some(html) => {
                    let file = redirected(&file, html);
                    anchors.get(file.as_path()).is_some_and(|anchors| anchors.contains(anchor))
                }
                None => is_file(&file),
            });
            if !leads {
                broken.problems.push(format!("built {}: the link to {target} leads nowhere", page.display()));
            }
        }
    }
    broken
}

/// Where a reader is sent on to; the page itself if nowhere.
fn redirected(page: &Path, html: &str) -> PathBuf {
    let to = html.split_once("http-equiv=\"refresh\" content=\"0; URL=").and_then(|(_, rest)| rest.split_once('"'));
    let target = to.and_then(|(to, _)| links::plain(&page.with_file_name(to)));
    target.unwrap_or_else(|| page.to_owned())
}

/// Of an attribute, wherever it stands. Text has its quotes escaped.
fn values<'a>(html: &'a str, attribute: &str) -> impl Iterator<Item = String> + use<'a> {
    let begin = format!(" {attribute}=\"");
    let mut rest = html;
    std::iter::from_fn(move || {
        let (value, behind) = rest.split_once(&begin)?.1.split_once('"')?;
        rest = behind;
        Some(value.replace("&amp;", "&").replace("&#39;", "'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(html: &str) -> Vec<String> {
        let other = "<h2 id=\"there\"><a class=\"header\" href=\"#there\">There</a></h2>";
        let redirect = "<meta http-equiv=\"refresh\" content=\"0; URL=index.html\">";
        let pages = [("a.html", html), ("f/index.html", other), ("f/README.html", redirect)];
        let pages = pages.into_iter().map(|(path, html)| (path.into(), html.to_owned())).collect();
        broken(&pages, |file| file == Path::new("f/x.svg")).problems
    }

    #[test]
    fn links_lead_to_pages_anchors_and_files_also_through_a_redirect() {
        let fine = "<p id=\"here\"><a href=\"#here\">a</a> <a href=\"f/index.html#there\">b</a> <img src=\"f/x.svg\">
            <a class=\"x\" href=\"f/README.html#there\">c</a> <a href=\"https://example.org/\">d</a> <code>href=&quot;no&quot;</code></p>";
        assert_eq!(problems_of(fine), Vec::<String>::new());
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        for target in ["#there", "f/index.html#here", "f/README.html#here", "g.html", "f/y.svg", "../../x.html"] {
            assert_eq!(problems_of(&format!("<a href=\"{target}\">x</a>")).len(), 1, "{target}");
        }
        assert_eq!(problems_of("<img alt=\"\" src=\"f/y.svg\">").len(), 1);
    }

    #[test]
    fn a_warning_of_the_build_is_one() {
        let output = " INFO Book building has started\n WARN the language is unknown\nERROR no\n";
        assert_eq!(warnings(output).count(), 2);
    }
}
