//! Pages whose commands are typed on the machine that reaches all servers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::home::Home;
use super::play::Play;
use super::world::{Store, World, finish};
use crate::beds::BUCKET;
use crate::clients::python_environment;

/// The page's rack.
const RACK: [&str; 3] = ["h1", "h2", "h3"];
/// The one that playbooks make a broker of, which nothing else is done to.
const BROKER: &str = "h5";
/// The oldest Ansible that is said to do.
const OLDEST: &str = "ansible-core==2.16.14";
/// Where deploy.md was not played before.
const DEPLOY: &str = "ansible-galaxy collection build --output-path /tmp ansible/; \
                      ansible-galaxy collection install /tmp/seawall-cluster-0.1.0.tar.gz; rm /tmp/seawall-cluster-0.1.0.tar.gz; \
                      ansible-playbook -i inventory seawall.cluster.site -e device_format=true";
/// What a container cannot do.
const LACKS: [&str; 4] = ["sysctl", "limits", "clock", "udev"];

pub fn qualification<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    let store = world.store()?;
    for host in RACK {
        world.install(host)?;
    }
    play.names.set("h1", world.lab.address("h1")?);
    play.names.set("h2", world.lab.address("h2")?);
    let home = Home::new(world, "rack")?;
    let keys = store.bed.keys.as_ref().context("the gateway has no keys")?;
    fs::write(home.etc().join("access_key"), &keys.access)?;
    fs::write(home.etc().join("secret_key"), &keys.secret)?;
    fs::write(home.etc().join("seawall.toml"), backend(store, &home.etc()))?;
    // As a controller's ~/.ssh/config would have them.
    let into = home.folder.join("lab");
    fs::create_dir_all(&into)?;
    let ssh = world.lab.ssh_program(&into)?;
    fs::write(into.join("config"), format!("Host h3\n  HostName {}\n", world.lab.address("h3")?))?;
    let own = std::env::var("PATH").unwrap_or_default();
    home.program(
        "ssh",
        &format!("#!/bin/sh\nPATH='{own}' exec {} -F {} \"$@\"\n", ssh.display(), into.join("config").display()),
    )?;
    home.open(play)?;
    let pages = home.folder.clone();
    play.at(move |script| Ok(home.run(world.lab.command("bash"), script)));
    play.rest()?;
    let rack = fs::read_to_string(pages.join("rack.html"))?;
    ensure!(rack.contains("h3 -&gt; r1-07"), "the page of the rack has not all pairs");
    Ok(())
}

fn backend(store: &Store, etc: &Path) -> String {
    let (endpoint, ca, etc) = (&store.endpoint, store.ca.display(), etc.display());
    format!(
        "[backend]\nkind = \"ceph-rgw\"\nendpoint = \"{endpoint}\"\nbucket = \"{BUCKET}\"\nprefix = \"rack\"\n\
         access_key_file = \"{etc}/access_key\"\nsecret_key_file = \"{etc}/secret_key\"\n\
         tls_ca_file = \"{ca}\"\ntls_server_name = \"localhost\"\n"
    )
}

pub fn deploy<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    let home = at_home(world, "deploy")?;
    set_names(world, play)?;
    home.open(play)?;
    let folder = home.folder.clone();
    // Hosts have no way to where packages of Python come from, and this block needs none of them.
    let here = home.clone();
    play.at(move |script| Ok(here.run(Command::new("bash"), script)));
    play.next("cargo xtask package")?;
    inventory(world, play, &folder, "my-site")?;
    play.at(move |script| Ok(home.run(world.lab.command("bash"), script)));
    let plan = play.next("--check")?;
    ensure!(plan.contains("WILL BE FORMATTED"), "the plan is not shown: {plan}");
    play.next("device_format=true")?;
    let _ = world.deployed.set(folder.join("my-site"));
    let again = play.next("seawall.cluster.site")?;
    ensure!(again.contains("changed=0 ") && again.contains("failed=0 "), "there is something to do: {again}");
    let seen = play.next("kcat")?;
    ensure!(seen.contains("1 brokers:"), "kcat does not see one broker: {seen}");
    Ok(())
}

