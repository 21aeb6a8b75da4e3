"""Tasks of the roles, as their files have them."""

import os

import yaml

ROLES = os.path.join(os.path.dirname(__file__), "../../roles")


def task(role, file, name):
    with open(os.path.join(ROLES, role, "tasks", file)) as tasks:
        return next(task for task in yaml.safe_load(tasks) if task["name"] == name)
