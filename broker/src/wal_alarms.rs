//! What of a WAL a person must look at: one list for the log, the metrics and `/state`.

use seawall_wal_device::{AlarmKind, Distrust, LegId, LegState, WalStatus};

const DRAIN: &str = "to drain this broker stop it: it uploads what it holds first";

/// Something that does not go away by itself, or that may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalAlarm {
    pub kind: WalAlarmKind,
    pub leg: Option<LegId>,
    /// For people.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalAlarmKind {
    /// The WAL has ended.
    Failed,
    /// A leg has failed; nothing is acked until metadata has dropped it.
    LegFailed,
    /// The mirror runs on fewer devices than it is configured with.
    LegMissing,
    /// A device changed its mind about what is durable.
    Distrusted,
    /// A device says that it is not well.
    Unhealthy,
    /// An I/O hangs.
    Stuck,
    /// A device hung for so long that it was dropped.
    Hung,
}

impl WalAlarmKind {
    pub const ALL: [Self; 7] =
        [Self::Failed, Self::LegFailed, Self::LegMissing, Self::Distrusted, Self::Unhealthy, Self::Stuck, Self::Hung];

    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::LegFailed => "leg_failed",
            Self::LegMissing => "leg_missing",
            Self::Distrusted => "distrusted",
            Self::Unhealthy => "unhealthy",
            Self::Stuck => "stuck",
            Self::Hung => "hung",
        }
    }
}

/// The legs that acks wait for.
pub fn legs_in_set(status: &WalStatus) -> usize {
    status.legs.iter().filter(|leg| matches!(leg.state, LegState::InSet)).count()
}

/// `devices`: how many the configuration names.
pub fn alarms(status: &WalStatus, devices: usize) -> Vec<WalAlarm> {
    let mut alarms = Vec::new();
    let mut add = |kind, leg, text| alarms.push(WalAlarm { kind, leg, text });
    if let Some(error) = &status.failed {
        add(WalAlarmKind::Failed, None, error.to_string());
    }
    for leg in &status.legs {
        if let LegState::Failed(error) = &leg.state {
            add(WalAlarmKind::LegFailed, Some(leg.id), error.to_string());
        }
    }
    let legs = legs_in_set(status);
    if legs < devices {
        add(WalAlarmKind::LegMissing, None, format!("{legs} of {devices} devices hold what is acked"));
    }
    for alarm in &status.alarms {
        let (kind, text) = match &alarm.kind {
            AlarmKind::Distrusted(Distrust::CacheTurnedVolatile) => (
                WalAlarmKind::Distrusted,
                format!("its write cache is volatile now: writes are flushed from here on; {DRAIN}"),
            ),
            AlarmKind::Distrusted(Distrust::FlushesAreStripped) => (
                WalAlarmKind::Distrusted,
                format!("its write cache is volatile now, and the kernel does not flush it; {DRAIN}"),
            ),
            AlarmKind::Hung { for_ms } => {
                (WalAlarmKind::Hung, format!("it did not answer for {for_ms} ms: acks do not wait for it any more"))
            }
            AlarmKind::Health(said) => (WalAlarmKind::Unhealthy, format!("the device says: {said}; {DRAIN}")),
        };
        add(kind, Some(alarm.leg), text);
    }
    if let Some(stuck) = status.stuck {
        let text = format!("an I/O has not come back for {} ms", stuck.for_us / 1_000);
        add(WalAlarmKind::Stuck, Some(stuck.leg), text);
    }
    alarms
}

#[cfg(test)]
mod tests {
    use seawall_wal_device::{Alarm, LegStatus, Stuck};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_mirror_that_lost_a_leg_and_hangs_on_the_other_says_both() {
        let leg = LegId(Uuid::from_u128(1));
        let mut status = WalStatus {
            legs: vec![LegStatus {
                id: leg,
                number: 0,
                state: LegState::InSet,
                durability: String::new(),
                device: None,
            }],
            ..WalStatus::default()
        };
        assert_eq!(alarms(&status, 1), []);
        status.stuck = Some(Stuck { leg, for_us: 7_000_000 });
        status.alarms = vec![Alarm { leg, kind: AlarmKind::Health("spare blocks".into()) }];
        let kinds: Vec<_> = alarms(&status, 2).into_iter().map(|alarm| alarm.kind).collect();
        assert_eq!(kinds, [WalAlarmKind::LegMissing, WalAlarmKind::Unhealthy, WalAlarmKind::Stuck]);
    }
}
