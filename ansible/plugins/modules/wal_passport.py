#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Says what the passports of a host's folder say of its WAL devices, as the broker would. Changes nothing."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
---
module: wal_passport
short_description: Says whether devices have passports that count
description:
  - Reads the passports that C(seawall-qualify device) has signed, finds the newest one of each device by the serial number of its drive, and says
    what stands against it - none, another drive or firmware, another key, a date in the future, not qualified.
  - The signature and the write cache are left to the broker, which asks for them at its start.
version_added: 0.1.0
author: Seawall contributors (@seawall)
options:
  folder:
    description: The folder of passports on the host, C(*.json).
    type: path
    required: true
  public_key_file:
    description: The site's public key (PEM) on the host. A passport of another key does not count.
    type: path
    required: true
  devices:
    description: The devices, each by its name under C(/dev/disk/by-id).
    type: list
    elements: str
    required: true
  sysfs:
    description: Where the kernel shows its devices; another folder in tests.
    type: path
    default: /sys
attributes:
  check_mode:
    description: It changes nothing in either mode.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
"""

EXAMPLES = r"""
- name: What the passports say of the devices
  seawall.cluster.wal_passport:
    folder: /etc/seawall/passports
    public_key_file: /etc/seawall/passports/site.pub
    devices: [/dev/disk/by-id/nvme-SAMSUNG_MZ_S5GXNX0T123456]
  register: passports
"""

RETURN = r"""
devices:
  description: One entry for each device, in that order.
  returned: always
  type: list
  elements: dict
  sample:
    - path: /dev/disk/by-id/nvme-SAMSUNG_MZ_S5GXNX0T123456
      serial: S5GXNX0T123456
      objection: ""
"""

import base64
import glob
import json
import os
import time

from ansible.module_utils.basic import AnsibleModule

# As in the broker's crate wal-device, device/stack.rs: the first of these that the kernel tells.
SERIAL = ("device/serial", "serial", "wwid", "device/wwid", "loop/backing_file")
FIRMWARE = ("device/firmware_rev", "device/rev")
KEY_BYTES = 32
# In seconds. As the broker has it.
CLOCKS_APART_MAX = 86400


def read_text(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace").replace("\0", "").strip()
    except (IOError, OSError):
        return ""


def drive_of(sysfs, device):
    """What a passport would call it."""
    folder = os.path.join(sysfs, "block", os.path.basename(os.path.realpath(device)))

    def first_of(names):
        return next((text for text in (read_text(os.path.join(folder, name)) for name in names) if text), "")

    return dict(
        model=first_of(["device/model"]), serial=first_of(SERIAL), firmware=first_of(FIRMWARE), bytes=int(first_of(["size"]) or 0) * 512,
    )


def key_of(pem):
    """In hex, as passports name the key that signed them: the last bytes of a PUBLIC KEY are those of an Ed25519 key."""
    lines = [line.strip() for line in pem.splitlines()]
    der = base64.b64decode("".join(line for line in lines if line and not line.startswith("-----")))
    if len(der) < KEY_BYTES:
        raise ValueError("no public key")
    return "".join("%02x" % byte for byte in bytearray(der[-KEY_BYTES:]))


def read_passports(folder, key):
    """Those of this site, and why other files are none."""
    found, rejected = [], []
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        try:
            signed = json.loads(read_text(path))
            passport = signed["passport"]
            of = [drive["serial"] for drive in passport["drives"]], passport["date"], passport["qualified"]
        except (ValueError, KeyError, TypeError):
            rejected.append("%s is no passport" % path)
            continue
        if signed.get("public_key") != key:
            rejected.append("%s was signed with another key than the site's" % path)
        else:
            found.append((of, passport))
    return found, rejected


def utc(unix):
    """As passports write it, so that what is later is larger."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


def objection(now, passports):
    """Why no passport counts for the drive; nothing if one does. The newest decides."""
    found, rejected = passports
    if not now["serial"]:
        return "its drive has no serial number, so that no passport can be its own"
    own = [(date, passport) for (serials, date, dummy), passport in found if serials == [now["serial"]]]
    if not own:
        return "no passport names its serial number %s%s" % (now["serial"], " (not counted: %s)" % "; ".join(rejected) if rejected else "")
    date, passport = sorted(own, key=lambda one: one[0])[-1]
    if date > utc(time.time() + CLOCKS_APART_MAX):
        return "its newest one is of %s, and on the host it is %s: one of the two clocks is wrong" % (date, utc(time.time()))
    then = passport["drives"][0]
    for name, what in (("model", "the model"), ("bytes", "the size in bytes"), ("firmware", "the firmware")):
        if then.get(name) != now[name]:
            return "%s was %s when it was qualified on %s and is %s now" % (what, then.get(name), date, now[name])
    # Nothing but true: what is no truth value has been changed.
    if passport["qualified"] is not True:
        return "it did not pass on %s: %s" % (date, passport.get("verdict", "no verdict"))
    return ""


def judge(parameters):
    passports = read_passports(parameters["folder"], key_of(read_text(parameters["public_key_file"])))
    judged = []
    for path in parameters["devices"]:
        now = drive_of(parameters["sysfs"], path)
        judged.append(dict(path=path, serial=now["serial"], objection=objection(now, passports)))
    return judged


def main():
    module = AnsibleModule(
        argument_spec=dict(
            folder=dict(type="path", required=True),
            public_key_file=dict(type="path", required=True, no_log=False),
            devices=dict(type="list", elements="str", required=True),
            sysfs=dict(type="path", default="/sys"),
        ),
        supports_check_mode=True,
    )
    try:
        judged = judge(module.params)
    # Of base64: a file that is no key.
    except (ValueError, TypeError):
        module.fail_json(msg="%s is no public key in PEM: openssl pkey -in site.key -pubout makes one" % module.params["public_key_file"])
    module.exit_json(changed=False, devices=judged)


if __name__ == "__main__":
    main()
