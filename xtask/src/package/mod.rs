//! `cargo xtask package`: the Debian package, made by cargo-deb of what lies in `packaging/`.
//!
//! Both binaries and the program that writes man pages and completions come from one build, so that what they share is compiled once; it
//! is the build that benches and tests of the release take as well.

mod journey;
mod licences;
mod site;
mod unpacked;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use unpacked::Unpacked;

use crate::process;
use crate::tools::{self, Tool};

/// What "release build" of `cargo xtask test` runs.
pub const RELEASE_BUILD: &str = "cargo build --quiet --release -p seawall -p seawall-qualify -p seawall-packaging --features seawall-qualify/backend";
/// Of `cargo xtask package test`: those of a lab, a packer, a client.
pub const TEST_TOOLS: &[Tool] = &[
    Tool::CargoDeb,
    Tool::Kcat,
    Tool::Nspawn,
    Tool::Debootstrap,
    Tool::Ip,
    Tool::Ssh,
    Tool::Unshare,
    Tool::Losetup,
    Tool::Mount,
];
const BUILD_MAX: Duration = Duration::from_secs(2_400);
const PACK_MAX: Duration = Duration::from_secs(300);
/// For dpkg-deb: larger, and there in a third of the time.
const FAST: &[&str] = &["-Zgzip", "-z1"];

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Of the build for tests, which is at hand sooner
    #[arg(long, global = true)]
    debug: bool,
    /// Its version, in place of that of the workspace
    #[arg(long, value_name = "VERSION")]
    deb_version: Option<String>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Install, upgrade, remove and purge it on a fresh Debian host of the lab. Needs root
    Test {
        /// One that is at hand, in place of a build
        #[arg(long, value_name = "FILE")]
        package: Option<PathBuf>,
    },
}

pub fn run(args: &Args) -> Result<bool> {
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    if let Some(Action::Test { package }) = &args.action {
        return journey::run(profile, package.as_deref());
    }
    let package = Package { profile, version: args.deb_version.clone(), fast: false };
    println!("{}", package.build()?.display());
    Ok(true)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Release,
    Debug,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "dev",
        }
    }

    fn folder(self) -> PathBuf {
        tools::target_folder().join(match self {
            Self::Release => "release",
            Self::Debug => "debug",
        })
    }
}

/// What is to be packed, and how.
pub struct Package {
    pub profile: Profile,
    /// That of the workspace, if not set.
    pub version: Option<String>,
    /// For a test: packed quickly.
    pub fast: bool,
}

impl Package {
    /// Its path, in `target/package`.
    pub fn build(&self) -> Result<PathBuf> {
        tools::require(&[Tool::CargoDeb])?;
        let programs = binaries(self.profile)?;
        let files = programs.join("seawall-files");
        fs::create_dir_all(&files)?;
        finish(Command::new(programs.join("seawall-packaging")).arg(&files))?;
        finish(Command::new("sh").args(["-euc", "gzip -9nf \"$0\"/man/*.1"]).arg(&files))?;
        licences::write(&files.join("third-party.txt"))?;
        let folder = tools::target_folder().join("package");
        fs::create_dir_all(&folder)?;
        let program = Tool::CargoDeb.find().with_context(|| Tool::CargoDeb.hint())?;
        let time = commit_time();
        let mut deb = Command::new(program);
        deb.args(["-p", "seawall-packaging", "--no-build", "--locked", "--quiet", "--strip"])
            .args(["--fast", "--compress-system", "--profile", self.profile.name(), "--output"])
            .arg(&folder)
            .env("SOURCE_DATE_EPOCH", &time)
            .current_dir(crate::root());
        if let Some(version) = &self.version {
            deb.args(["--deb-version", version]);
        }
        let printed = finish(&mut deb)?;
        let path = printed.lines().last().map(PathBuf::from).context("cargo-deb named no package")?;
        ensure!(path.is_file(), "{} was not made", path.display());
        let compression = if self.fast { FAST } else { &["-Zxz"] };
        Unpacked::new(&path, folder.join("unpacked"))?.pack(&path, compression, &time)?;
        Ok(path)
    }
}

/// The folder with both programs, up to date.
pub fn binaries(profile: Profile) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    let words = RELEASE_BUILD.split_whitespace().skip(1);
    cargo.args(words.filter(|word| profile == Profile::Release || *word != "--release")).current_dir(crate::root());
    ensure!(process::show(&mut cargo, BUILD_MAX)?.success, "the {} build failed", profile.name());
    Ok(profile.folder())
}

/// Of the last commit: the same sources make the same package. Sources without their history have a time all the same.
fn commit_time() -> String {
    let time = finish(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(crate::root()));
    time.map_or_else(|_| "0".to_owned(), |time| time.trim().to_owned())
}

fn finish(command: &mut Command) -> Result<String> {
    let what = command.get_program().display().to_string();
    process::capture(command, Vec::new(), PACK_MAX)?.stdout_if_success(&what)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_changelog_begins_with_the_version_of_the_workspace() {
        let changelog = include_str!("../../../packaging/debian/changelog");
        assert!(changelog.starts_with(concat!("seawall (", env!("CARGO_PKG_VERSION"), "-1) ")), "{changelog:.80}");
    }
}
