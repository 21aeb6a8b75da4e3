# $0 is the lab's folder, by which it is found again. ADDRESS
# Control groups of version 2 only, as on a Debian server, whatever the machine has mounted.
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
# Names of network namespaces and containers are this lab's own.
mkdir -p /run/netns /run/systemd/nspawn
mount -t tmpfs lab /run/netns
mount -t tmpfs lab /run/systemd/nspawn
ip link set lo up
ip link add br0 type bridge stp_state 0 forward_delay 0
ip address add "$1/24" dev br0
ip link set br0 up
echo ready
exec >/dev/null
# The first process of its namespace takes over orphans: it has to wait for them.
while :; do
  sleep 86400 &
  wait $!
done
