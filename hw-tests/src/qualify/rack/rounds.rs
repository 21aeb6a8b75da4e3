//! Who probes whom when: each pair once, each host in at most one pair at a time, in as few rounds as that allows.

/// Pairs of 0..hosts by the circle method.
pub fn rounds(hosts: usize) -> Vec<Vec<(usize, usize)>> {
    // With an odd number somebody rests in each round.
    let seats = hosts + hosts % 2;
    if seats < 2 {
        return Vec::new();
    }
    let turning = seats - 1;
    let round = |turn: usize| {
        let seat = |at: usize| (at + turn) % turning;
        let mut pairs = vec![(turning, seat(0))];
        pairs.extend((1..seats / 2).map(|at| (seat(at), seat(turning - at))));
        pairs.into_iter().filter(|(a, b)| *a < hosts && *b < hosts).map(|(a, b)| (a.min(b), a.max(b))).collect()
    };
    (0..turning).map(round).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pair_meets_once_and_nobody_is_in_two_pairs_at_a_time() {
        for hosts in 0..24 {
            let mut met = BTreeSet::new();
            for round in rounds(hosts) {
                let mut busy = BTreeSet::new();
                for (a, b) in round {
                    assert!(a < b && b < hosts);
                    assert!(busy.insert(a) && busy.insert(b), "{hosts} hosts");
                    assert!(met.insert((a, b)), "{hosts} hosts: {a} and {b} meet twice");
                }
            }
            assert_eq!(met.len(), hosts * hosts.saturating_sub(1) / 2, "{hosts} hosts");
        }
    }
}
