"""Keeps the tables of variables in docs/ansible.md as the argument specs of the roles say. --write puts them there."""

import os
import re
import sys

import yaml

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PAGE = os.path.join(ROOT, "../docs/ansible.md")
ROLES = ["seawall", "device", "host", "qualify", "monitoring"]
BEGIN, END = "<!-- variables -->", "<!-- end of variables -->"


def read(path):
    with open(path) as file:
        return yaml.safe_load(file)


def plain(text):
    """Ansible's markup as Markdown's."""
    text = re.sub(r"[COVM]\(([^)]*)\)", r"`\1`", " ".join(text) if isinstance(text, list) else text)
    return text.strip().replace("|", "\\|")


def shown(option, default):
    if option.get("required"):
        return "required"
    value = option.get("default", default)
    if value is None:
        return ""
    if isinstance(value, str) and "{{" in value:
        return "(see text)"
    if isinstance(value, dict) and value:
        return "(see text)"
    return "`%s`" % {True: "true", False: "false", "": '""'}.get(value if not isinstance(value, (list, dict)) else None, value)


def rows(options, defaults, prefix=""):
    for name, option in options.items():
        choices = option.get("choices")
        what = plain(option["description"])
        if choices:
            what += " One of: %s." % ", ".join("`%s`" % choice for choice in choices)
        yield "| `%s%s` | %s | %s | %s |" % (prefix, name, option["type"], shown(option, defaults.get(name)), what)
        for row in rows(option.get("options", {}), {}, prefix + name + "."):
            yield row


def problems():
    """Defaults that nobody documents, and options that say another default than the role has."""
    for role in ROLES:
        defaults = read(os.path.join(ROOT, "roles", role, "defaults/main.yml")) or {}
        options = read(os.path.join(ROOT, "roles", role, "meta/argument_specs.yml"))["argument_specs"]["main"]["options"]
        for name in defaults:
            if name not in options:
                yield "%s of role %s is not in its argument specs" % (name, role)
        for name, option in options.items():
            if "default" in option and name in defaults and option["default"] != defaults[name]:
                yield "%s of role %s: the specs say %r, the role %r" % (name, role, option["default"], defaults[name])


def tables():
    lines = [BEGIN]
    for role in ROLES:
        spec = read(os.path.join(ROOT, "roles", role, "meta/argument_specs.yml"))["argument_specs"]["main"]
        defaults = read(os.path.join(ROOT, "roles", role, "defaults/main.yml")) or {}
        own = {name: option for name, option in spec["options"].items() if name.startswith(role + "_")}
        lines += ["", "### %s" % role, "", plain(spec["description"]), "", "| variable | type | default | |", "|---|---|---|---|"]
        lines += list(rows(own, defaults))
    return "\n".join(lines + ["", END])


def main():
    found = list(problems())
    with open(PAGE) as file:
        page = file.read()
    if BEGIN not in page or END not in page:
        found.append("docs/ansible.md has no place for variables")
    else:
        fresh = re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda dummy: tables(), page, flags=re.S)
        if fresh != page and "--write" in sys.argv:
            with open(PAGE, "w") as file:
                file.write(fresh)
        elif fresh != page:
            found.append("docs/ansible.md is not what the roles say: cargo xtask ansible --write")
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
