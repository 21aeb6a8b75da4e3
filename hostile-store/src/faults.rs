//! Which request meets which fault: drawn from a seed, by rates per thousand.

use std::fmt;
use std::str::FromStr;

use crate::request::Operation;

/// What can go wrong. Which requests it may hit is in [`Fault::hits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection closes without a reply; the object is stored later, or when [`crate::Server::land`] says so.
    Late,
    /// It is done, and the connection closes without a reply.
    Lost,
    /// 500, and nothing is done.
    Refused,
    /// 503 with Retry-After, and nothing is done.
    SlowDown,
    /// Nothing is done and nothing is said; as Ceph RGW, a put is done later.
    Frozen,
    /// The body of an answer breaks off.
    Cut,
    /// The answer is a shorter range than was asked for, and says so.
    Short,
    /// One bit of the body is another one.
    Flipped,
    /// The body is another object's.
    Foreign,
    /// A read answers as it was before the last change: what was put is not there yet, what was deleted still is.
    Stale,
    /// A listing leaves out some.
    Omit,
    /// A listing does not show yet what was put.
    Delay,
    /// A listing shows what was deleted.
    Resurrect,
}

impl Fault {
    pub const ALL: [Fault; 13] = [
        Fault::Late,
        Fault::Lost,
        Fault::Refused,
        Fault::SlowDown,
        Fault::Frozen,
        Fault::Cut,
        Fault::Short,
        Fault::Flipped,
        Fault::Foreign,
        Fault::Stale,
        Fault::Omit,
        Fault::Delay,
        Fault::Resurrect,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::SlowDown => "slow_down",
            Self::Frozen => "frozen",
            Self::Cut => "cut",
            Self::Short => "short",
            Self::Flipped => "flipped",
            Self::Foreign => "foreign",
            Self::Stale => "stale",
            Self::Omit => "omit",
            Self::Delay => "delay",
            Self::Resurrect => "resurrect",
        }
    }

    fn hits(self, operation: &Operation) -> bool {
        match self {
            Self::Late => matches!(operation, Operation::Put { .. }),
            Self::Lost => operation.changes(),
            Self::Refused | Self::SlowDown | Self::Frozen => true,
            Self::Cut | Self::Short | Self::Flipped | Self::Foreign => matches!(operation, Operation::Get { .. }),
            Self::Stale => matches!(operation, Operation::Get { .. } | Operation::Head { .. }),
            Self::Omit | Self::Delay | Self::Resurrect => matches!(operation, Operation::List { .. }),
        }
    }
}

/// Rates per thousand requests that a fault can hit. As text: `late=20,lost=5`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults([u16; Fault::ALL.len()]);

impl Faults {
    pub fn with(mut self, fault: Fault, per_mille: u16) -> Self {
        self.0[fault as usize] = per_mille;
        self
    }

    /// At most one for each request; those named first in [`Fault::ALL`] come first.
    pub(crate) fn draw(&self, operation: &Operation, random: &mut Random) -> Option<Fault> {
        let hit = |fault: &Fault| {
            // Each fault draws for each request, so that one rate does not move the others.
            let drawn = random.below(1_000) < u64::from(self.0[*fault as usize]);
            drawn && fault.hits(operation)
        };
        Fault::ALL.into_iter().filter(hit).collect::<Vec<_>>().first().copied()
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let known = || Fault::ALL.map(Fault::name).join(", ");
            let (name, rate) = word.split_once('=').ok_or_else(|| format!("{word:?} is not NAME=PER_MILLE"))?;
            let fault = Fault::ALL.into_iter().find(|fault| fault.name() == name);
            let fault = fault.ok_or_else(|| format!("no fault {name:?}; there are {}", known()))?;
            let rate: u16 = rate.parse().map_err(|_| format!("{rate:?} is no rate per thousand"))?;
            faults = faults.with(fault, rate);
        }
        Ok(faults)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Fault::ALL.into_iter().filter(|fault| self.0[*fault as usize] > 0);
        let words: Vec<String> = set.map(|fault| format!("{}={}", fault.name(), self.0[fault as usize])).collect();
        f.write_str(&words.join(","))
    }
}

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        let faults: Faults = "late=20, slow_down=5".parse().unwrap();
        assert_eq!(faults, Faults::default().with(Fault::Late, 20).with(Fault::SlowDown, 5));
        assert_eq!(faults.to_string(), "late=20,slow_down=5");
        assert!("lat=20".parse::<Faults>().unwrap_err().contains("late, lost"));
    }

    #[test]
    fn a_fault_hits_only_requests_that_it_can_hit() {
        let faults = Faults::default().with(Fault::Omit, 1_000).with(Fault::Cut, 1_000);
        let mut random = Random::new(1);
        let get = Operation::Get { key: "a".into() };
        assert_eq!(faults.draw(&get, &mut random), Some(Fault::Cut));
        assert_eq!(faults.draw(&Operation::Put { key: "a".into() }, &mut random), None);
    }
}
