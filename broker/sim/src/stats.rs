//! What happened in seeds, to see that they reach what they are for.

macro_rules! stats {
    ($($field:ident),* $(,)?) => {
        #[derive(Debug, Default, Clone, PartialEq, Eq)]
        pub struct Stats {
            $(pub $field: u64,)*
        }

        impl Stats {
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

stats! {
    appended,
    acked,
    acked_after_commit,
    lives_without_wal,
    joins,
    duplicates,
    batches_read,
    lost_unacked,
    lives,
    power_cuts,
    kills,
    clean_stops,
    crashes_in_start,
    lease_losses,
    wal_failures,
    objects,
    trims,
    damages,
    read_errors,
    wal_full,
    laps,
    topics,
    log_rounds,
    objects_rewritten,
    objects_forgotten,
    time_lookups,
    expired,
    backups_checked,
    backup_generations,
    restores,
    scrubbed,
}
