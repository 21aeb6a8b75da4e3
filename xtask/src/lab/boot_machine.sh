# $0 is the host's folder. NAME CONTROL_GROUP QEMU NUMBER
name=$1 group=$2 qemu=$3 number=$4
mkdir -p "$group"
# Emulated, which every machine can. What costs an emulated processor most is left out: page tables of its own for the kernel, pages zeroed
# ahead, clocks that are devices, instructions that come as loops. It has what the broker asks for: CRC-32C, AES.
# The same MAC address at each boot, and another one for each machine.
set -- -name "$name" -accel tcg,thread=multi -cpu Westmere -smp 2 -m 1536 -nodefaults -display none \
  -chardev "file,id=console,path=$0/console.log,append=on" -serial chardev:console \
  -kernel "$0/vmlinuz" -initrd "$0/initrd.img" \
  -append "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet mitigations=off init_on_alloc=0 tsc=reliable" \
  -drive "file=$0/root.img,if=virtio,format=raw,cache=unsafe" -device virtio-rng-pci \
  -netdev "tap,id=port,ifname=port-$name,script=no,downscript=no" \
  -device "virtio-net-pci,netdev=port,mac=52:54:00:77:00:$(printf %02x "$number"),romfile="
# With one queue, as slow drives have, Linux schedules it until it is told not to.
while read -r serial image; do
  set -- "$@" -drive "file=$image,if=none,id=$serial,format=raw,cache=none,discard=unmap" \
    -device "nvme,drive=$serial,serial=$serial,max_ioqpairs=1,logical_block_size=4096,physical_block_size=4096"
done <"$0/drives"
setsid sh -euc 'echo 0 >"$0/cgroup.procs"; exec "$@"' "$group" "$qemu" "$@" </dev/null >>"$0/console.log" 2>&1 &
