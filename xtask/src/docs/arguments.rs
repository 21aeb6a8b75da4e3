//! Commands that are not run here, or that stand within a text (`seawall wal verify`): the program itself is asked whether it knows them.
//! Ours are `seawall`, `seawall-qualify` and `cargo xtask`; of the Ansible collection, the playbooks and roles that are named must be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::fences::Block;
use super::{Found, Page};
use crate::{builds, process};

pub struct Programs {
    /// What a line begins with, and what is started for it.
    named: [(&'static str, PathBuf); 3],
}

impl Programs {
    /// `seawall-qualify` as the tests of the hardware step have built it.
    pub fn new(broker: &Path) -> anyhow::Result<Self> {
        let qualify = builds::program("seawall-qualify")?;
        let named = [
            ("seawall ", broker.to_owned()),
            ("seawall-qualify ", qualify),
            ("cargo xtask ", std::env::current_exe()?),
        ];
        Ok(Self { named })
    }

    pub fn qualify(&self) -> &Path {
        &self.named[1].1
    }

    /// The program of a command line, and the words behind its name.
    fn of<'a>(&self, line: &'a str) -> Option<(&Path, Vec<&'a str>)> {
        let (name, program) = self.named.iter().find(|(name, _)| line.starts_with(name))?;
        Some((program, line[name.len()..].split_whitespace().collect()))
    }
}

/// What a reader has in the place of `ID`.
const SOME_ID: &str = "00000000-0000-0000-0000-000000000001";

/// Of blocks that are not run here: the program takes these words. `--help` behind them keeps it from doing anything, and it looks at the words
/// in their order, so that one which it does not know is an error.
pub fn check_block(block: &Block, programs: &Programs, found: &mut Found) -> anyhow::Result<usize> {
    let mut looked_at = 0;
    for line in lines(&block.text) {
        let Some((program, words)) = programs.of(&line) else { continue };
        looked_at += 1;
        // What stands behind `--` is another program's, `--help` too.
        let own = words.into_iter().take_while(|word| *word != "--");
        let words: Vec<&str> = own.map(|word| if word == "ID" { SOME_ID } else { word }).collect();
        let asked = ask(program, &[&words[..], &["--help"]].concat())?;
        if asked.success {
            found.fine(1);
        } else {
            found.problem(&format!("{}: `{line}` is not understood:\n{}", block.place(), asked.tail()));
        }
    }
    Ok(looked_at)
}

/// Commands as they would be typed: continued lines joined, without comments and what their output goes to.
fn lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let commands = joined.lines().flat_map(|line| line.split(" #").next().unwrap_or("").split(['|', ';']));
    let commands = commands.map(|command| command.split(" >").next().unwrap_or("").trim());
    let commands = commands.map(|command| command.strip_prefix("sudo ").unwrap_or(command));
    commands.filter(|command| !command.is_empty() && !command.starts_with('#')).map(str::to_owned).collect()
}

/// The commands within texts, each once: the subcommand is there and has these options.
pub fn check_inline(pages: &[Page], programs: &Programs, found: &mut Found) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for page in pages {
        let place = page.path.display();
        for command in inline(&page.text) {
            let Some((program, words)) = programs.of(command) else { continue };
            if !seen.insert(command.to_owned()) {
                continue;
            }
            let (path, options) = parts(&words);
            match known(program, &path)? {
                None => found.problem(&format!("{place}: `{command}` is no command")),
                Some(help) => match options.iter().find(|option| !help.contains(**option)) {
                    Some(option) => found.problem(&format!("{place}: `{command}` has no {option}")),
                    None => found.fine(1),
                },
            }
        }
        for name in of_collection(&page.text).filter(|name| seen.insert(format!("seawall.cluster.{name}"))) {
            if is_in_collection(name) {
                found.fine(1);
            } else {
                found.problem(&format!("{place}: the collection has no seawall.cluster.{name}"));
            }
        }
    }
    println!("{} commands within texts looked up", seen.len());
    Ok(())
}

/// The help of the longest beginning of these words that is a command; its arguments stand behind.
fn known(program: &Path, words: &[&str]) -> anyhow::Result<Option<String>> {
    let help = |words: &[&str]| -> anyhow::Result<Option<String>> {
        let asked = ask(program, &[words, &["--help"]].concat())?;
        Ok(asked.success.then_some(asked.stdout))
    };
    let Some(first) = words.first() else { return help(&[]) };
    let Some(said) = help(&[first])? else { return Ok(None) };
    match words.get(1) {
        // With commands of its own: the next word must be one of them.
        Some(second) if said.contains("\nCommands:\n") => help(&[first, second]),
        _ => Ok(Some(said)),
    }
}

fn ask(program: &Path, words: &[&str]) -> anyhow::Result<process::Finished> {
    process::capture(Command::new(program).args(words), Vec::new(), Duration::from_secs(30))
        .with_context(|| format!("{} {}", program.display(), words.join(" ")))
}

fn inline(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    let lines = text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    // Every second piece between backticks is code.
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The words before the first argument or option, and the options.
fn parts<'a>(words: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let is_command =
        |word: &&str| !word.starts_with('-') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let path = words.iter().copied().take_while(is_command);
    let options = words.iter().copied().filter(|word| word.starts_with("--"));
    (path.collect(), options.map(|word| word.split(['=', '\\']).next().unwrap_or(word)).collect())
}

/// What texts and commands name of the collection.
fn of_collection(text: &str) -> impl Iterator<Item = &str> {
    text.split("seawall.cluster.").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        (end > 0).then(|| &rest[..end])
    })
}

fn is_in_collection(name: &str) -> bool {
    let file = |path: String| crate::root().join("ansible").join(path).exists();
    file(format!("playbooks/{name}.yml")) || file(format!("roles/{name}")) || file(format!("plugins/modules/{name}.py"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_within_a_text_is_its_words_and_its_options() {
        let text = "Use `seawall wal verify DEVICE --json` or `other`.\n```text\n`seawall no`\n```\n";
        assert_eq!(inline(text).collect::<Vec<_>>(), ["seawall wal verify DEVICE --json", "other"]);
        assert_eq!(parts(&["wal", "verify", "DEVICE", "--json"]), (vec!["wal", "verify"], vec!["--json"]));
        assert_eq!(parts(&["restore", "--only", "--config=x"]), (vec!["restore"], vec!["--only", "--config"]));
    }

    #[test]
    fn a_block_is_the_commands_that_would_be_typed() {
        let text = "seawall wal replace \\\n  --with NEW           # says what it would do\n# no command\nsudo seawall-qualify thresholds > mine.toml\nseawall x | jq .\n";
        assert_eq!(
            lines(text),
            ["seawall wal replace    --with NEW", "seawall-qualify thresholds", "seawall x", "jq ."]
        );
    }

    #[test]
    fn names_of_the_collection_are_found_wherever_they_stand() {
        let text =
            "ansible-playbook -i x seawall.cluster.site -e a=b; `seawall.cluster.rolling_upgrade`, seawall.cluster.";
        assert_eq!(of_collection(text).collect::<Vec<_>>(), ["site", "rolling_upgrade"]);
        assert!(is_in_collection("site") && is_in_collection("qualify") && !is_in_collection("no_such"));
    }
}
