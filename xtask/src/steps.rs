//! A run of named steps: each a command with its needs and its time bound. Every step runs, whatever the others did,
//! unless it builds on one that failed; the last line is the sum of all tests.

use std::env;
use std::process::Command;
use std::time::Duration;

use crate::process;
use crate::tools::{self, Tool};

pub struct Step {
    pub name: &'static str,
    /// As a person would type it; `cargo xtask ...` runs this very program.
    pub command: &'static str,
    pub environment: &'static [(&'static str, &'static str)],
    pub needs_root: bool,
    pub needs: &'static [Tool],
    /// A step that must have passed.
    pub after: Option<&'static str>,
    pub time_max: Duration,
    /// The long form of the command, if it has one, and its time bound in minutes.
    pub long: Option<(&'static str, u64)>,
}

impl Step {
    /// A step without needs; the other fields are set where it is listed.
    pub const fn new(name: &'static str, command: &'static str, minutes_max: u64) -> Self {
        let time_max = minutes(minutes_max);
        Self { name, command, environment: &[], needs_root: false, needs: &[], after: None, time_max, long: None }
    }

    /// In its long form, if it has one.
    pub fn lengthened(self) -> Self {
        match self.long {
            Some((command, minutes_max)) => Self { command, time_max: minutes(minutes_max), ..self },
            None => self,
        }
    }

    fn command_line(&self) -> String {
        let mut line = String::new();
        for (name, value) in self.environment {
            line += &format!("{name}={value} ");
        }
        line + self.command
    }

