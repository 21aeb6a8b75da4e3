"""Whether Prometheus has read its files: the script of the role monitoring, with a systemctl that answers what a test says."""

import os
import shlex
import subprocess
import tempfile
import unittest

import jinja2

from roles import task

SCRIPT = task("monitoring", "main.yml", "What Prometheus has not read yet")["ansible.builtin.shell"]["cmd"]
REMEMBER = task("monitoring", "main.yml", "Remember when")["ansible.builtin.command"]["argv"]
BEGUN = 1700000000
SYSTEMCTL = """#!/bin/sh
case "$*" in
  is-active*) exit %d ;;
  *ExecMainStartTimestamp*) echo @%d ;;
esac
"""


class PrometheusReload(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        os.mkdir(os.path.join(self.root, "run"))
        self.rules, self.config = self.written("seawall-alerts.yml", BEGUN - 60), self.written("prometheus.yml", BEGUN - 60)

    def written(self, name, when):
        path = os.path.join(self.root, name)
        with open(path, "w"):
            pass
        os.utime(path, (when, when))
        return path

    def look(self, is_active=True):
        """The moment, and what was not read by a Prometheus that began at BEGUN."""
        with open(os.path.join(self.root, "systemctl"), "w") as file:
            file.write(SYSTEMCTL % (0 if is_active else 3, BEGUN))
        os.chmod(os.path.join(self.root, "systemctl"), 0o755)
        environment = jinja2.Environment()
        environment.filters["quote"] = shlex.quote
        names = dict(monitoring_service="prometheus", monitoring_folder=self.root, monitoring_config=self.config)
        script = environment.from_string(SCRIPT).render(**names).replace("/run/", self.root + "/run/")
        path = self.root + ":" + os.environ["PATH"]
        ran = subprocess.run(["bash", "-c", script], env={"PATH": path}, stdout=subprocess.PIPE, check=True, universal_newlines=True)
        moment, *unread = ran.stdout.splitlines()
        return moment, unread

    def remember(self, moment):
        argv = [jinja2.Template(word).render(monitoring_unread={"stdout_lines": [moment]}) for word in REMEMBER]
        subprocess.run([word.replace("/run/", self.root + "/run/") for word in argv], check=True)

    def test_a_process_that_began_after_the_files_has_read_them(self):
        self.assertEqual(self.look()[1], [])

    def test_a_file_that_a_run_before_has_written_is_unread_until_prometheus_was_told(self):
        for path in (self.rules, self.config):
            with self.subTest(path=path):
                os.utime(path, (BEGUN, BEGUN))
                for dummy in range(2):
                    moment, unread = self.look()
                    self.assertEqual(unread, [path])
                self.remember(moment)
                self.assertEqual(self.look()[1], [])
                os.remove(os.path.join(self.root, "run/seawall-prometheus-read"))
                os.utime(path, (BEGUN - 60, BEGUN - 60))

    def test_what_was_written_after_it_was_told_is_unread(self):
        self.remember(self.look()[0])
        os.utime(self.config)
        self.assertEqual(self.look()[1], [self.config])

    def test_a_prometheus_that_does_not_run_has_read_nothing(self):
        self.assertEqual(self.look(is_active=False)[1], ["it does not run"])


if __name__ == "__main__":
    unittest.main()
