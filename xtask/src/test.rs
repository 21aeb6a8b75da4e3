//! `cargo xtask test`: everything that shows that the project works, with `check` before it.

use crate::check;
use crate::steps::Step;
use crate::tools::Tool;

/// For file systems on loop devices.
const DISK_TOOLS: [Tool; 3] = [Tool::MakeExt4, Tool::Mount, Tool::Losetup];

pub fn steps() -> Vec<Step> {
    let mut steps = check::steps();
    steps.extend([
        // The crash tests, and tests that need root, have steps of their own.
        Step::new(
            "tests",
            "cargo test --quiet --no-fail-fast --workspace --exclude seawall-qualify -- --skip every_acked_record_survives --skip a_full_disk_is_told --skip a_block_device_is_formatted --skip a_mirror_outlives_its_devices",
            60,
        ),
        Step::new(
            "crash test",
            "cargo test --quiet --no-fail-fast -p seawall --features fault-injection --test crash -- --skip power::",
            30,
        ),
        Step {
            needs_root: true,
            needs: &DISK_TOOLS,
            ..Step::new(
                "power cuts",
                "cargo test --quiet --no-fail-fast -p seawall --features fault-injection --test crash power::",
                30,
            )
        },
        Step {
            needs_root: true,
            needs: &DISK_TOOLS,
            ..Step::new(
                "WAL devices",
                "cargo test --quiet --no-fail-fast -p seawall --features fault-injection --test wal_devices",
                10,
            )
        },
        Step {
            needs_root: true,
            needs: &[Tool::MakeExt4, Tool::Mount, Tool::Losetup, Tool::Cmake],
            ..Step::new("hardware tests", "cargo test --quiet --no-fail-fast -p seawall-qualify", 15)
        },
        Step::new("WAL fuzz", "cargo xtask wal fuzz", 10),
        Step { needs_root: true, needs: &DISK_TOOLS, ..Step::new("WAL power cuts", "cargo xtask wal power", 20) },
        Step { needs_root: true, needs: &DISK_TOOLS, ..Step::new("disks", "cargo xtask disks", 15) },
        Step::new("release build", "cargo build --quiet --release -p seawall", 30),
        Step {
            needs: &[Tool::Java, Tool::Maven, Tool::Kcat],
            after: Some("release build"),
            ..Step::new("Kafka clients", "cargo xtask clients test", 20)
        },
        Step {
            needs: &[Tool::Cmake],
            after: Some("release build"),
            ..Step::new("bench, tiny", "cargo xtask bench --tiny", 15)
        },
        Step {
            needs: &[Tool::Cmake],
            after: Some("release build"),
            ..Step::new("many at once, tiny", "cargo xtask bench --many --tiny", 10)
        },
        Step {
            needs: &[Tool::Losetup, Tool::Fio],
            after: Some("release build"),
            ..Step::new("WAL against fio, tiny", "cargo xtask bench --wal --tiny", 10)
        },
        Step {
            needs_root: true,
            needs: &[
                Tool::Java,
                Tool::Maven,
                Tool::Kcat,
                Tool::Cmake,
                Tool::Losetup,
                Tool::MakeExt4,
                Tool::Mount,
            ],
            after: Some("release build"),
            ..Step::new("WAL against Kafka, tiny", "cargo xtask bench --wal --peer kafka --tiny", 10)
        },
        Step {
            needs: &[Tool::Java, Tool::Maven, Tool::Kcat, Tool::Cmake],
            after: Some("release build"),
            ..Step::new("race, tiny", "cargo xtask bench --peer kafka --tiny", 10)
        },
    ]);
    steps
}
