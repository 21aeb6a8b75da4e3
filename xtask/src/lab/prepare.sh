# $0 is the host's folder. BASE PUBLIC_KEY NAME ADDRESS
base=$1 public_key=$2 name=$3 address=$4
mkdir -p "$0/up" "$0/work" "$0/root"
mount -t overlay "lab-$name" -o "lowerdir=$base,upperdir=$0/up,workdir=$0/work" "$0/root"
tr -d - </proc/sys/kernel/random/uuid >"$0/uuid"
cp "$0/uuid" "$0/root/etc/machine-id"
echo "$name" >"$0/root/etc/hostname"
cp "$0/hosts" "$0/root/etc/hosts"
install -m 600 "$0/host_key" "$0/root/etc/ssh/ssh_host_ed25519_key"
install -d -m 700 "$0/root/root/.ssh"
install -m 600 "$public_key" "$0/root/root/.ssh/authorized_keys"
chroot "$0/root" install -d -o ops -g ops -m 700 /home/ops/.ssh
chroot "$0/root" install -o ops -g ops -m 600 /root/.ssh/authorized_keys /home/ops/.ssh/authorized_keys
ip netns add "$name"
ip -n "$name" link set lo up
ip link add "port-$name" type veth peer name eth0 netns "$name"
ip link set "port-$name" master br0 up
ip -n "$name" address add "$address/24" dev eth0
ip -n "$name" link set eth0 up
