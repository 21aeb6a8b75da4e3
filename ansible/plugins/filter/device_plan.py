# SPDX-License-Identifier: Apache-2.0
"""What is going to happen to a device, in one line for people."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
name: device_plan
short_description: One line of the plan that is shown before a device is touched
version_added: 0.1.0
author: Seawall contributors (@seawall)
positional: may_format
options:
  _input:
    description: A device as M(seawall.cluster.wal_device) returns it.
    type: dict
    required: true
  may_format:
    description: Whether empty devices are formatted in this run.
    type: bool
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.debug:
    msg: "{{ looked.devices | map('seawall.cluster.device_plan', true) }}"
"""

RETURN = r"""
_value:
  description: The line.
  type: str
"""


def device_plan(device, may_format):
    what = {
        "ready": "stays as it is: %s" % device["why"],
        "refused": "REFUSED: %s" % device["why"],
        "format": "is empty and %s" % (
            "WILL BE FORMATTED as the WAL of node %s" % device.get("node", "?")
            if may_format
            else "stays as it is: it is formatted with -e device_format=true"
        ),
    }[device["verdict"]]
    size = "%.1f GiB" % (device["bytes"] / float(1 << 30))
    place = device["path"] or device["name"] or "nowhere"
    return "serial %s, %s, %s, %s: %s" % (device["serial"], place, size, device["model"] or "no model", what)


class FilterModule(object):
    """The filters of the collection."""

    def filters(self):
        return {"device_plan": device_plan}
