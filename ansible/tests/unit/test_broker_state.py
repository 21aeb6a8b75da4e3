"""Whether a broker is left alone, waited for or restarted: the script of state.yml, with a systemctl that answers what a test says."""

import os
import subprocess
import tempfile
import unittest

import jinja2

from roles import task

SCRIPT = task("seawall", "state.yml", "Since when the broker runs, and what is newer")["ansible.builtin.shell"]["cmd"]
FACTS = task("seawall", "state.yml", "Remember it")["ansible.builtin.set_fact"]
BEGUN = 1700000000
CONFIG = "etc/seawall/seawall.toml"
ADDITION = "etc/systemd/system/seawall.service.d/10-limits.conf"


class BrokerState(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        for file in (CONFIG, ADDITION):
            self.written(file, BEGUN - 60)

    def written(self, file, when):
        path = os.path.join(self.root, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w"):
            pass
        os.utime(path, (when, when))

    def lines(self, active, sub, pid=None):
        """What the script says of a unit in this state, whose last process began at BEGUN."""
        systemctl = os.path.join(self.root, "systemctl")
        answers = (active, sub, os.getpid() if pid is None else pid, BEGUN)
        with open(systemctl, "w") as file:
            file.write("#!/bin/sh\necho 'ActiveState=%s\nSubState=%s\nMainPID=%d\nExecMainStartTimestamp=@%d'\n" % answers)
        os.chmod(systemctl, 0o755)
        script = SCRIPT.replace("/etc/", self.root + "/etc/")
        path = self.root + ":" + os.environ["PATH"]
        ran = subprocess.run(["bash", "-c", script], env={"PATH": path}, stdout=subprocess.PIPE, check=True, universal_newlines=True)
        return ran.stdout.replace(self.root, "").splitlines()

    def facts(self, lines):
        state = {"stdout": "\n".join(lines), "stdout_lines": lines}
        return {name: jinja2.Template(text).render(seawall_state=state) for name, text in FACTS.items()}

    def is_stale(self, lines):
        return self.facts(lines)["seawall_stale"] == "True"

    def test_a_broker_that_is_younger_than_its_files_is_left_alone(self):
        self.assertEqual(self.lines("active", "running"), ["active"])
        self.assertFalse(self.is_stale(["active"]))

    def test_a_broker_that_reads_its_wal_back_is_not_stopped(self):
        for sub in ("start-pre", "start", "start-post"):
            with self.subTest(sub=sub):
                lines = self.lines("activating", sub)
                self.assertEqual(lines, ["starting"])
                self.assertFalse(self.is_stale(lines))
                self.assertEqual(self.facts(lines)["seawall_starting"], "True")

    def test_what_is_newer_than_the_process_is_named_even_while_it_starts(self):
        for file in (CONFIG, ADDITION):
            self.written(file, BEGUN + 1)
            for active, sub, standing in (("active", "running", "active"), ("activating", "start", "starting")):
                with self.subTest(file=file, active=active):
                    lines = self.lines(active, sub)
                    self.assertEqual(lines, [standing, "/%s is newer than its process" % file])
                    self.assertTrue(self.is_stale(lines))
                    self.assertEqual(self.facts(lines)["seawall_stale_why"], lines[1])
            self.written(file, BEGUN)

    def test_a_process_that_is_still_to_come_is_younger_than_all_files(self):
        self.written(CONFIG, BEGUN + 1)
        self.assertEqual(self.lines("activating", "start-pre", pid=0), ["starting"])

    def test_a_program_that_was_replaced_is_noticed(self):
        program = os.path.join(self.root, "sleep")
        subprocess.run(["cp", "/bin/sleep", program], check=True)
        with subprocess.Popen([program, "60"]) as process:
            os.remove(program)
            try:
                self.assertEqual(self.lines("activating", "start", process.pid), ["starting", "its program was replaced"])
            finally:
                process.kill()

    def test_a_broker_that_ended_is_stopped_and_so_is_one_that_systemd_tries_again(self):
        for active, sub in (("inactive", "dead"), ("failed", "failed"), ("activating", "auto-restart"), ("deactivating", "stop-sigterm")):
            with self.subTest(active=active):
                lines = self.lines(active, sub, pid=0)
                self.assertEqual(lines, ["stopped"])
                self.assertTrue(self.is_stale(lines))
                self.assertEqual(self.facts(lines)["seawall_stale_why"], "stopped")


if __name__ == "__main__":
    unittest.main()
