//! What happens while a WAL is open: callers append, trim, pin and read; the device takes steps; it is closed, or rots.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::world::{Appended, CacheStory, IDENTITY, Life, Mode, SHORT_LIVES_RECORD_BYTES, World};
use crate::WalError;
use crate::device::{Wait, WriteCache};
use crate::engine::Turn;
use crate::error::WalFull;
use crate::format::frame::RECORD_HEADER_BYTES;
use crate::status::{Distrust, LegState, LegStatus};
use crate::types::{LegId, Lsn, RecordHeader, RecordPosition, Segments, SpaceClass};

impl World {
    /// Something that callers do.
    pub fn act(&mut self, life: &mut Life) -> Result<(), String> {
        if matches!(self.mode, Mode::Latent | Mode::MirrorRot) && self.random.chance(1, 40) {
            self.spoil_some_sector(life);
        }
        if self.mode == Mode::Volatile {
            self.tend_cache(life)?;
        }
        match self.random.below(20) {
            0..=11 => {
                for _ in 0..1 + self.random.below(4) {
                    self.append(life);
                }
                Ok(())
            }
            12 | 13 => {
                self.trim(life);
                Ok(())
            }
            14 => self.read_one(life),
            15 => {
                if let Some(index) = self.some_acknowledged(life)
                    && let Some(pin) = life.wal.pin(self.position(index).frame())
                {
                    life.pins.push((pin, index));
                }
                Ok(())
            }
            16 if !life.pins.is_empty() => {
                let at = self.random.below(life.pins.len() as u64) as usize;
                let index = life.pins[at].1;
                // Pinned, so it can be read, whatever was trimmed.
                self.read(life, index)?;
                life.pins.swap_remove(at);
                Ok(())
            }
            17 => {
                life.engine.fell_idle();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Appends in three rounds, a trim, a fall into idleness, a close.
    pub fn short_story(&mut self, life: &mut Life) -> Result<(), String> {
        for round in 0..3 {
            for _ in 0..4 {
                self.append(life);
            }
            for _ in 0..40 {
                if !self.step(life)? || life.failed {
                    return Ok(());
                }
            }
            match round {
                0 => self.trim(life),
                1 => life.engine.fell_idle(),
                _ => life.wal.start_close(),
            }
        }
        while self.step(life)? && !life.failed {}
        Ok(())
    }

    /// The drive's cache turns volatile; some time later the watchdog has the kernel flush it and tells the WAL.
    fn tend_cache(&mut self, life: &mut Life) -> Result<(), String> {
        match self.cache {
            CacheStory::WriteThrough if self.random.chance(1, 40) => {
                self.disk().set_drive_cache(WriteCache::WriteBack);
                self.stats.misdeeds += 1;
                self.cache = CacheStory::Turned;
            }
            CacheStory::Turned if self.random.chance(1, 10) => {
                self.disk().set_kernel_cache(WriteCache::WriteBack);
                life.wal.distrust(self.disks[self.in_use[0]].0, Distrust::CacheTurnedVolatile);
                // The engine hears of it in its next turn.
                self.step(life)?;
                self.take_completions(life)?;
                self.cache = CacheStory::Distrusted { acknowledged: self.acknowledged };
            }
            CacheStory::Distrusted { acknowledged } if self.acknowledged > acknowledged => {
                self.cache = CacheStory::Told;
            }
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, life: &mut Life) {
        let payload_bytes = match self.random.below(4) {
            _ if self.mode == Mode::ShortLives => u64::from(SHORT_LIVES_RECORD_BYTES),
            0 => self.random.below(u64::from(self.config.record_bytes_max) + 1),
            1 => self.random.below(3_000).min(u64::from(self.config.record_bytes_max)),
            _ => self.random.below(200),
        } as usize;
        let class = if self.random.chance(1, 10) { SpaceClass::Internal } else { SpaceClass::Normal };
        match life.wal.reserve(payload_bytes as u64, class) {
            Ok(reservation) if self.random.chance(1, 20) => drop(reservation),
            Ok(reservation) => {
                let id = self.next_id as i64;
                self.next_id += 1;
                let header = RecordHeader { stream: 7, leader_epoch: 1, base_offset: id, last_offset: id };
                let appended = Appended { header, payload_bytes, position: None };
                let payload = appended.payload();
                let cut = self.random.below(payload_bytes as u64 + 1) as usize;
                let segments = Segments::from([payload.slice(..cut), payload.slice(cut..)]);
                life.wal.append(reservation, header, segments, self.ledger.len() as u64);
                self.ledger.push(appended);
            }
            Err(WalFull::Ring { .. }) => {
                self.stats.ring_full += 1;
                if self.random.chance(1, 2) {
                    self.trim(life);
                }
            }
            Err(_) => {}
        }
    }

    /// Metadata commits a trim LSN, then the WAL hears of it, or a crash comes first.
    fn trim(&mut self, life: &mut Life) {
        let first = self.first_untrimmed();
        if self.acknowledged == 0 || first >= self.acknowledged {
            return;
        }
        let index = first + self.random.below((self.acknowledged - first) as u64) as usize;
        let all = index + 1 == self.acknowledged && self.ledger.len() == self.acknowledged;
        let to = if all { life.wal.usage().durable } else { self.position(index).frame() };
        self.metadata_trim = self.metadata_trim.max(to);
        if !self.random.chance(1, 10) {
            life.wal.trim(self.metadata_trim);
        }
    }

    fn read_one(&mut self, life: &mut Life) -> Result<(), String> {
        let Some(index) = self.some_acknowledged(life) else { return Ok(()) };
        if self.mode == Mode::Mirror && self.random.chance(1, 3) {
            return self.read_from_one_leg(life, index);
        }
        self.read(life, index)
    }

    /// Meanwhile no other leg has the record.
    fn read_from_one_leg(&mut self, life: &mut Life, index: usize) -> Result<(), String> {
        let mut legs = life.wal.status().legs;
        legs.retain(|leg| !matches!(leg.state, LegState::Joining));
        let spared = self.random.below(legs.len() as u64) as usize;
        legs.remove(spared);
        let others: Vec<usize> = legs.iter().map(|leg| self.disk_of(leg.id)).collect();
        let at = self.ring.device_offset(self.position(index).lsn);
        others.iter().for_each(|&disk| self.disks[disk].1.make_unreadable(at));
        let read = self.read(life, index);
        others.iter().for_each(|&disk| self.disks[disk].1.make_readable(at));
        read
    }

    /// An acknowledged record that the WAL has not been told to trim.
    fn some_acknowledged(&mut self, life: &Life) -> Option<usize> {
        let trim = life.wal.usage().trim;
        let first = self.ledger_from(trim);
        (first < self.acknowledged).then(|| first + self.random.below((self.acknowledged - first) as u64) as usize)
    }

    fn position(&self, index: usize) -> RecordPosition {
        self.ledger[index].position.expect("acknowledged records have a position")
    }

    fn read(&mut self, life: &mut Life, index: usize) -> Result<(), String> {
        let appended = self.ledger[index].clone();
        let position = self.position(index);
        let bad_reads = self.bad_reads();
        let wal = life.wal.clone();
        let mut reading = pin!(wal.read(position, appended.header));
        let mut context = Context::from_waker(Waker::noop());
        let mut hung = Vec::from_iter(life.legs.hangs);
        loop {
            if let Poll::Ready(read) = reading.as_mut().poll(&mut context) {
                self.stats.reads += 1;
                return match read {
                    Ok(bytes) if bytes == appended.payload() => Ok(()),
                    Ok(_) => Err(format!("read other bytes than {appended:?}")),
                    Err(WalError::Closed) => Ok(()),
                    Err(WalError::Read(_)) if !self.some_leg_can_read(life, position, bad_reads, &hung) => Ok(()),
                    Err(WalError::Corrupt { .. }) if self.is_harmed(position) && !self.mode.is_mirror() => Ok(()),
                    Err(error) => {
                        let legs: Vec<String> =
                            life.wal.status().legs.iter().map(|leg| format!("{} {:?}", leg.id, leg.state)).collect();
                        let trim = life.wal.usage().trim;
                        Err(format!("{appended:?} cannot be read: {error}; trim {trim}, legs {legs:?}"))
                    }
                };
            }
            if !self.step(life)? || life.failed {
                return Ok(());
            }
            hung.extend(life.legs.hangs);
        }
    }

    /// A single leg may have met a bad sector; of a mirror one leg must not have it, and the other one be gone, or count as
    /// hanging at a moment of this read at least.
    fn some_leg_can_read(&self, life: &Life, position: RecordPosition, bad_reads: u64, hung: &[LegId]) -> bool {
        if !self.mode.is_mirror() {
            return self.bad_reads() == bad_reads;
        }
        let at = self.ring.device_offset(position.lsn);
        let has_it = |leg: &LegStatus| self.disks[self.disk_of(leg.id)].1.is_readable(at);
        let is_asked = |leg: &LegStatus| !matches!(leg.state, LegState::Joining) && !hung.contains(&leg.id);
        life.wal.status().legs.iter().any(|leg| is_asked(leg) && has_it(leg))
    }

    fn is_harmed(&self, position: RecordPosition) -> bool {
        let bytes = (RECORD_HEADER_BYTES as u64) + u64::from(position.bytes);
        self.disk().is_harmed(self.ring.device_offset(position.lsn), bytes)
    }

    /// Rarely for good, mostly for one read.
    fn spoil_some_sector(&mut self, life: &Life) {
        let Some(index) = self.some_acknowledged(life) else { return };
        let position = self.position(index);
        let at = self.ring.device_offset(position.lsn) + self.random.below(u64::from(position.bytes) + 1);
        let disk = if self.mode == Mode::MirrorRot { self.faulty_leg() } else { Some(self.disk().clone()) };
        let Some(disk) = disk else { return };
        self.stats.misdeeds += 1;
        match self.random.below(9) {
            0 => disk.make_unreadable(at),
            1..=4 => disk.fail_one_read(at),
            _ => disk.garble_one_read(at),
        }
    }

    /// One turn of the engine. False when the power is gone or the engine has ended.
    pub fn step(&mut self, life: &mut Life) -> Result<bool, String> {
        let mut alive = life.engine.turn() == Turn::Continue;
        alive = alive && life.engine.wait(Wait::No) == Turn::Continue;
        self.durable = self.durable.max(life.wal.usage().durable);
        if self.mode.is_mirror() && alive {
            self.tend_legs(life)?;
        }
        if self.random.chance(1, 2) || !alive {
            self.take_completions(life)?;
        }
        Ok(alive)
    }

    pub fn take_completions(&mut self, life: &mut Life) -> Result<(), String> {
        while let Some(durable) = life.completions.try_next() {
            for record in &durable.records {
                if record.token != self.acknowledged as u64 {
                    return Err(format!("token {} acknowledged, expected {}", record.token, self.acknowledged));
                }
                if record.position.lsn >= durable.durable {
                    return Err(format!("{record:?} acknowledged, but only {} is durable", durable.durable));
                }
                self.ledger[self.acknowledged].position = Some(record.position);
                self.acknowledged += 1;
                self.check_that_legs_hold(&self.ledger[self.acknowledged - 1])?;
            }
            life.failed |= durable.failed.is_some();
            life.completions.recycle(durable);
        }
        Ok(())
    }

    /// After a failed write nothing is acknowledged and nothing is accepted.
    pub fn check_that_nothing_goes_on(&mut self, life: &mut Life) -> Result<(), String> {
        let acknowledged = self.acknowledged;
        if life.wal.failed().is_none() || life.wal.reserve(1, SpaceClass::Internal).is_ok() {
            return Err("a failed WAL still takes records".into());
        }
        for _ in 0..50 {
            life.engine.turn();
            life.engine.wait(Wait::No);
        }
        self.take_completions(life)?;
        if self.acknowledged == acknowledged { Ok(()) } else { Err("a failed WAL acknowledged a record".into()) }
    }

    pub fn close(&mut self, mut life: Life) -> Result<(), String> {
        life.pins.clear();
        self.forget_planned_faults();
        life.wal.start_close();
        let mut steps = 0;
        while self.step(&mut life)? && !life.failed {
            steps += 1;
            if steps > 100_000 {
                return Err("closing does not end".into());
            }
        }
        if life.failed {
            // A write had failed already when the close began.
            self.check_that_nothing_goes_on(&mut life)?;
            self.crash();
            return Ok(());
        }
        if self.acknowledged != self.ledger.len() {
            return Err("closed with records that were neither written nor refused".into());
        }
        self.crash();
        drop(life);
        if !self.uses_all_legs() {
            return Ok(());
        }
        let scanned = self.scan().map_err(|error| format!("scan after close: {error}"))?;
        self.stats.clean_closes += 1;
        let sound = !self.mode.disk_is_faulty() && self.mode != Mode::MirrorRot && !self.at_risk();
        if sound && !scanned.clean_shutdown {
            return Err(format!("no clean mark after close, damage {:?}", scanned.damage));
        }
        if scanned.damage.is_none() {
            self.count_pads();
        }
        Ok(())
    }

    /// Lets everything settle, covers it with a later frame, then spoils one acknowledged record: it must be reported.
    pub fn rot_covered(&mut self, mut life: Life) -> Result<bool, String> {
        self.forget_planned_faults();
        for _ in 0..400 {
            life.engine.fell_idle();
            self.step(&mut life)?;
        }
        self.take_completions(&mut life)?;
        let Some(index) = self.some_acknowledged(&life) else { return Ok(false) };
        let first = self.first_untrimmed();
        if index < first || life.failed {
            return Ok(false);
        }
        let appended = self.ledger[index].clone();
        let position = self.position(index);
        self.spoil(&appended, position);
        if self.random.chance(1, 2) {
            let wal = life.wal.clone();
            let mut reading = pin!(wal.read(position, appended.header));
            let mut context = Context::from_waker(Waker::noop());
            let read = loop {
                if let Poll::Ready(read) = reading.as_mut().poll(&mut context) {
                    break read;
                }
                self.step(&mut life)?;
            };
            match read {
                Err(WalError::Corrupt { .. } | WalError::Read(_)) => {}
                other => return Err(format!("a rotten record was read as {other:?}")),
            }
        }
        self.crash();
        drop(life);
        let scanned = self.scan().map_err(|error| format!("scan of a rotten WAL: {error}"))?;
        match &scanned.damage {
            Some(damage) if damage.at == position.frame() && damage.durable >= damage.at => {}
            other => return Err(format!("rot at {position:?}, reported {other:?}, end {}", scanned.end)),
        }
        self.stats.damages += 1;
        match scanned.open_stepped(1_000_000, IDENTITY) {
            Err(crate::OpenError::Damaged(_)) => Ok(false),
            _ => Err("a damaged WAL was opened".into()),
        }
    }

    /// Spoils the last acknowledged record, which a later frame may cover or not: recovery must cut there or report it,
    /// and `World::settle` asks whether it could have told.
    pub fn rot_last(&mut self, life: Life) -> Result<bool, String> {
        self.crash();
        drop(life);
        if self.acknowledged > self.first_untrimmed() {
            let index = self.acknowledged - 1;
            let (appended, position) = (self.ledger[index].clone(), self.position(index));
            self.spoil(&appended, position);
        }
        Ok(true)
    }

    /// Flips a bit of a record, or makes its sector unreadable.
    fn spoil(&mut self, appended: &Appended, position: RecordPosition) {
        // Byte 36 to 40 of its header are covered by no CRC: they hold nothing.
        let in_record = self.random.below((RECORD_HEADER_BYTES - 4 + appended.payload_bytes) as u64);
        let skip_reserved = if in_record < 36 { in_record } else { in_record + 4 };
        let at = self.ring.device_offset(Lsn(position.lsn.0)) + skip_reserved;
        self.stats.misdeeds += 1;
        if self.random.chance(1, 3) {
            self.disk().make_unreadable(at)
        } else {
            let bit = self.random.below(8) as u8;
            self.disk().rot(at, bit)
        }
    }
}
