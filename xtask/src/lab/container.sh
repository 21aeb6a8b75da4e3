# $0 is the host's folder. BASE PUBLIC_KEY NAME ADDRESS
base=$1 public_key=$2 name=$3 address=$4
mkdir -p "$0/up" "$0/work" "$0/root"
mount -t overlay "lab-$name" -o "lowerdir=$base,upperdir=$0/up,workdir=$0/work" "$0/root"
ip netns add "$name"
ip -n "$name" link set lo up
ip link add "port-$name" type veth peer name eth0 netns "$name"
ip link set "port-$name" master br0 up
ip -n "$name" address add "$address/24" dev eth0
ip -n "$name" link set eth0 up
