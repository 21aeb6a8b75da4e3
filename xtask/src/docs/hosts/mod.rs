//! `cargo xtask docs --hosts`: the commands of pages that need servers, drives and stores, on those of a lab and of the beds.
//!
//! A page's blocks run in their order at the place that their first line names. What a reader has by then, such as a drive that
//! failed, its scene makes (`scenes.rs` lists them); what pages call by a name of a reader's own, `names.rs` knows in the lab.

mod controller;
mod devices;
mod home;
mod names;
mod play;
mod scenes;
mod servers;
mod stores;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;

use super::fences::{Block, How, Place, blocks};
use super::{Found, Page};
use crate::tools::{self, Tool};
use crate::{beds, lab};
use play::Play;
use scenes::{SCENES, Scene};
use world::World;

/// Beside those of a lab and of Ceph.
const TOOLS: [Tool; 6] = [Tool::CargoDeb, Tool::Curl, Tool::Jq, Tool::Kcat, Tool::PythonVenv, Tool::Go];

/// What is run, and with what.
pub struct Choice {
    /// Only this page.
    pub page: Option<PathBuf>,
    /// A package in place of one that is made.
    pub package: Option<PathBuf>,
}

pub fn check(pages: &[Page], choice: &Choice, found: &mut Found) -> Result<()> {
    tools::require(&[lab::TOOLS, beds::Store::Rgw.tools(), &TOOLS].concat())?;
    let began = Instant::now();
    let world = World::up(choice.package.as_deref())?;
    println!("the lab is up after {:.0} s", began.elapsed().as_secs_f64());
    for scene in SCENES.iter().filter(|scene| choice.page.as_deref().is_none_or(|only| only == scene.page())) {
        let Some(page) = pages.iter().find(|page| page.path == scene.page()) else {
            found.problem(&format!("there is no page {}", scene.page));
            continue;
        };
        match blocks(page) {
            Ok(blocks) => run_scene(scene, &blocks, &world, found),
            Err(problem) => found.problem(&problem),
        }
    }
    wrong_blocks_are_found(&world, found);
    println!("{:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn run_scene(scene: &Scene, blocks: &[Block], world: &World, found: &mut Found) {
    let began = Instant::now();
    let mut play = Play::new(scene, blocks);
    if let Err(error) = (scene.run)(world, &mut play).and_then(|()| play.rest()) {
        // What a block said wrong stands there already.
        if play.found.problems == 0 {
            play.found.problem(&format!("{}: {error:#}", scene.page));
        }
        println!("{}: {} blocks were not reached", scene.page, play.left());
    }
    found.add(&play.found);
    let run = play.run;
    println!("{}: {run} blocks on {} in {:.0} s", scene.page, scene.place.name(), began.elapsed().as_secs_f64());
}

/// Commands that do not work, and what they should not print: each is a problem, or this check is worth nothing.
fn wrong_blocks_are_found(world: &World, found: &mut Found) {
    let block = |text: &str, exit: i32, printed: Option<&str>| Block {
        page: "a wrong block".into(),
        line: 1,
        text: text.to_owned(),
        how: How::OnlyOn { exit },
        on: Some(Place::Host),
        printed: printed.map(str::to_owned),
    };
    let wrong = [
        block("systemctl statr ssh\n", 0, None),
        block("false | true\n", 0, None),
        block("false\ntrue\n", 0, None),
        block("exit 13\n", 12, None),
        block("hostname\n", 0, Some("another")),
    ];
    for block in wrong {
        let mut here = Found::default();
        let scene = Scene { page: "a wrong block", place: Place::Host, run: servers::as_it_is };
        println!("to be found: {}", block.text.trim_end());
        run_scene(&scene, std::slice::from_ref(&block), world, &mut here);
        if here.problems == 1 && here.fine == 0 {
            found.fine(1);
        } else {
            found.problem(&format!("`{}` passed", block.text.trim_end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_block_for_a_place_has_a_scene_there() {
        let mut seen = BTreeSet::new();
        for page in super::super::pages().unwrap() {
            for block in blocks(&page).unwrap() {
                let Some(place) = block.on else { continue };
                let scene = SCENES.iter().find(|scene| scene.page() == page.path);
                assert_eq!(scene.map(|scene| scene.place), Some(place), "{}", block.place());
                seen.insert(page.path.clone());
            }
        }
        for scene in SCENES {
            assert!(seen.contains(scene.page()), "{} has no block for its scene", scene.page);
        }
    }
}
