# After base.sh; what it has for containers is undone. An own kernel, small as what brings up the root file system, and a network of its own.
chroot "$root" systemctl -q disable lab-disks.service
chroot "$root" systemctl -q unmask systemd-networkd.service
chroot "$root" systemctl -q enable systemd-networkd.service
chroot "$root" systemctl -q mask serial-getty@ttyS0.service getty@tty1.service systemd-pstore.service nvmf-autoconnect.service \
  e2scrub_reap.service modprobe@drm.service modprobe@fuse.service modprobe@efi_pstore.service systemd-networkd-wait-online.service
echo '/dev/vda / ext4 rw 0 1' >"$root/etc/fstab"
printf 'MODULES=list\n' >"$root/etc/initramfs-tools/conf.d/lab"
printf 'virtio_pci\nvirtio_blk\next4\n' >>"$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u -k all
image=$root.image
mkdir "$image"
mv "$root"/boot/vmlinuz-* "$image/vmlinuz"
mv "$root"/boot/initrd.img-* "$image/initrd.img"
truncate -s 3G "$image/root.img"
mkfs.ext4 -q -d "$root" "$image/root.img"
rm -rf "$root"
mv "$image" "$root"
