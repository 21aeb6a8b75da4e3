"""When the object store is qualified: as soon as there is a configuration that names it, and once."""

import unittest

import jinja2

from roles import task

PROBED = ("qualify", "main.yml", "Qualify the object store")
WAITS = ("qualify", "main.yml", "The object store waits for the configuration of the broker")
SAID = ("qualify", "main.yml", "Say so")
LATER = ("seawall", "store.yml", "Qualify the object store before the first start")


def is_done(place, variables):
    """As Ansible does it: one condition after the other, to the first that does not hold."""
    conditions = task(*place)["when"]
    conditions = conditions if isinstance(conditions, list) else [conditions]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return all(environment.compile_expression(condition, undefined_to_none=False)(**variables) for condition in conditions)


def played(probes, configured, check=False):
    """Which tasks a run of site does: the role qualify, and then the role seawall, which knows its facts."""
    variables = {"qualify_probes": probes, "ansible_check_mode": check}
    if "backend" in probes:
        variables["qualify_config"] = {"stat": {"exists": configured}}
    else:
        variables["qualify_config"] = {"skipped": True}
    done = []
    for place in (PROBED, WAITS, SAID, LATER):
        if is_done(place, variables):
            done.append(place)
            variables.update(task(*place).get("ansible.builtin.set_fact", {}))
    return done


class QualifiedStore(unittest.TestCase):
    def test_a_configured_broker_has_its_store_qualified_with_all_else(self):
        self.assertEqual(played(["host", "backend"], configured=True), [PROBED])

    def test_a_bare_host_is_told_to_wait_and_its_store_is_qualified_before_the_first_start(self):
        self.assertEqual(played(["host", "backend"], configured=False), [WAITS, SAID, LATER])

    def test_who_does_not_ask_for_it_is_asked_nothing(self):
        for configured in (False, True):
            self.assertEqual(played(["host"], configured), [])

    def test_a_host_that_was_not_looked_at_in_this_run_is_left_alone(self):
        self.assertFalse(is_done(LATER, {"ansible_check_mode": False}))

    def test_it_comes_between_the_configuration_and_the_start(self):
        steps = task("seawall", "main.yml", "Package, configuration, service")["loop"]
        self.assertEqual(steps, ["install.yml", "configure.yml", "store.yml", "run.yml"])


if __name__ == "__main__":
    unittest.main()
