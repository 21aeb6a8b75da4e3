//! The pages with blocks for a place, and what makes for each of them what its reader has by then.

use std::path::Path;

use anyhow::Result;

use super::super::fences::Place;
use super::play::Play;
use super::world::World;
use super::{controller, devices, servers, stores};

pub struct Scene {
    pub page: &'static str,
    pub place: Place,
    /// Runs blocks; those that it leaves are run after it.
    pub run: for<'a> fn(&'a World, &mut Play<'a>) -> Result<()>,
}

impl Scene {
    pub fn page(&self) -> &Path {
        Path::new(self.page)
    }
}

pub const SCENES: &[Scene] = &[
    Scene { page: "docs/install.md", place: Place::Host, run: servers::install },
    Scene { page: "docs/runbooks/clock.md", place: Place::Host, run: servers::clock },
    Scene { page: "docs/runbooks/incarnation-ended.md", place: Place::Host, run: servers::incarnation_ended },
    Scene { page: "docs/bare-metal.md", place: Place::Host, run: servers::bare_metal },
    Scene { page: "docs/runbooks/wal-device-failed.md", place: Place::Host, run: devices::wal_device_failed },
    Scene { page: "docs/qualification-device.md", place: Place::Host, run: servers::qualification_device },
    Scene { page: "docs/backends/ceph-rgw.md", place: Place::Ceph, run: stores::ceph_rgw },
    Scene { page: "docs/backends/minio.md", place: Place::Minio, run: stores::minio },
    Scene { page: "docs/qualification.md", place: Place::Controller, run: controller::qualification },
    Scene { page: "docs/deploy.md", place: Place::Controller, run: controller::deploy },
    Scene { page: "docs/ansible.md", place: Place::Controller, run: controller::ansible },
];
