"""The module that judges passports, over a tree like /sys, and passports as seawall-qualify lays them out."""

import importlib.util
import json
import os
import tempfile
import unittest

import jinja2

from roles import task

PATH = os.path.join(os.path.dirname(__file__), "../../plugins/modules/wal_passport.py")
SPEC = importlib.util.spec_from_file_location("wal_passport", PATH)
wal_passport = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(wal_passport)

# RFC 8032, test 1.
PEM = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"
KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
MIB = 1 << 20


STOPS = task("seawall", "passports.yml", "Each device has the passport that is required")["ansible.builtin.assert"]


class WalPassport(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.write("passports/site.pub", PEM)
        self.disk("nvme0n1", {"device/serial": "S1\n", "device/firmware_rev": "F1 \n"})

    def at(self, path):
        return os.path.join(self.root, path)

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.at(path)), exist_ok=True)
        with open(self.at(path), "w") as file:
            file.write(text)

    def disk(self, name, facts):
        for fact, text in dict({"device/model": "FAST 9   \n", "size": "8192\n"}, **facts).items():
            self.write("sys/block/%s/%s" % (name, fact), text)
        self.write("dev/" + name, "")
        os.makedirs(self.at("dev/by-id"), exist_ok=True)
        os.symlink("../" + name, self.at("dev/by-id/" + name))

    def passport(self, file="a", date="2026-01-01T00:00:00Z", key=KEY, qualified=True, **drive):
        drive = dict({"model": "FAST 9", "serial": "S1", "firmware": "F1", "bytes": 4 * MIB}, **drive)
        passport = dict(format=1, drives=[drive], date=date, qualified=qualified, verdict="limit: flush latency")
        self.write("passports/%s.json" % file, json.dumps(dict(passport=passport, public_key=key, signature="00")))

    def judge(self, *names):
        devices = [self.at("dev/by-id/" + name) for name in names or ["nvme0n1"]]
        return wal_passport.judge(
            dict(folder=self.at("passports"), public_key_file=self.at("passports/site.pub"), devices=devices, sysfs=self.at("sys"))
        )

    def said(self, *names):
        return self.judge(*names)[0]["objection"]

    def test_the_drive_that_was_qualified_needs_nothing_else(self):
        self.passport()
        self.assertEqual(self.judge(), [dict(path=self.at("dev/by-id/nvme0n1"), serial="S1", objection="")])

    def test_the_passport_of_another_drive_shows_nothing_of_this_one(self):
        self.passport(serial="OLD")
        self.assertEqual(self.said(), "no passport names its serial number S1")

    def test_each_device_needs_its_own(self):
        self.disk("nvme1n1", {"device/serial": "S2", "device/firmware_rev": "F1"})
        self.passport("a")
        self.passport("b", serial="S3")
        one, other = self.judge("nvme0n1", "nvme1n1")
        self.assertEqual((one["objection"], other["objection"]), ("", "no passport names its serial number S2"))

    def test_one_that_did_not_pass_does_not_count(self):
        self.passport(qualified=False)
        self.assertEqual(self.said(), "it did not pass on 2026-01-01T00:00:00Z: limit: flush latency")
        self.passport(qualified="false")
        self.assertIn("it did not pass", self.said())

    def test_the_newest_decides(self):
        self.passport("b", date="2026-01-01T00:00:00Z")
        self.passport("a", date="2026-06-01T00:00:00Z", qualified=False)
        self.assertIn("did not pass on 2026-06-01", self.said())
        self.passport("a", date="2025-06-01T00:00:00Z", qualified=False)
        self.assertEqual(self.said(), "")

    def test_one_from_the_future_decides_nothing(self):
        self.passport("b")
        self.passport("a", date="2099-01-01T00:00:00Z")
        self.assertIn("its newest one is of 2099-01-01T00:00:00Z, and on the host it is ", self.said())

    def test_another_model_size_or_firmware_is_named(self):
        for change, words in (
            (dict(firmware="F0"), "the firmware was F0 when it was qualified on 2026-01-01T00:00:00Z and is F1 now"),
            (dict(model="SLOW"), "the model was SLOW"),
            (dict(bytes=MIB), "the size in bytes was %d" % MIB),
        ):
            with self.subTest(words):
                self.passport(**change)
                self.assertIn(words, self.said())

    def test_a_file_that_is_none_and_one_of_another_key_are_told_of(self):
        self.passport("other", key="00" * 32)
        self.write("passports/broken.json", '{"passport": {"drives": "S1"}}')
        self.write("passports/text.json", "[]")
        said = self.said()
        self.assertTrue(said.startswith("no passport names its serial number S1 (not counted: "), said)
        for words in ("broken.json is no passport", "text.json is no passport", "other.json was signed with another key than the site's"):
            self.assertIn(words, said)

    def test_the_play_stops_at_a_device_without_one_and_says_what_to_do(self):
        self.passport(qualified=False)
        self.disk("nvme1n1", {"device/serial": "S2", "device/firmware_rev": "F1"})
        self.passport("b", serial="S2")
        bad, good = self.judge("nvme0n1", "nvme1n1")
        goes_on = jinja2.Environment().compile_expression(STOPS["that"])
        self.assertEqual((goes_on(item=bad), goes_on(item=good)), (False, True))
        said = jinja2.Template(STOPS["fail_msg"]).render(item=bad, inventory_hostname="h1", seawall_passports_src="/inventory/passports")
        for words in (bad["path"], "serial number S1", "it did not pass on 2026-01-01", "seawall.cluster.qualify", "/inventory/passports as h1-device-"):
            self.assertIn(words, said)

    def test_serial_numbers_are_those_that_the_broker_reads(self):
        self.disk("sda", {"device/wwid": "t10.ATA     FAST 9  S9", "device/rev": "R1"})
        self.disk("loop3", {"loop/backing_file": "/var/lib/lab/h1-wal.img\n"})
        self.assertEqual([device["serial"] for device in self.judge("sda", "loop3")], ["t10.ATA     FAST 9  S9", "/var/lib/lab/h1-wal.img"])
        self.disk("sdb", {})
        self.assertIn("has no serial number", self.said("sdb"))

    def test_without_a_key_nothing_is_judged(self):
        for text in ("", "no key"):
            self.write("passports/site.pub", text)
            with self.assertRaises((ValueError, TypeError)):
                self.judge()


if __name__ == "__main__":
    unittest.main()
