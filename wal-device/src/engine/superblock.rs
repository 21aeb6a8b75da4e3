//! The superblocks: one per leg, written ahead of the frames and when the set of legs has changed.

use super::{Engine, TAG_SUPERBLOCK};
use crate::device::{Done, Operation, Request};
use crate::error::IoError;
use crate::format::SUPERBLOCK_OFFSETS;
use crate::format::superblock::Superblock;
use crate::ring::reach_bytes;
use crate::types::Lsn;

impl Engine {
    /// Allows frames further ahead long before they need it, and tells all legs of a new set.
    pub(super) fn write_due_superblock(&mut self) {
        if self.next_superblock.is_some() || self.failed {
            return;
        }
        let wanted = reach_bytes(&self.ring, &self.config);
        if self.next.0 + wanted / 2 > self.superblock.reach.0 {
            let reach = Lsn(self.next.0 + wanted);
            self.write_superblock(Superblock { reach, ..self.superblock.clone() });
        } else if self.superblock_due {
            self.write_superblock(self.superblock.clone());
        }
    }

    pub(super) fn write_superblock(&mut self, mut superblock: Superblock) {
        self.superblock_due = false;
        superblock.generation += 1;
        superblock.durable = self.durable;
        superblock.set_epoch = self.set_epoch;
        superblock.mirror = self.legs.are_a_mirror();
        superblock.trim_hint = self.shared.lock().space.trimmed();
        let offset = SUPERBLOCK_OFFSETS[(superblock.generation % 2) as usize];
        self.superblock_open = self.legs.written();
        for leg in super::legs::numbers(self.superblock_open) {
            let (id, joining) = self.legs.in_superblock(leg);
            let mirror = superblock.mirror || joining;
            let bytes = Superblock { leg: id, joining, mirror, ..superblock.clone() }.encode();
            let mut buffer = self.legs.take_superblock_buffer(leg);
            buffer.exclusive()[..bytes.len()].copy_from_slice(&bytes);
            let bytes = buffer.len();
            let operation = Operation::Write { durable: true };
            self.submit(Request { tag: TAG_SUPERBLOCK, leg, operation, offset, buffer: Some(buffer), bytes });
            self.shared.stats.device_write(bytes as u64);
        }
        self.next_superblock = Some(superblock);
    }

    pub(super) fn superblock_done(&mut self, done: Done) {
        self.legs.give_superblock_buffer(done.leg, done.buffer);
        self.superblock_open &= !(1 << done.leg);
        match done.result {
            Ok(()) => self.knows_reach(done.leg),
            Err(error) => self.leg_failed(done.leg, IoError::new("write the superblock", error)),
        }
    }

    /// It counts when every leg that is still written has it.
    pub(super) fn settle_superblock(&mut self) {
        if self.superblock_open == 0
            && !self.failed
            && let Some(written) = self.next_superblock.take()
        {
            self.superblock = written;
            // One that was submitted before a leg failed says nothing of the others.
            if !self.superblock_due {
                self.tell_failures();
            }
        }
    }
}
