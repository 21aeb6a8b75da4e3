//! The checkers can fail: each promise broken on purpose is noticed within a few seeds.

use seawall_sim::{Fault, run};

const SEEDS: u64 = 60;

fn caught(fault: Fault) {
    let found = (0..SEEDS).find_map(|seed| run(seed, Some(fault)).err());
    match found {
        Some(failure) => println!("{fault:?}: seed {}: {}", failure.seed, failure.what),
        None => panic!("{fault:?} was not noticed in {SEEDS} seeds"),
    }
}

#[test]
fn an_ack_before_the_wal_has_the_batch_is_caught() {
    caught(Fault::AckEarly);
}

#[test]
fn an_ack_of_class_backend_before_the_commit_is_caught() {
    caught(Fault::AckBeforeCommit);
}

#[test]
fn an_ack_of_what_lies_in_memory_alone_is_caught() {
    caught(Fault::AckFromMemory);
}

#[test]
fn a_joined_object_that_nobody_looks_at_is_caught() {
    caught(Fault::JoinUnseen);
}

#[test]
fn an_offset_that_is_given_out_twice_is_caught() {
    caught(Fault::ReuseOffset);
}

#[test]
fn a_dropped_record_is_caught() {
    caught(Fault::DropRecord);
}

#[test]
fn a_live_key_that_log_compaction_drops_is_caught() {
    caught(Fault::DropLiveKey);
}

#[test]
fn a_flush_that_is_skipped_is_caught() {
    caught(Fault::SkipFlush);
}

#[test]
fn a_checksum_that_is_not_checked_is_caught() {
    caught(Fault::SkipCrc);
}

#[test]
fn a_commit_of_an_object_that_is_not_stored_is_caught() {
    caught(Fault::CommitBeforePut);
}

#[test]
fn a_deletion_of_what_a_stream_is_made_of_is_caught() {
    caught(Fault::DeleteReferenced);
}

#[test]
fn an_object_that_stays_for_ever_is_caught() {
    caught(Fault::KeepOrphans);
}

#[test]
fn a_wal_slot_that_is_reused_untrimmed_is_caught() {
    caught(Fault::ReuseSlot);
}

#[test]
fn a_wal_that_is_trimmed_before_its_records_are_committed_is_caught() {
    caught(Fault::TrimEarly);
}

#[test]
fn an_index_of_another_object_is_caught() {
    caught(Fault::StaleIndex);
}

#[test]
fn a_tombstone_that_goes_before_its_horizon_is_caught() {
    caught(Fault::IgnoreHorizon);
}

#[test]
fn a_record_that_is_superseded_by_one_that_never_became_durable_is_caught() {
    caught(Fault::IndexUncommitted);
}

#[test]
fn records_that_expire_when_a_wall_clock_jumps_are_caught() {
    caught(Fault::TrustWallClock);
}

#[test]
fn a_backup_with_a_gap_is_caught() {
    caught(Fault::BackupGap);
}

#[test]
fn a_deletion_of_what_a_kept_backup_names_is_caught() {
    caught(Fault::DeleteInWindow);
}

#[test]
fn a_restore_that_gives_offsets_out_again_is_caught() {
    caught(Fault::NoOffsetJump);
}

#[test]
fn a_commit_of_a_broker_whose_incarnation_was_ended_is_caught() {
    caught(Fault::CommitAfterEnd);
}

#[test]
fn a_scrub_that_leaves_orphans_is_caught() {
    caught(Fault::ScrubSpares);
}
