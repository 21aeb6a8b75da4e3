# Of a host whose file system is at $0/root: what no other one has.
tr -d - </proc/sys/kernel/random/uuid >"$0/uuid"
cp "$0/uuid" "$0/root/etc/machine-id"
echo "$name" >"$0/root/etc/hostname"
cp "$0/hosts" "$0/root/etc/hosts"
install -m 600 "$0/host_key" "$0/root/etc/ssh/ssh_host_ed25519_key"
install -d -m 700 "$0/root/root/.ssh"
install -m 600 "$public_key" "$0/root/root/.ssh/authorized_keys"
chroot "$0/root" install -d -o ops -g ops -m 700 /home/ops/.ssh
chroot "$0/root" install -o ops -g ops -m 600 /root/.ssh/authorized_keys /home/ops/.ssh/authorized_keys
