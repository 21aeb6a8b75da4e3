//! The time that a virtual machine follows: a host of a lab reaches no time server, so another host of the lab is one.

use anyhow::Result;

use super::super::hosts::site;
use crate::lab::Lab;

/// It tells the time of the machine below, and leaves its own clock alone.
const SERVE: &str = "systemd-run --quiet --unit=lab-clock chronyd -x -d 'local stratum 5' 'allow' 'cmdport 0' \
                     'pidfile /run/lab-clock.pid'";

/// `server` is a container.
pub fn serve(lab: &Lab, server: &str, machine: &str) -> Result<()> {
    lab.sh(server, SERVE, site::SHORT)?;
    let source = format!(
        "echo 'server {} iburst minpoll 2 maxpoll 4' >/etc/chrony/sources.d/lab.sources; chronyc reload sources",
        lab.address(server)?
    );
    lab.sh(machine, &source, site::SHORT)?;
    Ok(())
}