/// Brokers are there already.
pub fn ansible<'a>(world: &'a World, play: &mut Play<'a>) -> Result<()> {
    let mut home = at_home(world, "ansible")?;
    home.path(python_environment(&[OLDEST])?.join("bin"));
    set_names(world, play)?;
    home.open(play)?;
    if let Some(deployed) = world.deployed.get() {
        finish(Command::new("cp").arg("-a").arg(deployed).arg(home.folder.join("inventory")))?;
    } else {
        inventory(world, play, &home.folder, "inventory")?;
        finish(&mut home.run(world.lab.command("bash"), DEPLOY))?;
    }
    play.at(move |script| Ok(home.run(world.lab.command("bash"), script)));
    let played = play.next("seawall.cluster.site")?;
    ensure!(played.contains("changed=0 ") && played.contains("failed=0 "), "there is something to do: {played}");
    Ok(())
}

/// With a checkout's collection in it, and a `cargo` that knows one command.
fn at_home(world: &World, name: &str) -> Result<Home> {
    let mut home = Home::new(world, name)?;
    finish(Command::new("cp").arg("-a").arg(crate::root().join("ansible")).arg(&home.folder))?;
    let package = world.package.display();
    let cargo = format!(
        "#!/bin/sh\n[ \"$*\" = 'xtask package' ] && mkdir -p target/package && cp -v {package} target/package/\n"
    );
    home.program("cargo", &cargo)?;
    // Which a page makes and puts into the reader's PATH.
    home.path(home.folder.join("home/ansible/bin"));
    for (name, value) in [("LC_ALL", "C.UTF-8"), ("ANSIBLE_PIPELINING", "1"), ("ANSIBLE_NOCOLOR", "1")] {
        home.variable(name, value);
    }
    Ok(home)
}

fn set_names(world: &World, play: &mut Play) -> Result<()> {
    play.names.set("host", world.lab.address(BROKER)?);
    play.names.set("rgw", &world.store()?.endpoint);
    play.names.set("bucket", BUCKET);
    Ok(())
}

/// The example for Ceph, filled in as the page says: one server, its drive, the store, the keys, the package.
fn inventory(world: &World, play: &mut Play, home: &Path, name: &str) -> Result<()> {
    // Labs see each other's disks, and a serial number that two have is refused.
    let disk = format!("wal{}", std::process::id());
    world.disk(BROKER, &disk)?;
    play.names.set("serial", &format!("loop-{BROKER}-{disk}.img"));
    let site = home.join(name);
    finish(Command::new("cp").arg("-a").arg(crate::root().join("ansible/inventories/ceph-rgw")).arg(&site))?;
    let hosts = fs::read_to_string(site.join("hosts.yml"))?;
    let first = hosts.split("    rack1-b:").next().unwrap_or_default();
    let mut variables = json!({"host_lacks": LACKS});
    for (name, value) in world.lab.ansible_variables() {
        variables[name] = Value::from(value);
    }
    // JSON is YAML.
    fs::write(site.join("hosts.yml"), format!("{}  vars: {variables}\n", play.names.placed(first)?))?;
    let group = site.join("group_vars/seawall_brokers.yml");
    fs::write(&group, play.names.placed(&fs::read_to_string(&group)?)?)?;
    let (store, secrets) = (world.store()?, site.join("secrets"));
    let keys = store.bed.keys.as_ref().context("the gateway has no keys")?;
    fs::create_dir_all(&secrets)?;
    fs::write(secrets.join("access_key"), &keys.access)?;
    fs::write(secrets.join("secret_key"), &keys.secret)?;
    fs::copy(&store.ca, secrets.join("store-ca.pem"))?;
    fs::copy(&world.package, site.join("seawall.deb"))?;
    Ok(())
}
