//! The one bridge from raft's slog to `tracing`. What raft calls info is debug for us: it says nothing to an operator.

use std::fmt::Write;

use slog::{Drain, KV, Level, Logger, Never, OwnedKVList, Record};

struct Bridge;

pub(super) fn bridge() -> Logger {
    Logger::root(Bridge.fuse(), slog::o!())
}

impl Drain for Bridge {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        let mut fields = Fields(String::new());
        // Writing to a string does not fail.
        let _ = record.kv().serialize(record, &mut fields);
        let _ = values.serialize(record, &mut fields);
        let (message, fields) = (record.msg(), fields.0);
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(%fields, "raft: {message}"),
            Level::Warning => tracing::warn!(%fields, "raft: {message}"),
            Level::Info => tracing::debug!(%fields, "raft: {message}"),
            Level::Debug | Level::Trace => tracing::trace!(%fields, "raft: {message}"),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => tracing::enabled!(tracing::Level::ERROR),
            Level::Warning => tracing::enabled!(tracing::Level::WARN),
            Level::Info => tracing::enabled!(tracing::Level::DEBUG),
            Level::Debug | Level::Trace => tracing::enabled!(tracing::Level::TRACE),
        }
    }
}

struct Fields(String);

impl slog::Serializer for Fields {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        write!(self.0, "{key}={value}").map_err(slog::Error::from)
    }
}
