# DEBOOTSTRAP ROOT PACKAGE_CACHE SUITE PACKAGES MIRROR
root=$2
"$1" --variant=minbase --cache-dir="$3" --include="$5" "$4" "$root" "$6"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/*
mkdir -p "$root/var/lib/apt/lists/partial"
# Each host has its own.
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"
chroot "$root" useradd -m -s /bin/bash -p '*' ops
echo 'ops ALL=(ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/ops"
chmod 440 "$root/etc/sudoers.d/ops"
printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n' \
  >"$root/etc/ssh/sshd_config.d/lab.conf"
# There is no udev in a container that could make the nodes of its disks.
: >"$root/etc/lab-disks.conf"
cat >"$root/etc/systemd/system/lab-disks.service" <<'UNIT'
[Unit]
Description=Nodes of this host's disks
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/systemd-tmpfiles --create /etc/lab-disks.conf
[Install]
WantedBy=sysinit.target
UNIT
chroot "$root" systemctl -q enable ssh lab-disks.service
chroot "$root" systemctl -q mask systemd-networkd.service systemd-resolved.service apt-daily.timer apt-daily-upgrade.timer \
  e2scrub_all.timer fstrim.timer dpkg-db-backup.timer man-db.timer
