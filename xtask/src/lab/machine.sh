# $0 is the host's folder. BASE PUBLIC_KEY NAME ADDRESS
base=$1 public_key=$2 name=$3 address=$4
cp --sparse=always "$base/root.img" "$0/root.img"
ln -s "$base/vmlinuz" "$base/initrd.img" "$0"
mkdir "$0/root"
mount -o loop "$0/root.img" "$0/root"
printf '[Match]\nName=eth0\n[Network]\nAddress=%s/24\n' "$address" >"$0/root/etc/systemd/network/lab.network"
ip tuntap add dev "port-$name" mode tap
ip link set "port-$name" master br0 up
