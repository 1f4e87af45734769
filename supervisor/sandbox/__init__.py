"""Everything that is built for one call: prepare, arm, start, drain, destroy."""

from supervisor.sandbox.doctor import doctor
from supervisor.sandbox.door import EgressOptions
from supervisor.sandbox.host import SandboxHost, SandboxOptions
from supervisor.sandbox.places import find_cell
from supervisor.sandbox.sandbox import ProgramEnd, Sandbox

__all__ = [
    "EgressOptions",
    "ProgramEnd",
    "Sandbox",
    "SandboxHost",
    "SandboxOptions",
    "doctor",
    "find_cell",
]
