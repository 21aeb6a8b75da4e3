#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Looks at the block devices that a host claims for its write-ahead log, and says what may be done with each. Changes nothing."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: wal_device
short_description: Looks at the block devices that a host claims for its write-ahead log
description:
  - Finds each device by its serial number and its name under C(/dev/disk/by-id), and says what it holds and who uses it.
  - A device is V(ready) when it holds the WAL of this node, V(format) when it is empty, and V(refused) in every other case.
  - Nothing is written. There is no option that makes a refused device acceptable; what it holds has to be erased by hand.
version_added: 0.1.0
author: Seawall contributors (@seawall)
options:
  serials:
    description:
      - The serial numbers, as C(lsblk -o NAME,SERIAL) shows them. A WWID as in C(/sys/block/NAME/wwid) is taken as well.
      - A loop device has none; its serial is C(loop-) and the name of its backing file.
    type: list
    elements: str
    required: true
  node_id:
    description: The node that a WAL found on the device has to belong to.
    type: int
    required: true
  seawall:
    description: The program that reads a WAL's superblock, if it is there.
    type: path
    default: /usr/bin/seawall
  sysfs:
    description: Where the kernel shows its devices; another folder in tests.
    type: path
    default: /sys
  dev:
    description: Where the device files are; another folder in tests.
    type: path
    default: /dev
  proc:
    description: Where mounts and swaps are listed; another folder in tests.
    type: path
    default: /proc
attributes:
  check_mode:
    description: It changes nothing in either mode.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
"""

EXAMPLES = r"""
- name: Look at the device that this host claims
  seawall.cluster.wal_device:
    serials: ["S5GXNX0T123456"]
    node_id: 1
  register: looked
"""

RETURN = r"""
devices:
  description: One entry for each serial, in that order.
  returned: always
  type: list
  elements: dict
  sample:
    - serial: S5GXNX0T123456
      path: /dev/disk/by-id/nvme-SAMSUNG_MZ_S5GXNX0T123456
      name: nvme0n1
      bytes: 1920383410176
      model: SAMSUNG MZ
      holds: nothing
      verdict: format
      why: it is empty
      what_to_do: ""
disks:
  description: All disks of the host with their serial numbers, to choose from.
  returned: always
  type: list
  elements: str
"""

import fcntl
import json
import os
import re
import stat
import struct
import subprocess

from ansible.module_utils.basic import AnsibleModule

EDGE_BYTES = 1 << 20
WAL_MAGIC = b"SEAWALLW"
WAL_SUPERBLOCKS = (0, 32 << 10)
# Of the WALs that seawall-qualify makes and removes again.
QUALIFICATION_NODE = -(1 << 31) + 7
READ_BYTES_MAX = 16 << 20
BLKGETSIZE64 = 0x80081272
SKIPPED = re.compile(r"^(ram|zram|sr|fd|nbd)\d+$")


def read_text(path):
    try:
        with open(path, "rb") as file:
            return file.read(READ_BYTES_MAX).decode("utf-8", "replace").replace("\0", "").strip()
    except (IOError, OSError):
        return ""


def vpd_serial(path):
    """SCSI's unit serial number page: four bytes of head, then the text."""
    try:
        with open(path, "rb") as file:
            return file.read(260)[4:].decode("ascii", "replace").replace("\0", "").strip()
    except (IOError, OSError):
        return ""


class Disk(object):
    """A whole disk as the kernel shows it."""

    def __init__(self, sysfs, name):
        self.name = name
        self.folder = os.path.join(sysfs, "block", name)
        self.number = read_text(self._file("dev"))
        self.bytes = int(read_text(self._file("size")) or 0) * 512
        self.model = read_text(self._file("device/model"))
        self.write_cache = read_text(self._file("queue/write_cache"))
        self.scheduler = read_text(self._file("queue/scheduler"))
        self.serial = self._serial()
        self.wwid = read_text(self._file("wwid")) or read_text(self._file("device/wwid"))

    def _file(self, name):
        return os.path.join(self.folder, name)

    def _serial(self):
        backing = read_text(self._file("loop/backing_file"))
        if backing:
            return "loop-" + os.path.basename(backing)
        return (
            read_text(self._file("device/serial")) or read_text(self._file("serial"))
            or vpd_serial(self._file("device/vpd_pg80"))
        )

    def partitions(self):
        names = sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []
        return [name for name in names if os.path.exists(self._file(os.path.join(name, "partition")))]

    def holders(self):
        found = []
        for part in [""] + self.partitions():
            folder = self._file(os.path.join(part, "holders"))
            found += sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return found

    def numbers(self):
        """Its own device number and those of its partitions."""
        return [self.number] + [read_text(self._file(os.path.join(part, "dev"))) for part in self.partitions()]

    def line(self):
        size = "%.1f GiB" % (self.bytes / float(1 << 30))
        return "%s  serial %s  %s  %s" % (self.name, self.serial or "none", size, self.model or "no model")


