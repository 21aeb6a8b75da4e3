//! `cargo xtask test`: everything that shows that the project works, with `check` before it. `--long` runs those steps that
//! have a long form in that one: hours instead of minutes, and figures that mean something.

use crate::steps::Step;
use crate::tools::Tool;
use crate::{beds, check, docs, lab, package};

/// For file systems on loop devices, and for librdkafka, which is built with all tests.
const DISK_TOOLS: [Tool; 4] = [Tool::MakeExt4, Tool::Mount, Tool::Losetup, Tool::Cmake];

const SOAK_TOOLS: [Tool; 8] = [
    Tool::CephMon,
    Tool::CephMgr,
    Tool::CephOsd,
    Tool::CephCommon,
    Tool::RadosGateway,
    Tool::Curl,
    Tool::Openssl,
    Tool::Cmake,
];
/// MinIO, which is what the tiny forms run over.
const STORAGE_BENCH_TOOLS: [Tool; 4] = [Tool::Go, Tool::Curl, Tool::Openssl, Tool::Cmake];

#[derive(clap::Args)]
pub struct Args {
    /// All records for every client, benches at full length, half an hour each of WAL and storage simulation, ten minutes of
    /// fuzzing, a thousand power cuts.
    #[arg(long)]
    long: bool,
}

pub fn steps(args: &Args) -> Vec<Step> {
    let steps = short_steps();
    if args.long { steps.into_iter().map(Step::lengthened).chain(only_long_steps()).collect() } else { steps }
}

/// What has no short form.
fn only_long_steps() -> [Step; 2] {
    [
        Step {
            needs_root: true,
            needs: package::TEST_TOOLS,
            after: Some("release build"),
            ..Step::new("docs on hosts", "cargo xtask docs --hosts", 45)
        },
        Step {
            needs_root: true,
            needs: package::TEST_TOOLS,
            after: Some("release build"),
            ..Step::new("playbooks on a machine", "cargo xtask ansible vm", 180)
        },
    ]
}

