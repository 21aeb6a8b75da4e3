"""The rules for udev: what the role writes is read as udev reads it, and what they run is run over a tree like /sys."""

import os
import re
import shlex
import subprocess
import tempfile
import unittest

import jinja2

FOLDER = os.path.join(os.path.dirname(__file__), "../../roles/device/templates")
# With the settings that Ansible gives its templates.
TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), trim_blocks=True, undefined=jinja2.StrictUndefined)
PART = re.compile(r'\s*([A-Z]+(?:\{[^}]*\})?)(==|\+=|=)"((?:\\"|[^"])*)"\s*(?:,|$)')
TO_A_PATTERN = "/bin/sh -c 'echo write through >/sys/block/%k/device/scsi_disk/*/cache_type'"


def rules(path="/dev/disk/by-id/ata-FAST_9_S1", scheduler="none", write_cache="off"):
    """Each rule as a list of (key, operator, value)."""
    text = TEMPLATES.get_template("udev.rules.j2").render(
        device_looked={"devices": [{"path": path}]}, device_scheduler=scheduler, device_write_cache=write_cache,
    )
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert "".join(match.group(0) for match in PART.finditer(line)) == line, "udev would not read %s" % line
    return [[(key, how, value.replace('\\"', '"')) for key, how, value in PART.findall(line)] for line in lines]


def program(rule):
    return next((value for key, dummy, value in rule if key == "RUN"), None)


def command(run, name):
    """What udev runs: words by quotes, %k and $devnode put in, $$ and %% as one sign each. What else udev replaces is not known here."""
    known = {"%k": name, "$devnode": "/dev/" + name, "$$": "$", "%%": "%"}
    return [re.sub(r"\$devnode|\$\$|%%|%k|[$%]\w*", lambda found: known[found.group(0)], word) for word in shlex.split(run)]


class UdevRules(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def cache_of(self, disk, address):
        return os.path.join(self.root, "sys/block", disk, "device/scsi_disk", address, "cache_type")

    def disks(self):
        for disk, address in (("sda", "0:0:0:0"), ("sdb", "1:0:0:0")):
            path = self.cache_of(disk, address)
            os.makedirs(os.path.dirname(path))
            with open(path, "w") as file:
                file.write("write back\n")

    def run_for(self, disk, run):
        """What is in the caches of sda and sdb afterwards."""
        self.disks()
        words = [word.replace("/sys/", self.root + "/sys/") for word in command(run, disk)]
        subprocess.run(words, check=False, stderr=subprocess.DEVNULL)
        texts = []
        for path in (self.cache_of("sda", "0:0:0:0"), self.cache_of("sdb", "1:0:0:0")):
            with open(path) as file:
                texts.append(file.read())
        return texts

    def of_scsi(self):
        return next(rule for rule in rules() if ("KERNEL", "==", "sd*") in rule)

    def test_the_cache_of_a_scsi_drive_is_turned_off_and_no_other(self):
        self.assertEqual(self.run_for("sdb", program(self.of_scsi())), ["write back\n", "write through\n"])

    def test_a_rule_that_writes_to_a_pattern_is_found(self):
        self.assertEqual(self.run_for("sdb", TO_A_PATTERN), ["write back\n", "write back\n"])

    def test_the_cache_of_an_nvme_drive_is_asked_for_by_its_node(self):
        rule = next(rule for rule in rules() if ("KERNEL", "==", "nvme*") in rule)
        words = command(program(rule), "nvme0n1")
        self.assertEqual(words[:3], ["/usr/sbin/nvme", "set-feature", "/dev/nvme0n1"])
        self.assertIn("--value=0", words)

    def test_rules_are_for_the_claimed_disk_alone(self):
        for rule in rules():
            self.assertIn(("SYMLINK", "==", "disk/by-id/ata-FAST_9_S1"), rule)
            self.assertIn(("ENV{DEVTYPE}", "==", "disk"), rule)

    def test_what_is_kept_has_no_rule(self):
        self.assertEqual(rules(scheduler="keep", write_cache="keep"), [])
        self.assertEqual([program(rule) for rule in rules(write_cache="keep")], [None])
        self.assertEqual([key for rule in rules(scheduler="keep") for key, how, dummy in rule if how != "=="], ["RUN", "RUN"])


if __name__ == "__main__":
    unittest.main()