def all_disks(sysfs):
    folder = os.path.join(sysfs, "block")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    disks = [Disk(sysfs, name) for name in names if not SKIPPED.match(name)]
    return [disk for disk in disks if disk.bytes]


def number_of(path):
    if not path.startswith("/"):
        return ""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if not stat.S_ISBLK(status.st_mode):
        return ""
    return "%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))


def stable_name(dev, disk):
    """Its name under by-id; the one with the serial in it is the one that people know."""
    folder = os.path.join(dev, "disk/by-id")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if number_of(os.path.join(folder, name)) == disk.number]
    paths.sort(key=lambda path: (bool(disk.serial) and disk.serial not in path, len(path), path))
    return paths[0] if paths else ""


def who_uses(proc, disk):
    numbers = [number for number in disk.numbers() if number]
    for line in read_text(os.path.join(proc, "self/mountinfo")).splitlines():
        fields = line.split(" ")
        source = fields[fields.index("-") + 2] if "-" in fields and fields.index("-") + 2 < len(fields) else ""
        if len(fields) > 4 and (fields[2] in numbers or number_of(source) in numbers):
            return "it is mounted at %s" % fields[4]
    for line in read_text(os.path.join(proc, "swaps")).splitlines()[1:]:
        if number_of(line.split()[0]) in numbers:
            return "it is used for swap"
    holders = disk.holders()
    return "it is part of %s" % ", ".join(holders) if holders else ""


def read_at(file, offset, count):
    os.lseek(file, offset, os.SEEK_SET)
    parts = []
    while count > 0:
        part = os.read(file, count)
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def edges(path):
    """The first and the last MiB: where a WAL, file systems, partition tables and volumes leave their marks."""
    file = os.open(path, os.O_RDONLY)
    try:
        try:
            size = struct.unpack("Q", fcntl.ioctl(file, BLKGETSIZE64, b"\0" * 8))[0]
        except (IOError, OSError):
            size = os.fstat(file).st_size
        return read_at(file, 0, EDGE_BYTES), read_at(file, max(0, size - EDGE_BYTES), EDGE_BYTES)
    finally:
        os.close(file)


def is_wal(first):
    return any(first[at:at + len(WAL_MAGIC)] == WAL_MAGIC for at in WAL_SUPERBLOCKS)


def is_empty(data):
    return data.count(b"\0") == len(data)


