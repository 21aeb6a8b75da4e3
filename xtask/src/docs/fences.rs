//! The fenced blocks of a page, and what their first line says: how commands are run, or why not.
//!
//! ```text
//! sh                    run; must end with 0
//! sh exit=13            run; must end with 13
//! sh background         run until the end of the page; the next block waits until the broker is ready
//! sh not-run: REASON    not run here
//! text printed          what the block before it prints, to the letter
//! toml                  a configuration, which must be valid
//! toml not-run: REASON  another one
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
    /// All that it must print.
    pub printed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    Run { exit: i32 },
    Background,
    NotRun(String),
    Config,
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
                Some(Block { how: How::Run { .. }, printed, .. }) => *printed = Some(text),
                _ => return Err(wrong("there is no command before it".to_owned())),
            }
        } else if let Some(how) = how(said).map_err(wrong)? {
            blocks.push(Block { page: page.path.clone(), line: at + 1, text, how, printed: None });
        }
    }
    Ok(blocks)
}

fn how(said: &str) -> Result<Option<How>, String> {
    let (language, rest) = said.split_once(' ').unwrap_or((said, ""));
    let how = match (language, rest) {
        ("sh" | "toml", rest) if rest.starts_with("not-run: ") => How::NotRun(rest["not-run: ".len()..].to_owned()),
        ("sh", "") => How::Run { exit: 0 },
        ("sh", "background") => How::Background,
        ("sh", rest) => match rest.strip_prefix("exit=").and_then(|code| code.parse().ok()) {
            Some(exit) => How::Run { exit },
            None => return Err(format!("`{said}` is none of: sh, sh exit=N, sh background, sh not-run: REASON")),
        },
        ("toml", "") => How::Config,
        ("toml", _) => return Err(format!("`{said}` is none of: toml, toml not-run: REASON")),
        ("bash" | "shell" | "console", _) => return Err(format!("commands are marked `sh`, not `{language}`")),
        _ => return Ok(None),
    };
    Ok(Some(how))
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
    }

    #[test]
    fn a_command_cannot_hide_behind_another_word() {
        for text in
            ["```console\n```", "```sh norun\n```", "```sh exit=x\n```", "```toml x\n```", "```text printed\n```"]
        {
            assert!(of(text).unwrap_err().starts_with("docs/a.md:1: "));
        }
    }
}
