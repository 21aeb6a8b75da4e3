//! Qualification of bare metal: a probe for each part of a machine, thresholds in one file, a verdict for each role.
//!
//! A probe yields [`Findings`] and has no opinion; [`verdict::judge`] has one and does no I/O; [`Report`] puts both before
//! people and machines. Whatever a probe writes is gone when it ends, also by Ctrl-C.

pub mod findings;
pub mod slices;

pub mod thresholds;
pub mod verdict;

pub mod outliers;
pub mod report;

pub mod html;
pub mod output;
pub mod progress;
pub mod stop;

pub mod device;
pub mod host;
pub mod network;

#[cfg(feature = "backend")]
pub mod backend;

pub mod rack;

pub use findings::{Distribution, Fact, Findings, Role, Series};
pub use output::OutputArgs;
pub use report::{Failure, Report, unix_s};
pub use slices::{Slices, histogram_us};
pub use stop::{Stop, Stopped};
pub use thresholds::Thresholds;
pub use verdict::{Check, Level, Verdict};
