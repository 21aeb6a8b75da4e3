//! `seawall-qualify`: qualification of devices, stores, networks and hosts.

fn main() {}
