//! `cargo xtask test`: everything that shows that the project works, with `check` before it.

use crate::check;
use crate::steps::Step;
use crate::tools::Tool;

pub fn steps() -> Vec<Step> {
    let mut steps = check::steps();
    steps.extend([
        // The crash test has its own step with its full count.
        Step {
            environment: &[("CRASH_KILLS", "3")],
            ..Step::new("tests", "cargo test --quiet --workspace --exclude seawall-qualify", 40)
        },
        Step {
            environment: &[("CRASH_KILLS", "50")],
            ..Step::new("crash test", "cargo test --quiet -p seawall --features fault-injection --test crash", 30)
        },
        Step {
            needs_root: true,
            needs: &[Tool::MakeExt4, Tool::Mount, Tool::Losetup],
            ..Step::new("hardware tests", "cargo test --quiet -p seawall-qualify", 15)
        },
        Step::new("release build", "cargo build --quiet --release -p seawall", 30),
        Step {
            needs: &[Tool::Java, Tool::Maven, Tool::Kcat],
            after: Some("release build"),
            ..Step::new("Kafka clients", "cargo xtask clients test", 20)
        },
        Step {
            needs: &[Tool::Java, Tool::Maven],
            after: Some("release build"),
            ..Step::new("bench, tiny", "cargo xtask bench --tiny", 15)
        },
    ]);
    steps
}
