"""The Vagrantfile is Ruby, and sets its machine up with targets that exist.

Nothing here can boot it: that takes a hypervisor and a box from outside. Where there is no Ruby to
read the whole file, its provision, which is shell, is all that is checked.
"""

from __future__ import annotations

import re
import shutil
import subprocess

from tests.style.test_docs import TARGETS
from tests.style.tree import ROOT

PROVISION = re.compile(r"<<~SHELL\n(.*?)^\s*SHELL$", re.S | re.M)


def test_the_machine_is_set_up_by_targets_of_the_makefile() -> None:
    (script,) = PROVISION.findall((ROOT / "Vagrantfile").read_text())
    made = re.findall(r"^\s*make (\S+)$", script, re.M)
    assert made == ["setup", "vm-kernels"]
    assert set(made) <= TARGETS
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_it_is_ruby() -> None:
    ruby = shutil.which("ruby")
    text = (ROOT / "Vagrantfile").read_text()
    if ruby is None:
        # The coarsest that can be said without one: every block that opens is closed.
        opened = re.findall(r"\bdo \|", text)
        assert len(opened) == len(re.findall(r"^\s*end$", text, re.M)) == 1
        return
    subprocess.run([ruby, "-c", ROOT / "Vagrantfile"], check=True, capture_output=True)
