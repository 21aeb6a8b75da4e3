//! What a package holds beside the binaries and comes from their command lines: a man page for each command, and completions for shells.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap_complete::Shell;

/// Folder of a shell's completions, below the one that is written to.
const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

/// Both binaries.
pub fn commands() -> [clap::Command; 2] {
    [seawall::cli::command(), seawall_qualify::cli::command()].map(|command| command.version(env!("CARGO_PKG_VERSION")))
}

/// `man/NAME.1` and `SHELL/...`, anew.
pub fn write(folder: &Path) -> Result<()> {
    for part in SHELLS.iter().map(|(name, _)| *name).chain(["man"]) {
        let part = folder.join(part);
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
    }
    for command in commands() {
        let name = command.get_name().to_owned();
        for (part, shell) in SHELLS {
            let into = folder.join(part);
            let written = clap_complete::generate_to(shell, &mut command.clone(), &name, &into)?;
            if shell == Shell::Bash {
                // bash looks for the bare name.
                fs::rename(written, into.join(&name))?;
            }
        }
        clap_mangen::generate_to(command, folder.join("man"))?;
    }
    Ok(())
}
