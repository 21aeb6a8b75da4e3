"""The module that judges devices, over a tree like /sys and device files that are plain files."""

import importlib.util
import os
import stat
import sys
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

PATH = os.path.join(os.path.dirname(__file__), "../../plugins/modules/wal_device.py")
SPEC = importlib.util.spec_from_file_location("wal_device", PATH)
wal_device = importlib.util.module_from_spec(SPEC)
sys.modules["wal_device"] = wal_device
SPEC.loader.exec_module(wal_device)

MIB = 1 << 20


class Tree:
    """A host with disks."""

    def __init__(self, root):
        self.root = root
        self.numbers = {}
        os.makedirs(self.at("dev/disk/by-id"))
        os.makedirs(self.at("proc/self"))
        self.write("proc/self/mountinfo", "")
        self.write("proc/swaps", "Filename Type Size Used Priority\n")

    def at(self, path):
        return os.path.join(self.root, path)

    def write(self, path, text, mode="w"):
        os.makedirs(os.path.dirname(self.at(path)), exist_ok=True)
        with open(self.at(path), mode) as file:
            file.write(text)

    def disk(self, name, serial, content=b"", by_id=True, mib=4):
        number = "259:%d" % len(self.numbers)
        sys_folder = "sys/block/%s/" % name
        self.write(sys_folder + "dev", number)
        self.write(sys_folder + "size", str(mib * MIB // 512))
        self.write(sys_folder + "device/serial", serial)
        self.write(sys_folder + "device/model", "FAST 9")
        os.makedirs(self.at(sys_folder + "holders"))
        path = self.at("dev/disk/by-id/nvme-FAST_9_" + serial) if by_id else self.at("dev/" + name)
        with open(path, "wb") as file:
            file.write(content.ljust(mib * MIB, b"\0"))
        self.numbers[path] = number
        return path

    def look(self, serial, node=1):
        params = dict(
            serials=[serial], node_id=node, seawall="/nonexistent/seawall", sysfs=self.at("sys"), dev=self.at("dev"), proc=self.at("proc"),
        )
        with mock.patch.object(wal_device, "number_of", lambda path: self.numbers.get(path, "")):
            disks = wal_device.all_disks(params["sysfs"])
            return wal_device.Look(SimpleNamespace(params=params), disks, serial).found


class WalDevice(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = Tree(folder.name)

    def refused(self, found, *words):
        self.assertEqual(found["verdict"], "refused", found)
        for word in words:
            self.assertIn(word, found["why"] + " " + found["what_to_do"])

    def test_an_empty_device_may_be_formatted_and_is_called_by_its_name_by_id(self):
        path = self.tree.disk("nvme0n1", "S1")
        found = self.tree.look("S1")
        self.assertEqual((found["verdict"], found["path"], found["bytes"], found["model"]), ("format", path, 4 * MIB, "FAST 9"))

    def test_a_serial_that_no_disk_has_is_answered_with_those_that_there_are(self):
        self.tree.disk("nvme0n1", "S1")
        self.refused(self.tree.look("S2"), "no disk of this host", "nvme0n1  serial S1")

    def test_an_empty_serial_claims_nothing(self):
        self.tree.disk("nvme0n1", "")
        self.refused(self.tree.look(""), "no disk of this host")

    def test_a_serial_of_two_disks_claims_neither(self):
        self.tree.disk("nvme0n1", "S1")
        self.tree.disk("nvme0n2", "S1", by_id=False)
        self.refused(self.tree.look("S1"), "several disks", "wwid")

    def test_a_wwid_claims_one_namespace_of_two(self):
        self.tree.disk("nvme0n1", "S1")
        self.tree.disk("nvme0n2", "S1", by_id=False)
        self.tree.write("sys/block/nvme0n1/wwid", "eui.01")
        self.assertEqual(self.tree.look("eui.01")["name"], "nvme0n1")

    def test_a_device_without_a_stable_name_is_refused(self):
        self.tree.disk("nvme0n1", "S1", by_id=False)
        self.refused(self.tree.look("S1"), "no name under", "after a reboot")

    def test_what_is_mounted_swapped_to_or_held_is_refused(self):
        path = self.tree.disk("nvme0n1", "S1")
        self.tree.write("proc/self/mountinfo", "29 1 259:0 / /data rw,relatime shared:1 - ext4 /dev/nvme0n1 rw\n")
        self.refused(self.tree.look("S1"), "it is mounted at /data")
        self.tree.write("proc/self/mountinfo", "")
        self.tree.write("proc/swaps", "Filename Type Size Used Priority\n%s partition 1 0 -2\n" % path)
        self.refused(self.tree.look("S1"), "swap")
        self.tree.write("proc/swaps", "Filename\n")
        os.makedirs(self.tree.at("sys/block/nvme0n1/holders/dm-3"))
        self.refused(self.tree.look("S1"), "part of dm-3")

    def test_a_mounted_partition_counts_for_its_disk(self):
        self.tree.disk("nvme0n1", "S1")
        self.tree.write("sys/block/nvme0n1/nvme0n1p1/partition", "1")
        self.tree.write("sys/block/nvme0n1/nvme0n1p1/dev", "259:77")
        self.refused(self.tree.look("S1"), "it has partitions: nvme0n1p1")
        self.tree.write("proc/self/mountinfo", "29 1 259:77 / /data rw - xfs /dev/nvme0n1p1 rw\n")
        self.refused(self.tree.look("S1"), "it is mounted at /data")

    def test_any_byte_at_either_end_is_refused(self):
        for content in (b"\0" * 1000 + b"x", b"\0" * (4 * MIB - 1) + b"x"):
            with self.subTest(at=len(content)):
                path = self.tree.disk("nvme%dn1" % len(content), "S%d" % len(content), content)
                self.refused(self.tree.look("S%d" % len(content)), "not a WAL", "erase it by hand", path)

    def test_a_file_system_is_called_by_its_name(self):
        self.tree.disk("nvme0n1", "S1", b"\0" * 1080 + b"\x53\xef")
        with mock.patch.object(wal_device, "run", return_value=(0, "TYPE=ext4\nLABEL=records\n", "")):
            self.refused(self.tree.look("S1"), "ext4 with the label records")

    def test_the_wal_of_this_node_is_ready_and_that_of_another_is_refused(self):
        self.tree.disk("nvme0n1", "S1", b"SEAWALLW")
        superblock = '{"superblock": {"node": 7, "cluster": "c1", "leg": "l1", "wal": "w1"}}'
        with mock.patch.object(wal_device, "run", return_value=(0, superblock, "")):
            self.assertEqual(self.tree.look("S1", node=7)["verdict"], "ready")
            self.refused(self.tree.look("S1", node=8), "the WAL of node 7, and this host is node 8", "the right host")

    def test_what_a_qualification_left_is_named_as_such(self):
        self.tree.disk("nvme0n1", "S1", b"SEAWALLW")
        superblock = '{"superblock": {"node": -2147483641, "cluster": null, "leg": "l1", "wal": "w1"}}'
        with mock.patch.object(wal_device, "run", return_value=(0, superblock, "")):
            self.refused(self.tree.look("S1"), "what a qualification left that was cut off", "run seawall-qualify device")

    def test_a_wal_whose_first_superblock_is_lost_is_still_a_wal(self):
        self.tree.disk("nvme0n1", "S1", b"\0" * (32 << 10) + b"SEAWALLW")
        with mock.patch.object(wal_device, "run", return_value=(10, "", "seawall: damaged")):
            self.refused(self.tree.look("S1"), "a WAL that cannot be read: seawall: damaged", "docs/wal.md")

    def test_a_wal_is_left_alone_while_the_package_is_missing(self):
        self.tree.disk("nvme0n1", "S1", b"SEAWALLW")
        self.assertEqual(self.tree.look("S1")["verdict"], "ready")

    def test_a_program_that_is_broken_does_not_stop_the_play_that_replaces_it(self):
        self.tree.disk("nvme0n1", "S1", b"SEAWALLW")
        for out in ("", "{}", "no JSON"):
            with mock.patch.object(wal_device, "run", return_value=(0, out, "")):
                self.assertEqual(self.tree.look("S1")["verdict"], "ready")

    def test_a_loop_device_has_the_name_of_its_file_as_serial(self):
        self.tree.disk("loop3", "")
        self.tree.write("sys/block/loop3/loop/backing_file", "/var/lib/lab/h1-wal.img\n")
        self.assertEqual(self.tree.look("loop-h1-wal.img")["name"], "loop3")

    def test_what_another_process_holds_is_refused(self):
        self.tree.disk("nvme0n1", "S1")
        with mock.patch.object(wal_device, "is_held", return_value=True):
            self.refused(self.tree.look("S1"), "another process")

    def test_nothing_is_opened_for_writing(self):
        path = self.tree.disk("nvme0n1", "S1", b"data")
        os.chmod(path, stat.S_IRUSR)
        flags, really = [], os.open
        with mock.patch.object(wal_device.os, "open", lambda at, how, *more: flags.append(how) or really(at, how, *more)):
            self.tree.look("S1")
        self.assertTrue(flags)
        self.assertTrue(all(how & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0 for how in flags))


class NoForce(unittest.TestCase):
    def test_no_option_of_the_module_and_no_task_overwrites(self):
        root = os.path.join(os.path.dirname(__file__), "../..")
        for folder, dummy, names in os.walk(root):
            for name in names:
                if name.endswith((".yml", ".j2", ".py")) and "tests" not in folder:
                    with open(os.path.join(folder, name)) as file:
                        text = file.read()
                    self.assertNotIn("--overwrite", text, name)
                    self.assertNotIn("force: true", text, name)


if __name__ == "__main__":
    unittest.main()