def is_held(path):
    """Whether somebody has it for himself: a mount of another namespace, a volume, a broker."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return True
    return False


def run(arguments):
    try:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, error = process.communicate()
    except OSError as error:
        return 127, "", str(error)
    return process.returncode, out.decode("utf-8", "replace"), error.decode("utf-8", "replace").strip()


def signature(path):
    """What blkid makes of it, in words."""
    code, out, dummy = run(["blkid", "--probe", "--output", "export", path])
    if code != 0:
        return "data"
    found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    if found.get("TYPE"):
        label = found.get("LABEL", "")
        return "%s%s" % (found["TYPE"], " with the label %s" % label if label else "")
    if found.get("PTTYPE"):
        return "a partition table (%s)" % found["PTTYPE"]
    return "data"


def superblock_of(out):
    try:
        return json.loads(out)["superblock"]
    except (ValueError, KeyError, TypeError):
        return None


def erase_by_hand(path):
    return (
        "Name another device, or, if nobody needs what is on it, erase it by hand on the host (blkdiscard --force %s, or dd "
        "if=/dev/zero of=%s bs=1M) and run the play again; the play never overwrites." % (path, path)
    )


class Look(object):
    """What is found of one serial."""

    def __init__(self, module, disks, serial):
        self.parameters = module.params
        self.found = dict(
            serial=serial, path="", name="", bytes=0, model="", write_cache="", scheduler="", holds="unknown", leg="", wal="",
            cluster="", verdict="refused", why="", what_to_do="",
        )
        # Two hands on one device would be two WALs: a serial that is not one device's is no claim.
        matching = [disk for disk in disks if serial and serial in (disk.serial, disk.wwid)]
        if not matching:
            self.refuse(
                "no disk of this host has this serial number",
                "Put the serial number of one of its disks into the inventory (device_serials): " + listed(disks),
            )
        elif len(matching) > 1:
            names = ", ".join("%s (wwid %s)" % (disk.name, disk.wwid or "none") for disk in matching)
            self.refuse(
                "several disks have this serial number: %s" % names,
                "Name the one by its wwid in the inventory (device_serials).",
            )
        else:
            self.look_at(matching[0])

    def refuse(self, why, what_to_do):
        self.found.update(verdict="refused", why=why, what_to_do=what_to_do)

    def look_at(self, disk):
        self.found.update(
            name=disk.name, bytes=disk.bytes, model=disk.model, write_cache=disk.write_cache, scheduler=disk.scheduler,
        )
        path = stable_name(self.parameters["dev"], disk)
        if not path:
            self.refuse(
                "it has no name under %s/disk/by-id, and %s may be another disk after a reboot" % (self.parameters["dev"], disk.name),
                "See why udev makes none (udevadm info /dev/%s), or name another device." % disk.name,
            )
            return
        self.found["path"] = path
        used = who_uses(self.parameters["proc"], disk)
        if used:
            self.refuse(used, "Name another device: this one is in use (lsblk %s shows by what)." % path)
            return
        try:
            first, last = edges(path)
        except (IOError, OSError) as error:
            self.refuse(
                "it cannot be read: %s" % error,
                "Look into the kernel's log (journalctl -k -g %s) and exchange the device if it fails." % disk.name,
            )
            return
        if is_wal(first):
            self.look_at_wal(path)
        elif disk.partitions():
            self.found["holds"] = "partitions"
            self.refuse("it has partitions: %s" % ", ".join(disk.partitions()), erase_by_hand(path))
        elif not is_empty(first) or not is_empty(last):
            self.found["holds"] = signature(path)
            self.refuse("it holds something that is not a WAL: %s" % self.found["holds"], erase_by_hand(path))
        elif is_held(path):
            self.refuse("another process has it open for itself", "Find that process (fuser -v %s), or name another device." % path)
        else:
            self.found.update(holds="nothing", verdict="format", why="it is empty")

    def look_at_wal(self, path):
        self.found["holds"] = "a WAL"
        code, out, error = run([self.parameters["seawall"], "wal", "inspect", "--json", path])
        superblock = superblock_of(out)
        # An older package may be what is broken: the play that puts another one there must not stop here.
        if code == 127 or code == 0 and not superblock:
            self.found.update(verdict="ready", why="it holds a WAL; whose, the broker says once a package is there that works")
            return
        if code != 0:
            self.refuse(
                "it holds a WAL that cannot be read: %s" % error,
                "Run seawall wal verify %s on the host; docs/wal.md says what to do with a damaged WAL." % path,
            )
            return
        node, cluster = superblock["node"], superblock["cluster"]
        self.found.update(leg=superblock["leg"], wal=superblock["wal"], cluster=cluster or "")
        self.found["holds"] = "the WAL of node %s%s" % (node, " of cluster %s" % cluster if cluster else ", not opened yet")
        if node == QUALIFICATION_NODE:
            self.found["holds"] = "what a qualification left"
            self.refuse(
                "it holds what a qualification left that was cut off",
                "Nobody needs it: run seawall-qualify device %s on the host to its end, which empties it, and then the play again." % path,
            )
            return
        if node != self.parameters["node_id"]:
            self.refuse(
                "it holds the WAL of node %s, and this host is node %s" % (node, self.parameters["node_id"]),
                "Check that the serial number stands at the right host of the inventory. " + erase_by_hand(path),
            )
            return
        self.found.update(verdict="ready", why="it holds the WAL of this node")


def listed(disks):
    return "; ".join(disk.line() for disk in disks) or "none"


def main():
    module = AnsibleModule(
        argument_spec=dict(
            serials=dict(type="list", elements="str", required=True),
            node_id=dict(type="int", required=True),
            seawall=dict(type="path", default="/usr/bin/seawall"),
            sysfs=dict(type="path", default="/sys"),
            dev=dict(type="path", default="/dev"),
            proc=dict(type="path", default="/proc"),
        ),
        supports_check_mode=True,
    )
    disks = all_disks(module.params["sysfs"])
    devices = [Look(module, disks, serial).found for serial in module.params["serials"]]
    module.exit_json(changed=False, devices=devices, disks=[disk.line() for disk in disks])


if __name__ == "__main__":
    main()
