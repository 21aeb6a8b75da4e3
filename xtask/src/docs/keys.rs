//! docs/config-keys.md: every key of the configuration as a table, made of docs/broker.example.toml, which a test of the broker keeps
//! equal to its config structs. The section `[kafka]` has a page of its own.

use std::fs;

use super::{Found, folder};

const PAGE: &str = "config-keys.md";
const EXAMPLE: &str = "broker.example.toml";

const HEAD: &str = "# Every key

Written by `cargo xtask docs --write` from [broker.example.toml](broker.example.toml), which a test keeps equal to the code.
[configuration.md](configuration.md) explains. A key without a default is not set unless the file has it; what stands there is an example.
The configs of the section `[kafka]` are Kafka's: [kafka-configs.md](kafka-configs.md) lists them.
";

pub fn write() -> anyhow::Result<()> {
    Ok(fs::write(folder().join(PAGE), wanted()?)?)
}

pub fn check(found: &mut Found) -> anyhow::Result<()> {
    if fs::read_to_string(folder().join(PAGE)).unwrap_or_default() == wanted()? {
        found.fine(1);
    } else {
        found.problem(&format!("docs/{PAGE} is not what docs/{EXAMPLE} says: `cargo xtask docs --write`"));
    }
    Ok(())
}

fn wanted() -> anyhow::Result<String> {
    Ok(page(&fs::read_to_string(folder().join(EXAMPLE))?))
}

fn page(example: &str) -> String {
    let mut page = HEAD.to_owned();
    let mut said = String::new();
    let mut section = String::new();
    for line in example.lines() {
        let (text, set) = match line.strip_prefix("# ") {
            Some(text) => (text, false),
            None => (line, true),
        };
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            if section == "kafka" {
                break;
            }
            page += &format!("\n## `{line}`\n{said}\n\n| key | default | what |\n|---|---|---|\n");
            said.clear();
        } else if let Some((key, value)) = text.split_once(" = ").filter(|(key, _)| is_key(key) && !section.is_empty())
        {
            let value = value.replace('|', "\\|");
            let default = if set { format!("`{value}`") } else { format!("none (`{value}`)") };
            // Keys that belong together stand below one comment.
            let what = if said.is_empty() { "as above".to_owned() } else { said.replace('|', "\\|") };
            page += &format!("| `{key}` | {default} | {what} |\n");
            said.clear();
        } else if line.is_empty() {
            said.clear();
        } else if !set {
            if !said.is_empty() {
                said.push(' ');
            }
            said += text;
        }
    }
    page
}

fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_default_or_its_example_and_what_is_said_above_it() {
        let example =
            "# A file.\n\n# Of a.\n[a]\n# One,\n# two.\nx = 1\n# Not set.\n# y_z = \"b\"\n[kafka]\n# No.\nz = 1\n";
        let page = page(example);
        assert!(page.contains("## `[a]`\nOf a.\n"), "{page}");
        assert!(page.contains("| `x` | `1` | One, two. |\n| `y_z` | none (`\"b\"`) | Not set. |\n"), "{page}");
        assert!(!page.contains("No."), "{page}");
    }
}
