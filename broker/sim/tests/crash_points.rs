//! A short story ended at every step. `SIM_CRASH=point` shows one again, `SIM_STORIES=n` tells that many stories.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use seawall_sim::Fault;
use seawall_sim::campaign::threads;
use seawall_sim::crash_points::{CrashPoint, crash, points};

#[test]
fn a_crash_at_every_step_loses_nothing_and_leaves_nothing_behind() {
    if let Ok(point) = std::env::var("SIM_CRASH") {
        let point: CrashPoint = point.parse().expect("SIM_CRASH is a crash point");
        return crash(point, None).map(drop).unwrap_or_else(|failure| panic!("{failure}"));
    }
    let stories = std::env::var("SIM_STORIES").ok().and_then(|stories| stories.parse().ok()).unwrap_or(2);
    let mut all = Vec::new();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for story in 0..stories {
        let (points, steps) = points(story).unwrap_or_else(|failure| panic!("{failure}"));
        all.extend(points);
        for step in steps {
            // Without the key of an object.
            let kind =
                if step.name.starts_with("metadata") { &step.name } else { step.name.split(' ').next().unwrap_or("") };
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }
    kinds.iter().for_each(|(kind, steps)| println!("{steps:6} {kind}"));
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let play = || {
        while let Some(point) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(failure) = crash(*point, None) {
                println!("{failure}");
                failures.lock().expect("nobody panics with it").push(point.to_string());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(play);
        }
    });
    let failures = failures.into_inner().expect("nobody panics with it");
    println!("{} crash points of {stories} stories, {} failed", all.len(), failures.len());
    assert!(failures.is_empty(), "crash points that failed: {failures:?}");
    assert!(all.len() > 200 * stories as usize, "{} crash points are few", all.len());
}

#[test]
fn an_object_that_a_crash_leaves_for_ever_is_caught_at_a_crash_point() {
    caught(Fault::KeepOrphans);
}

#[test]
fn a_broker_that_forgets_its_last_record_is_caught_at_a_crash_point() {
    caught(Fault::ReuseOffset);
}

fn caught(fault: Fault) {
    let (points, _) = points(0).unwrap_or_else(|failure| panic!("{failure}"));
    let found = points.iter().step_by(17).find_map(|point| crash(*point, Some(fault)).err());
    let found = found.unwrap_or_else(|| panic!("{fault:?} was not noticed"));
    println!("{fault:?}: {}: {}", found.replay, found.what);
}
