//! The fenced blocks of a page, and what their first line says: how commands are run, or why not.
//!
//! ```text
//! sh                    run; must end with 0
//! sh exit=13            run; must end with 13
//! sh background         run until the end of the page; the next block waits until the broker is ready
//! sh on: PLACE          run by `cargo xtask docs --hosts` alone, at that place of a lab; `sh exit=13 on: PLACE` as well
//! sh also on: PLACE     run there, too
//! sh not-run: REASON    not run at all
//! text printed          what the block before it prints, to the letter
//! toml                  a configuration, which must be valid
//! toml not-run: REASON  another one
//! LANGUAGE file: NAME   what a reader writes into that file: `--hosts` gives it to the blocks of the page
//! ```

use std::path::PathBuf;

use super::Page;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub page: PathBuf,
    /// Of its first line.
    pub line: usize,
    pub text: String,
    pub how: How,
    /// Where `--hosts` runs it.
    pub on: Option<Place>,
    /// All that it must print.
    pub printed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    Run {
        exit: i32,
    },
    Background,
    /// By `--hosts` alone.
    OnlyOn {
        exit: i32,
    },
    NotRun(String),
    Config,
    /// Of this name.
    File(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A server of the lab, as root.
    Host,
    /// The machine that reaches the servers, in a folder that is its checkout and its home.
    Controller,
    /// Where a Ceph is administered.
    Ceph,
    /// Where a MinIO is.
    Minio,
}

impl Place {
    const ALL: [(&str, Self); 4] =
        [("host", Self::Host), ("controller", Self::Controller), ("ceph", Self::Ceph), ("minio", Self::Minio)];

    fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, place)| *place)
    }

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, place)| *place == self).map_or("", |(name, _)| name)
    }
}

impl Block {
    /// What it must end with.
    pub fn exit(&self) -> i32 {
        match self.how {
            How::Run { exit } | How::OnlyOn { exit } => exit,
            _ => 0,
        }
    }

    pub fn place(&self) -> String {
        format!("{}:{}", self.page.display(), self.line)
    }
}

/// Commands and configurations of a page. An error is the line that cannot be understood.
pub fn blocks(page: &Page) -> Result<Vec<Block>, String> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(said) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let body = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.trim_start().starts_with("```"));
        // Within a list a block is indented.
        let text: String = body.map(|line| line.get(indent..).unwrap_or("").to_owned() + "\n").collect();
        let wrong = |what: String| format!("{}:{}: {what}", page.path.display(), at + 1);
        if said == "text printed" {
            match blocks.last_mut() {
                Some(Block { how: How::Run { .. } | How::OnlyOn { .. }, printed, .. }) => *printed = Some(text),
                _ => return Err(wrong("there is no command before it".to_owned())),
            }
        } else if let Some((how, on)) = how(said).map_err(wrong)? {
            blocks.push(Block { page: page.path.clone(), line: at + 1, text, how, on, printed: None });
        }
    }
    Ok(blocks)
}

fn how(said: &str) -> Result<Option<(How, Option<Place>)>, String> {
    let (language, rest) = said.split_once(' ').unwrap_or((said, ""));
    if let Some(name) = rest.strip_prefix("file: ") {
        return Ok(Some((How::File(name.to_owned()), None)));
    }
    let how = match (language, rest) {
        ("sh" | "toml", rest) if rest.starts_with("not-run: ") => How::NotRun(rest["not-run: ".len()..].to_owned()),
        ("sh", "background") => How::Background,
        ("sh", rest) => {
            let known = "sh, sh exit=N, sh background, sh on: PLACE, sh also on: PLACE, sh not-run: REASON";
            return run(rest).map(Some).ok_or_else(|| format!("`{said}` is none of: {known}"));
        }
        ("toml", "") => How::Config,
        ("toml", _) => return Err(format!("`{said}` is none of: toml, toml file: NAME, toml not-run: REASON")),
        ("bash" | "shell" | "console", _) => return Err(format!("commands are marked `sh`, not `{language}`")),
        _ => return Ok(None),
    };
    Ok(Some((how, None)))
}

/// With what it ends, and where it is run.
fn run(said: &str) -> Option<(How, Option<Place>)> {
    let (before, place) = match said.split_once("on: ") {
        Some((before, place)) => (before.trim_end(), Some(Place::of(place)?)),
        None => (said, None),
    };
    let (code, also) = match before.strip_suffix("also") {
        Some(code) if place.is_some() => (code.trim_end(), true),
        _ => (before, false),
    };
    let exit = if code.is_empty() { 0 } else { code.strip_prefix("exit=")?.parse().ok()? };
    let how = if place.is_some() && !also { How::OnlyOn { exit } } else { How::Run { exit } };
    Some((how, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Block>, String> {
        blocks(&Page { path: "docs/a.md".into(), text: text.to_owned() })
    }

    #[test]
    fn blocks_say_how_they_are_run() {
        let found = of("a\n```sh\nls\n```\n```text\nnothing\n```\n1. b\n   ```sh exit=3\n   exit 3\n   ```\n").unwrap();
        assert_eq!((found[0].line, found[0].text.as_str(), &found[0].how), (2, "ls\n", &How::Run { exit: 0 }));
        assert_eq!((found[1].text.as_str(), &found[1].how), ("exit 3\n", &How::Run { exit: 3 }));
        assert_eq!(of("```sh\nls\n```\n```text printed\na\n```\n").unwrap()[0].printed, Some("a\n".into()));
        assert_eq!(of("```sh not-run: no disk\nx\n```").unwrap()[0].how, How::NotRun("no disk".into()));
        assert_eq!(of("```toml\nx = 1\n```").unwrap()[0].how, How::Config);
        assert_eq!(of("```json file: policy.json\n{}\n```").unwrap()[0].how, How::File("policy.json".into()));
    }

    #[test]
    fn blocks_say_where_they_are_run() {
        let how = |said: &str| {
            let block = of(&format!("```{said}\nls\n```")).unwrap().remove(0);
            (block.how, block.on)
        };
        assert_eq!(how("sh on: host"), (How::OnlyOn { exit: 0 }, Some(Place::Host)));
        assert_eq!(how("sh exit=13 on: controller"), (How::OnlyOn { exit: 13 }, Some(Place::Controller)));
        assert_eq!(how("sh also on: ceph"), (How::Run { exit: 0 }, Some(Place::Ceph)));
        assert_eq!(how("sh exit=1 also on: minio"), (How::Run { exit: 1 }, Some(Place::Minio)));
        assert_eq!(how("sh exit=1"), (How::Run { exit: 1 }, None));
    }

    #[test]
    fn a_command_cannot_hide_behind_another_word() {
        let faulty = ["console", "sh norun", "sh exit=x", "sh on: nowhere", "sh also", "sh also host", "sh x on: host"];
        for said in faulty.iter().chain(&["toml x", "text printed"]) {
            assert!(of(&format!("```{said}\n```")).unwrap_err().starts_with("docs/a.md:1: "), "{said}");
        }
    }
}
