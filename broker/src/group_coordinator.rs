//! Drives the groups: loads, timers, appends, answers.
