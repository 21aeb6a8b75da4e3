//! A bar on a terminal; nothing where nobody looks.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Of a probe that knows how long it takes. Drawn on standard error, if that is a terminal.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn new(name: &str, length: Duration) -> Self {
        let ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1);
        let bar = ProgressBar::with_draw_target(Some(ms), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:<10} {bar:40} {percent:>3}% {elapsed} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        Self { bar }
    }

    /// Of a run that knows how many steps it has.
    pub fn of_steps(name: &str, steps: usize) -> Self {
        Self::new(name, Duration::from_millis(steps as u64))
    }

    pub fn step(&self) {
        self.bar.inc(1);
    }

    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// How far into its length it is, and what it does.
    pub fn at(&self, elapsed: Duration) {
        self.bar
            .set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).min(self.bar.length().unwrap_or(0)));
    }

    pub fn doing(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