    /// Why it cannot run here, and what would help.
    fn obstacle(&self) -> Option<String> {
        if self.needs_root && !tools::is_root() {
            return Some(format!("needs root: sudo -E env \"PATH=$PATH\" {}", self.command_line()));
        }
        let missing: Vec<String> =
            self.needs.iter().filter(|tool| tool.find().is_none()).map(|tool| tool.hint()).collect();
        if missing.is_empty() { None } else { Some(format!("{} && {}", missing.join(" && "), self.command_line())) }
    }
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    LeftOut,
}

struct Outcome {
    name: &'static str,
    verdict: Verdict,
    tests: Tests,
    elapsed: Duration,
    remark: String,
}

/// Runs them all and prints the summary. True when nothing failed.
pub fn run(steps: &[Step]) -> bool {
    if tools::is_ci() {
        let needs: Vec<Tool> = steps.iter().flat_map(|step| step.needs).copied().collect();
        if let Err(error) = tools::install(&needs) {
            // The steps that need it say so again, each in its own place.
            println!("installing what is missing: {error:#}");
        }
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for step in steps {
        println!("\n== {}: {}", step.name, step.command_line());
        let broken =
            step.after.filter(|after| !outcomes.iter().any(|o| o.name == *after && o.verdict == Verdict::Passed));
        let outcome = match (broken, step.obstacle()) {
            (Some(after), _) => failed(step, format!("not run: \"{after}\" did not pass")),
            (None, Some(obstacle)) if tools::is_ci() => failed(step, format!("not run: {obstacle}")),
            (None, Some(obstacle)) => {
                Outcome { verdict: Verdict::LeftOut, tests: Tests::default(), ..failed(step, obstacle) }
            }
            (None, None) => run_one(step),
        };
        if outcome.verdict != Verdict::Passed {
            println!("{}", outcome.remark);
        }
        outcomes.push(outcome);
    }
    summarize(&outcomes)
}

fn run_one(step: &Step) -> Outcome {
    let finished = match process::show(&mut command(step), step.time_max) {
        Ok(finished) => finished,
        Err(error) => return failed(step, format!("{error:#}")),
    };
    let mut tests = Tests::of(&finished.stdout);
    if tests == Tests::default() {
        tests.passed = u64::from(finished.success);
    }
    if !finished.success {
        // A crash or a build error leaves no line of its own.
        tests.failed = tests.failed.max(1);
    }
    let remark = if finished.timed_out { format!("ended after {} s", step.time_max.as_secs()) } else { String::new() };
    let verdict = if tests.failed == 0 { Verdict::Passed } else { Verdict::Failed };
    Outcome { name: step.name, verdict, tests, elapsed: finished.elapsed, remark }
}

fn failed(step: &Step, remark: String) -> Outcome {
    let tests = Tests { failed: 1, ..Tests::default() };
    Outcome { name: step.name, verdict: Verdict::Failed, tests, elapsed: Duration::ZERO, remark }
}

fn command(step: &Step) -> Command {
    let mut words = step.command.split_whitespace();
    let own = step.command.strip_prefix("cargo xtask ").and_then(|_| env::current_exe().ok());
    let mut command = match own {
        Some(program) => {
            words.nth(1);
            Command::new(program)
        }
        None => Command::new(words.next().unwrap_or("true")),
    };
    command.args(words).envs(step.environment.iter().copied()).current_dir(crate::root());
    command
}

fn summarize(outcomes: &[Outcome]) -> bool {
    let mut total = Tests::default();
    println!("\n{:<28} {:<9} {:>7} {:>7} {:>7}", "step", "", "passed", "failed", "s");
    for outcome in outcomes {
        total.passed += outcome.tests.passed;
        total.failed += outcome.tests.failed;
        total.ignored += outcome.tests.ignored;
        let verdict = match outcome.verdict {
            Verdict::Passed => "ok",
            Verdict::Failed => "FAILED",
            Verdict::LeftOut => "left out",
        };
        let Outcome { name, tests, elapsed, .. } = outcome;
        println!("{name:<28} {verdict:<9} {:>7} {:>7} {:>7.1}", tests.passed, tests.failed, elapsed.as_secs_f64());
    }
    let left_out: Vec<_> = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::LeftOut).collect();
    if !left_out.is_empty() {
        println!("\nLeft out here, and how to run it:");
        for outcome in left_out {
            println!("  {}: {}", outcome.name, outcome.remark);
        }
    }
    if total.ignored > 0 {
        println!("\n{} tests are marked as ignored.", total.ignored);
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    total.failed == 0
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tests {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tests {
    /// Sums the lines with which test programs end: `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    fn of(output: &str) -> Self {
        let mut sum = Self::default();
        for line in output.lines().filter_map(|line| line.strip_prefix("test result: ")) {
            let counts = line.split_once(". ").map_or("", |(_, counts)| counts);
            for part in counts.split("; ") {
                match part.split_once(' ') {
                    Some((count, "passed")) => sum.passed += count.parse().unwrap_or(0),
                    Some((count, "failed")) => sum.failed += count.parse().unwrap_or(0),
                    Some((count, "ignored")) => sum.ignored += count.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_several_test_programs_are_summed() {
        let output = "running 3 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(Tests::of(output), Tests { passed: 4, failed: 2, ignored: 1 });
    }

    #[test]
    fn a_step_without_test_lines_is_one_check() {
        assert_eq!(run_one(&Step::new("fine", "true", 1)).tests, Tests { passed: 1, ..Tests::default() });
        let bad = run_one(&Step::new("bad", "false", 1));
        assert_eq!((bad.tests.failed, bad.verdict), (1, Verdict::Failed));
        let absent = run_one(&Step::new("absent", "no-such-program-here", 1));
        assert_eq!((absent.tests.failed, absent.verdict), (1, Verdict::Failed));
    }

    #[test]
    fn the_long_form_of_a_step_has_a_bound_of_its_own_and_the_same_needs() {
        let short = || Step { needs_root: true, ..Step::new("a step", "true", 1) };
        let long = Step { long: Some(("true --long", 90)), ..short() }.lengthened();
        assert_eq!((long.command, long.time_max, long.needs_root), ("true --long", minutes(90), true));
        assert_eq!(short().lengthened().command, "true");
    }

    #[test]
    fn a_step_that_builds_on_a_failed_one_fails_and_the_others_run() {
        let after = Step { after: Some("bad"), ..Step::new("builds on it", "true", 1) };
        assert!(!run(&[Step::new("bad", "false", 1), after, Step::new("other", "true", 1)]));
        assert!(run(&[Step::new("other", "true", 1)]));
    }
}