fn short_steps() -> Vec<Step> {
    let mut steps = check::steps();
    steps.extend([
        // The crash tests, and tests that need root, have steps of their own; `test = false` in a Cargo.toml leaves a file out here.
        Step {
            needs: &[Tool::Cmake],
            ..Step::new(
                "tests",
                "cargo test-all --quiet --no-fail-fast -- --skip every_acked_record_survives --skip a_full_disk_is_told --skip a_block_device_is_formatted --skip a_mirror_outlives_its_devices --skip as_its_passport_says",
                60,
            )
        },
        Step {
            needs: &[Tool::Cmake],
            ..Step::new(
                "crash test",
                "cargo test-all --quiet --no-fail-fast --test crash -- --skip power::",
                30,
            )
        },
        Step {
            needs_root: true,
            needs: &DISK_TOOLS,
            ..Step::new(
                "power cuts",
                "cargo test-all --quiet --no-fail-fast --test crash power::",
                30,
            )
        },
        Step {
            needs_root: true,
            needs: &DISK_TOOLS,
            ..Step::new(
                "WAL devices",
                "cargo test-all --quiet --no-fail-fast --test wal_devices --test wal_passports",
                10,
            )
        },
        Step {
            needs_root: true,
            needs: beds::TOOLS,
            long: Some(("cargo xtask stores --long", 90)),
            // After the crash tests: it takes the same build. MinIO is built the first time.
            ..Step::new("object stores", "cargo xtask stores", 40)
        },
        Step {
            needs_root: true,
            needs: &[Tool::MakeExt4, Tool::Mount, Tool::Losetup, Tool::Cmake, Tool::Ip],
            ..Step::new(
                "hardware tests",
                "cargo test-all --quiet --no-fail-fast --test device --test fault_disk --test qualify_network --test qualify_rack",
                20,
            )
        },
        Step {
            // After the hardware tests: it takes the same build.
            needs_root: true,
            needs: lab::TOOLS,
            ..Step::new("rack", "cargo xtask rack", 20)
        },
        Step {
            needs: &[Tool::Cmake],
            long: Some(("cargo xtask wal fuzz --seconds 600", 45)),
            ..Step::new("WAL fuzz", "cargo xtask wal fuzz", 10)
        },
        Step {
            needs_root: true,
            needs: &DISK_TOOLS,
            long: Some(("cargo xtask wal power --cuts 1000 --kills 100", 75)),
            ..Step::new("WAL power cuts", "cargo xtask wal power", 20)
        },
        Step { needs_root: true, needs: &DISK_TOOLS, ..Step::new("disks", "cargo xtask disks", 15) },
        // Of all that the package holds, as the benches take their broker from it: other features would be another build.
        Step { needs: &[Tool::Cmake], ..Step::new("release build", package::RELEASE_BUILD, 40) },
        Step {
            needs_root: true,
            needs: package::TEST_TOOLS,
            after: Some("release build"),
            ..Step::new("package", "cargo xtask package test", 15)
        },
        Step { needs: &[Tool::PythonVenv], ..Step::new("ansible", "cargo xtask ansible", 10) },
        Step {
            // With the package of the release build.
            needs_root: true,
            needs: package::TEST_TOOLS,
            after: Some("release build"),
            long: Some(("cargo xtask ansible hosts --long", 120)),
            ..Step::new("playbooks", "cargo xtask ansible hosts", 40)
        },
        Step {
            needs: &[Tool::Java, Tool::Maven, Tool::Kcat],
            after: Some("release build"),
            long: Some(("cargo xtask clients test --full", 120)),
            ..Step::new("Kafka clients", "cargo xtask clients test", 40)
        },
        Step { needs: &docs::TOOLS, after: Some("release build"), ..Step::new("docs", "cargo xtask docs", 30) },
        Step {
            needs: &[Tool::Cmake],
            after: Some("release build"),
            long: Some(("cargo xtask bench", 30)),
            ..Step::new("bench", "cargo xtask bench --tiny", 15)
        },
        Step {
            needs: &[Tool::Cmake],
            after: Some("release build"),
            long: Some(("cargo xtask bench --many", 45)),
            ..Step::new("many at once", "cargo xtask bench --many --tiny", 10)
        },
        Step {
            needs: &SOAK_TOOLS,
            after: Some("release build"),
            long: Some(("cargo xtask soak", 150)),
            ..Step::new("soak", "cargo xtask soak --short", 20)
        },
        Step {
            needs: &STORAGE_BENCH_TOOLS,
            after: Some("release build"),
            long: Some(("cargo xtask bench --cold --against kafka", 60)),
            ..Step::new("cold reads", "cargo xtask bench --cold --tiny", 10)
        },
        Step {
            needs: &STORAGE_BENCH_TOOLS,
            after: Some("release build"),
            long: Some(("cargo xtask bench --fanout", 20)),
            ..Step::new("fan-out", "cargo xtask bench --fanout --tiny", 10)
        },
        Step {
            needs: &STORAGE_BENCH_TOOLS,
            after: Some("release build"),
            long: Some(("cargo xtask bench --restart", 20)),
            ..Step::new("restart", "cargo xtask bench --restart --tiny", 10)
        },
        Step {
            needs: &STORAGE_BENCH_TOOLS,
            after: Some("release build"),
            long: Some(("cargo xtask bench --beside", 40)),
            ..Step::new("uploads beside producers", "cargo xtask bench --beside --tiny", 10)
        },
        Step {
            needs: &[Tool::Cmake],
            after: Some("release build"),
            long: Some(("cargo xtask bench --partitions 20000", 15)),
            ..Step::new("many partitions", "cargo xtask bench --partitions 2000 --tiny", 10)
        },
        Step {
            // Tiny it has neither the peers, which take minutes to build, nor a store; the long form has both.
            long: Some(("cargo xtask bench --backend", 60)),
            ..Step::new("S3 client", "cargo xtask bench --backend --tiny", 10)
        },
        Step {
            needs: &[Tool::Java, Tool::Maven, Tool::Kcat, Tool::Cmake, Tool::Go, Tool::Curl, Tool::Openssl],
            after: Some("release build"),
            long: Some(("cargo xtask bench --copies", 15)),
            ..Step::new("copies", "cargo xtask bench --copies --tiny", 10)
        },
        Step {
            needs: &[Tool::Losetup, Tool::Fio],
            after: Some("release build"),
            long: Some(("cargo xtask bench --wal", 60)),
            ..Step::new("WAL against fio", "cargo xtask bench --wal --tiny", 10)
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
            long: Some(("cargo xtask bench --wal --peer kafka", 60)),
            ..Step::new("WAL against Kafka", "cargo xtask bench --wal --peer kafka --tiny", 10)
        },
        Step {
            needs: &[Tool::Java, Tool::Maven, Tool::Kcat, Tool::Cmake],
            after: Some("release build"),
            long: Some(("cargo xtask bench --peer kafka", 90)),
            ..Step::new("race", "cargo xtask bench --peer kafka --tiny", 10)
        },
    ]);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_form_leaves_no_short_bench_and_no_short_run_of_the_clients() {
        let commands = |long| -> Vec<&str> { steps(&Args { long }).iter().map(|step| step.command).collect() };
        assert!(commands(true).contains(&"cargo xtask clients test --full"));
        assert!(commands(false).iter().any(|command| command.contains("--tiny")));
        assert!(commands(true).iter().all(|command| !command.contains("--tiny")));
        assert_eq!(commands(true).len(), commands(false).len() + only_long_steps().len());
    }
}
