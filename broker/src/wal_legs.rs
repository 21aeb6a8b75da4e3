//! Which devices a WAL is opened with: those that are there and that metadata's set of legs holds. Pure.
//!
//! Promise: a device that is not in the set is never used, since it may lack what was acked without it; a set that is not
//! whole shrinks only because a configured device is away, and in metadata before anything is appended.

use std::path::Path;

use seawall_metadata::command::{DEVICE_NAME_BYTES_MAX, WalLeg};
use seawall_metadata::state::WalLegs;
use seawall_wal_device as device;

use crate::wal_opening::WalOpeningError;
use crate::wal_registration::{FoundLeg, FoundWal};

/// The devices to open, and what metadata must hold about them before anything is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenLegs {
    pub legs: Vec<FoundLeg>,
    /// Devices that are behind for good.
    pub refused: Vec<FoundLeg>,
    /// `None` for a WAL that was never mirrored.
    pub set: Option<LegSet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegSet {
    pub epoch: u64,
    pub legs: Vec<WalLeg>,
    /// Metadata holds another one so far, or none.
    pub is_new: bool,
}

impl LegSet {
    /// As the device's crate takes it.
    pub fn to_device(&self) -> device::LegSet {
        let legs = self.legs.iter().map(|leg| device::LegId(leg.leg.0)).collect();
        device::LegSet { epoch: self.epoch, legs }
    }
}

/// `known`: metadata's set.
pub fn choose_legs(known: Option<&WalLegs>, found: &FoundWal) -> Result<ChosenLegs, WalOpeningError> {
    let Some(known) = known else {
        // Nothing was acked on a mirror before its set was recorded, but it takes both devices to know that.
        let whole = found.devices() > 1 && found.absent.is_empty();
        let set = whole.then(|| LegSet {
            epoch: 1,
            legs: found.legs.iter().map(|leg| record(leg, found)).collect(),
            is_new: true,
        });
        return Ok(ChosenLegs { legs: found.legs.clone(), refused: Vec::new(), set });
    };
    let (legs, refused): (Vec<_>, Vec<_>) = found.legs.iter().cloned().partition(|leg| known.holds(leg.leg));
    if legs.is_empty() {
        let now: Vec<&str> = known.legs.iter().map(|leg| leg.device.as_str()).collect();
        return Err(WalOpeningError::NoLegOfSet {
            wal: found.id,
            path: found.legs[0].path.clone(),
            now: now.join(" and "),
        });
    }
    let is_there = |leg: &WalLeg| legs.iter().any(|found| found.leg == leg.leg);
    // Without an absent device the configuration does not name one of the set: the scan says so.
    let shrinks = !known.legs.iter().all(is_there) && !found.absent.is_empty();
    let set = if shrinks {
        let legs = known.legs.iter().filter(|leg| is_there(leg)).cloned().collect();
        LegSet { epoch: known.epoch + 1, legs, is_new: true }
    } else {
        LegSet { epoch: known.epoch, legs: known.legs.clone(), is_new: false }
    };
    Ok(ChosenLegs { legs, refused, set: Some(set) })
}

/// The leg on this device, if the set holds another one that is there.
pub fn spared(set: &WalLegs, found: &FoundWal, device: &Path) -> Option<FoundLeg> {
    let leg = found.legs.iter().find(|leg| leg.path == device && set.holds(leg.leg))?;
    let another = found.legs.iter().any(|other| other.leg != leg.leg && set.holds(other.leg));
    another.then(|| leg.clone())
}

/// As metadata keeps it, for people.
pub fn device_name(path: &Path) -> String {
    let mut name = path.display().to_string();
    name.truncate(name.floor_char_boundary(DEVICE_NAME_BYTES_MAX));
    name
}

pub(crate) fn record(leg: &FoundLeg, found: &FoundWal) -> WalLeg {
    WalLeg { leg: leg.leg, device: device_name(&leg.path), bytes: found.ring_bytes }
}

#[cfg(test)]
mod tests {
    use seawall_metadata::{LegId, WalId};
    use uuid::Uuid;

    use super::*;
    use crate::wal_registration::AbsentLeg;

    fn id(name: char) -> LegId {
        LegId(Uuid::from_u128(name as u128))
    }

    /// `found("a-")`: device a, and one that is away.
    fn found(devices: &str) -> FoundWal {
        let there = devices.chars().filter(|name| *name != '-');
        FoundWal {
            id: WalId(Uuid::from_u128(1)),
            ring_bytes: 4096,
            legs: there.map(|name| FoundLeg { leg: id(name), path: name.to_string().into() }).collect(),
            absent: devices.matches('-').map(|_| AbsentLeg { path: "-".into(), why: "away".into() }).collect(),
        }
    }

    fn known(legs: &str) -> WalLegs {
        let leg = |name: char| WalLeg { leg: id(name), device: name.to_string(), bytes: 4096 };
        WalLegs { epoch: 7, legs: legs.chars().map(leg).collect() }
    }

    /// Opened with, refused, set with its epoch and a star if it is to be committed.
    fn choice(set: Option<&str>, devices: &str) -> String {
        let set = set.map(known);
        let Ok(chosen) = choose_legs(set.as_ref(), &found(devices)) else { return "refused".into() };
        let names = |legs: &[FoundLeg]| legs.iter().map(|leg| leg.path.display().to_string()).collect::<String>();
        let set = chosen.set.map_or("none".into(), |set| {
            let legs: String = set.legs.iter().map(|leg| leg.device.as_str()).collect();
            format!("{}:{legs}{}", set.epoch, if set.is_new { "*" } else { "" })
        });
        format!("open {} refuse {} set {set}", names(&chosen.legs), names(&chosen.refused))
    }

    #[test]
    fn a_device_that_fails_is_left_out_only_beside_another_one_of_the_set() {
        let spared =
            |set, devices, device: &str| super::spared(&known(set), &found(devices), device.as_ref()).is_some();
        assert!(spared("ab", "ab", "a") && spared("ab", "ab", "b"));
        assert!(!spared("ab", "a-", "a"), "the other one is away");
        assert!(!spared("a", "ab", "a"), "the other one is behind");
        assert!(!spared("a", "ab", "b") && !spared("ab", "ab", "x"));
    }

    #[test]
    fn a_device_outside_of_the_set_is_never_used_and_the_set_shrinks_only_when_one_is_away() {
        for (set, devices, expected) in [
            (None, "a", "open a refuse  set none"),
            (None, "ab", "open ab refuse  set 1:ab*"),
            // The scan refuses it: it takes both to know that nothing was acked.
            (None, "a-", "open a refuse  set none"),
            (Some("ab"), "ab", "open ab refuse  set 7:ab"),
            (Some("ab"), "ba", "open ba refuse  set 7:ab"),
            (Some("ab"), "a-", "open a refuse  set 8:a*"),
            (Some("ab"), "-b", "open b refuse  set 8:b*"),
            // It was dropped, and has come back.
            (Some("a"), "ab", "open a refuse b set 7:a"),
            (Some("a"), "a-", "open a refuse  set 7:a"),
            (Some("a"), "-b", "refused"),
            (Some("a"), "b", "refused"),
            // c has taken the place of b, and the configuration does not say so: the scan refuses it.
            (Some("ac"), "ab", "open a refuse b set 7:ac"),
            (Some("ab"), "a", "open a refuse  set 7:ab"),
        ] {
            assert_eq!(choice(set, devices), expected, "set {set:?}, devices {devices}");
        }
    }
}
