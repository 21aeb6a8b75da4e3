//! `seawall backend ls | stat | cat`: keys are whole, with the prefix, as `ls` prints them.

use std::io::{self, Write};
use std::ops::Range;

use seawall_backends::{ObjectKey, Purpose, check_folder};

use super::{BackendCliError, ConfigFile, print};

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The folder, without a slash at its end; the root of the store if not given
    #[arg(value_name = "FOLDER", default_value = "")]
    folder: String,
}

#[derive(Debug, clap::Args)]
pub struct StatArgs {
    #[command(flatten)]
    config: ConfigFile,
    #[arg(value_name = "KEY")]
    key: String,
}

#[derive(Debug, clap::Args)]
pub struct CatArgs {
    #[command(flatten)]
    config: ConfigFile,
    #[arg(value_name = "KEY")]
    key: String,
    /// Only these bytes, the end excluded
    #[arg(long, value_name = "FIRST-END")]
    range: Option<String>,
}

/// Bytes of one read: an object need not fit into memory.
const READ_BYTES: u64 = 8 << 20;

pub async fn ls(args: &LsArgs) -> Result<(), BackendCliError> {
    check_folder(&args.folder)?;
    let store = args.config.open().await?;
    let mut last: Option<ObjectKey> = None;
    loop {
        let page = store.backend.list_folder(&args.folder, last.as_ref(), Purpose::Probe).await?;
        let lines: String = page.objects.iter().map(|(key, bytes)| format!("{bytes:>14}  {key}\n")).collect();
        print(&lines)?;
        let next = page.objects.last().map(|(key, _)| key.clone());
        if !page.more || next.is_none() {
            return Ok(());
        }
        if next <= last {
            let text = format!("listing {:?}: it begins again", args.folder);
            return Err(seawall_backends::BackendError::Fatal(text).into());
        }
        last = next;
    }
}

pub async fn stat(args: &StatArgs) -> Result<(), BackendCliError> {
    let key = ObjectKey::new(args.key.as_str())?;
    let store = args.config.open().await?;
    let meta = store.backend.head(&key, Purpose::Probe).await?;
    print(&format!("{key}: {} bytes\n", meta.bytes))
}

pub async fn cat(args: &CatArgs) -> Result<(), BackendCliError> {
    let key = ObjectKey::new(args.key.as_str())?;
    let wanted = args.range.as_deref().map(range).transpose()?;
    let store = args.config.open().await?;
    let wanted = match wanted {
        Some(wanted) => wanted,
        None => 0..store.backend.head(&key, Purpose::Probe).await?.bytes,
    };
    let mut start = wanted.start;
    while start < wanted.end {
        let end = wanted.end.min(start + READ_BYTES);
        let read = store.backend.get_range(&key, start..end, Purpose::Probe).await?;
        let mut out = io::stdout().lock();
        for piece in read.iter() {
            out.write_all(piece).map_err(BackendCliError::output)?;
        }
        start = end;
    }
    io::stdout().flush().map_err(BackendCliError::output)
}

fn range(text: &str) -> Result<Range<u64>, BackendCliError> {
    let bounds = text.split_once('-').and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
    match bounds {
        Some((first, end)) if first <= end => Ok(first..end),
        _ => Err(BackendCliError::Range(text.to_owned())),
    }
}
