//! What a request names more than once. Pure.
//!
//! A name takes a few bytes in a request, and what it stands for may take thousands in the answer. So each thing is
//! answered once, or where Kafka says so refused, however often it is named.

use std::{collections::HashSet, hash::Hash};

/// The first item of each key, in order.
pub fn once<'a, T, K: Eq + Hash>(items: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<&'a T> {
    let mut seen = HashSet::new();
    items.iter().filter(|item| seen.insert(key(*item))).collect()
}

/// The keys that come more than once.
pub fn repeated<K: Copy + Eq + Hash>(keys: impl Iterator<Item = K>) -> HashSet<K> {
    let mut seen = HashSet::new();
    keys.filter(|key| !seen.insert(*key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_key_is_kept_in_order() {
        let items = [("b", 1), ("a", 2), ("b", 3), ("a", 4), ("c", 5)];
        assert_eq!(once(&items, |(name, _)| *name), [&("b", 1), &("a", 2), &("c", 5)]);
        assert_eq!(repeated(items.iter().map(|(name, _)| *name)), HashSet::from(["a", "b"]));
    }
}
