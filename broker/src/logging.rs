//! What is logged: a level per module, set by `SEAWALL_LOG` at start and changed at run time as Kafka's broker loggers
//! (resource type 8). A level set at run time lasts until the process ends. A logger is called as its module with dots,
//! `seawall.upload`: Kafka's tools take no colons.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use tracing::{level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer, Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// The logger whose level counts where no other is set.
pub const ROOT: &str = "root";
/// Kafka's levels. There are no fatal messages here, so FATAL is silence.
pub const LEVELS: [&str; 6] = ["DEBUG", "ERROR", "FATAL", "INFO", "TRACE", "WARN"];

/// The crates that log.
const CRATES: [&str; 4] = ["seawall", "seawall_backends", "seawall_metadata", "seawall_wal_device"];

/// The levels that are set, and the subscriber that goes by them.
#[derive(Default)]
pub struct Loggers {
    set: Mutex<BTreeMap<String, LevelFilter>>,
    filter: OnceLock<reload::Handle<Targets, Registry>>,
}

/// The loggers of this process.
pub fn loggers() -> &'static Loggers {
    static LOGGERS: OnceLock<Loggers> = OnceLock::new();
    LOGGERS.get_or_init(|| Loggers::of(Targets::new().with_default(LevelFilter::INFO)))
}

/// Starts logging to stderr, so that stdout holds the banner alone. `SEAWALL_LOG_FORMAT=json` sets the format.
pub fn start() {
    let named = std::env::var("SEAWALL_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let targets = named.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let (filter, handle) = reload::Layer::new(targets.clone());
    loggers().follow(targets, handle);
    let lines = tracing_subscriber::fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    let lines = match std::env::var("SEAWALL_LOG_FORMAT").as_deref() {
        Ok("json") => lines.json().with_filter(filter).boxed(),
        _ => lines.with_filter(filter).boxed(),
    };
    // Only tests start it twice.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

impl Loggers {
    fn of(targets: Targets) -> Self {
        let loggers = Self::default();
        *loggers.lock() = levels_of(&targets);
        loggers
    }

    fn follow(&self, targets: Targets, handle: reload::Handle<Targets, Registry>) {
        *self.lock() = levels_of(&targets);
        let _ = self.filter.set(handle);
    }

    /// Every logger with its level, by name: the root, the crates, the broker's modules, and those that were set.
    pub fn all(&self) -> BTreeMap<String, &'static str> {
        let set = self.lock();
        let known = [ROOT].into_iter().chain(CRATES).map(str::to_owned).chain(modules());
        let targets = known.chain(set.keys().cloned());
        targets.map(|target| (target.replace("::", "."), level_name(effective(&set, &target)))).collect()
    }

    pub fn exists(&self, name: &str) -> bool {
        self.all().contains_key(name)
    }

    /// Sets or unsets levels, all at once.
    pub fn change(&self, changes: &[(String, Option<LevelFilter>)]) {
        let mut set = self.lock();
        for (name, level) in changes {
            let target = name.replace('.', "::");
            match level {
                Some(level) => _ = set.insert(target, *level),
                None => _ = set.remove(&target),
            }
        }
        if let Some(filter) = self.filter.get()
            && let Err(error) = filter.reload(targets_of(&set))
        {
            warn!(%error, "log levels not changed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, LevelFilter>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The level that Kafka calls by that name.
pub fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "TRACE" => LevelFilter::TRACE,
        "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "WARN" => LevelFilter::WARN,
        "ERROR" => LevelFilter::ERROR,
        "FATAL" => LevelFilter::OFF,
        _ => return None,
    })
}

fn level_name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::TRACE => "TRACE",
        LevelFilter::DEBUG => "DEBUG",
        LevelFilter::INFO => "INFO",
        LevelFilter::WARN => "WARN",
        LevelFilter::ERROR => "ERROR",
        _ => "FATAL",
    }
}

/// The broker's modules, as `lib.rs` names them.
fn modules() -> impl Iterator<Item = String> {
    let lines = include_str!("lib.rs").lines();
    lines.filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(|module| format!("seawall::{module}"))
}

fn levels_of(targets: &Targets) -> BTreeMap<String, LevelFilter> {
    let root = targets.default_level().unwrap_or(LevelFilter::OFF);
    targets.iter().map(|(name, level)| (name.to_owned(), level)).chain([(ROOT.to_owned(), root)]).collect()
}

fn targets_of(set: &BTreeMap<String, LevelFilter>) -> Targets {
    let root = set.get(ROOT).copied().unwrap_or(LevelFilter::INFO);
    let named = set.iter().filter(|(name, _)| *name != ROOT).map(|(name, level)| (name.clone(), *level));
    Targets::new().with_default(root).with_targets(named)
}

/// The level of the longest name that the logger's begins with, as the subscriber takes it.
fn effective(set: &BTreeMap<String, LevelFilter>, name: &str) -> LevelFilter {
    let covering = set.iter().filter(|(prefix, _)| *prefix != ROOT && name.starts_with(prefix.as_str()));
    let longest = covering.max_by_key(|(prefix, _)| prefix.len()).map(|(_, level)| *level);
    longest.or(set.get(ROOT).copied()).unwrap_or(LevelFilter::INFO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logger_has_the_level_of_the_nearest_name_above_it() {
        let loggers = Loggers::of("seawall::upload=debug,warn".parse().unwrap());
        let all = loggers.all();
        assert_eq!((all["root"], all["seawall"], all["seawall.upload"]), ("WARN", "WARN", "DEBUG"));
        assert!(loggers.exists("seawall.retention") && !loggers.exists("kafka.server"));
        loggers.change(&[("seawall".into(), level("TRACE")), ("seawall.upload".into(), None)]);
        let all = loggers.all();
        assert_eq!((all["root"], all["seawall"], all["seawall.upload"]), ("WARN", "TRACE", "TRACE"));
    }

    #[test]
    fn a_change_takes_effect_on_the_subscriber() {
        let targets = Targets::new().with_default(LevelFilter::INFO);
        let (filter, handle) = reload::Layer::new(targets.clone());
        let loggers = Loggers::default();
        loggers.follow(targets, handle);
        let subscriber = tracing_subscriber::registry().with(tracing_subscriber::fmt::layer().with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            let debug = || tracing::enabled!(target: "seawall::upload", tracing::Level::DEBUG);
            assert!(!debug());
            loggers.change(&[("seawall.upload".into(), level("DEBUG"))]);
            assert!(debug());
            loggers.change(&[("seawall.upload".into(), None)]);
            assert!(!debug());
        });
    }
}
