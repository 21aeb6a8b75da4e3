//! Where the links of the pages lead: files of the checkout, and headings by the anchors that mdBook and GitHub give them. Links to the web
//! are not followed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::Page;

#[derive(Default)]
pub struct Broken {
    pub looked_at: usize,
    pub problems: Vec<String>,
}

pub fn broken(pages: &[Page]) -> Broken {
    let anchors: BTreeMap<&Path, BTreeSet<String>> =
        pages.iter().map(|page| (page.path.as_path(), anchors(&page.text))).collect();
    let mut broken = Broken::default();
    for page in pages {
        let text = outside_fences(&page.text);
        for target in targets(&text).into_iter().filter(|target| !is_elsewhere(target)) {
            broken.looked_at += 1;
            if !leads_somewhere(target, &page.path, &anchors) {
                broken.problems.push(format!("{}: the link to {target} leads nowhere", page.path.display()));
            }
        }
    }
    broken
}

fn leads_somewhere(target: &str, page: &Path, anchors: &BTreeMap<&Path, BTreeSet<String>>) -> bool {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let file = match path {
        "" => Some(page.to_owned()),
        path => plain(&page.with_file_name(path)),
    };
    let Some(file) = file else { return false };
    match anchor {
        Some(anchor) => anchors.get(file.as_path()).is_some_and(|anchors| anchors.contains(anchor)),
        None => crate::root().join(file).exists(),
    }
}

pub fn is_elsewhere(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

/// Without `.` and `..`; none if it leads out of the checkout.
pub fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir if !plain.pop() => return None,
            Component::ParentDir | Component::CurDir => {}
            _ => return None,
        }
    }
    Some(plain)
}

/// Of the headings: their letters, digits, `-` and `_` in lower case, spaces as `-`; a repeated one has its number behind it.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for heading in outside_fences(text).lines().filter_map(heading) {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
        let anchor: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
        let times = seen.entry(anchor.clone()).or_default();
        anchors.insert(if *times == 0 { anchor } else { format!("{anchor}-{times}") });
        *times += 1;
    }
    anchors
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    (text.len() < line.len()).then(|| text.strip_prefix(' ')).flatten().map(str::trim)
}

fn outside_fences(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.map(|line| line.to_owned() + "\n").collect()
}

/// What a markdown text links to.
pub fn targets(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_without_its_page_or_its_anchor_is_found() {
        let page = |path: &str, text: &str| Page { path: path.into(), text: text.into() };
        let text = "[a](#here) [b](../Cargo.toml) [c](f/b.md#of-what---repair) [d](https://example.org)\n```\n[no](no.md)\n```\n## Here\n";
        let other = page("docs/f/b.md", "# Of what `--repair`\n# Of what `--repair`\n");
        let fine = broken(&[page("docs/a.md", text), page("docs/f/b.md", &other.text)]);
        assert_eq!((fine.looked_at, fine.problems.len()), (3, 0), "{:?}", fine.problems);
        let bad = "[a](#there) [b](../Cargo.lockk) [c](f/b.md#nothing) [d](../../x)";
        assert_eq!(broken(&[page("docs/a.md", bad), other]).problems.len(), 4);
    }

    #[test]
    fn repeated_headings_have_numbers() {
        let anchors = anchors("# A b!\n## A b\n#no heading\n");
        assert_eq!(anchors, BTreeSet::from(["a-b".to_owned(), "a-b-1".to_owned()]));
    }
}
