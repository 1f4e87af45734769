"""What is wrong with a profile beyond its shape: layout of the file, and the merged whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supervisor.profile import syscalls
from supervisor.profile.layers import ALLOW, KILL, READ, WATCH, WRITE, Key, Layer, Sourced
from supervisor.profile.reach import check_reach
from supervisor.profile.schema import under
from supervisor.profile.yaml_source import Document, Mark, Problem, problem_at

LINES_MAX = 40
WORK = "/work"

REQUIRED: tuple[Key, ...] = (
    ("image",),
    *(("limits", name) for name in ("wall", "cpu", "memory", "pids", "files", "output")),
    *(("record", name) for name in ("stdin", "stdout", "stderr")),
)


def check_layout(document: Document, keys: Sequence[str], stem: str) -> Iterator[Problem]:
    """Check length, the order of the keys, and that the file is named after what it holds."""
    used = len(document.lines) - (not document.lines[-1])
    if used > LINES_MAX:
        mark = Mark(line=LINES_MAX + 1, column=1, width=len(document.lines[LINES_MAX]))
        yield problem_at(
            document.file, document.lines, mark,
            f"{used} lines: a profile has at most {LINES_MAX}", "move a part into a fragment",
        )  # fmt: skip
    latest = -1
    for name in document.data:
        place = keys.index(name) if name in keys else latest
        if place < latest:
            yield document.problem(
                (name,),
                f"{name!r} must stand before {keys[latest]!r}",
                "the order is " + ", ".join(keys),
                at_key=True,
            )
        latest = max(latest, place)
    own = document.data.get(keys[0])
    if isinstance(own, str) and own != stem:
        yield document.problem(
            (keys[0],), f"{own!r} stands in a file named {stem}.yaml", f"name the file {own}.yaml"
        )


def check_merged(layer: Layer, document: Document) -> Iterator[Problem]:
    """Check a profile after merging; what is missing is reported at the profile's first line."""
    missing = [".".join(key) for key in REQUIRED if key not in layer.scalars]
    if missing:
        yield document.problem(
            (document_key(document),),
            f"nothing sets {', '.join(missing)}",
            "set it here, or extend a profile that does",
        )
    yield from _check_mounts(layer, document)
    yield from _check_syscalls(layer, document)
    yield from check_reach(layer)


def document_key(document: Document) -> str:
    """Give the first key of `document`: `profile` or `fragment`."""
    return next(iter(document.data))


def _check_mounts(layer: Layer, document: Document) -> Iterator[Problem]:
    write, read = layer.items[WRITE], layer.items[READ]
    if WORK not in write:
        yield document.problem(
            (document_key(document),),
            f"{WORK} is not among the writable mounts",
            f"calls start in it: files: {{write: [{{path: {WORK}, size: 64MiB}}]}}",
        )
    yield from _nested(write, write, "writable mount")
    yield from _nested(read, read, "read-only path")
    yield from _nested(read, write, "writable mount")
    yield from _nested(write, read, "read-only path")


def _nested(inner: dict[str, Sourced], outer: dict[str, Sourced], what: str) -> Iterator[Problem]:
    for path, sourced in inner.items():
        for folder, other in outer.items():
            same = inner is outer and path == folder
            twice = inner is not outer and path == folder and what == "read-only path"
            if under(path, folder) and not same and not twice:
                yield sourced.origin.problem(
                    f"{path} lies in the {what} {folder} ({other.origin})",
                    "give each path once, beside the others",
                )


def _check_syscalls(layer: Layer, document: Document) -> Iterator[Problem]:
    sets = [name for name in layer.items[ALLOW] if name.startswith("@")]
    if not sets:
        yield document.problem(
            (document_key(document),),
            "no set of system calls is allowed",
            'syscalls: {allow: ["@local"]}',
        )
        return
    allowed = layer.allowed()
    dropped = syscalls.START_NEEDS & layer.without.keys()
    for name in sorted(dropped):
        yield layer.without[name].origin.problem(
            f"{name} cannot be taken away: no program starts without it"
        )
    lacking = sorted(syscalls.START_NEEDS - allowed - dropped)
    if lacking:
        holding = {name for call in lacking for name in syscalls.sets_with(call)}
        need = ", ".join(sorted(holding - {syscalls.START}))
        yield document.problem(
            (document_key(document),),
            f"no program could start: {', '.join(lacking)} not allowed",
            f"allow the sets {need}, or {syscalls.START}, which is just these and their like",
        )
    for name, sourced in layer.items[KILL].items():
        if name in allowed:
            yield sourced.origin.problem(
                f"{name} is also allowed", f"drop: {{syscalls: {{allow: [{name}]}}}}"
            )
    for name, sourced in layer.items[WATCH].items():
        names = syscalls.members(name) if name.startswith("@") else {name}
        if not names & allowed:
            yield sourced.origin.problem(
                f"{name} is not allowed, so there is nothing to watch: a denial is told anyway",
                f"drop: {{syscalls: {{watch: [{_quoted(name)}]}}}}, or take it out",
            )
    yield from _check_sockets(layer, sets)


def _quoted(name: str) -> str:
    return f'"{name}"' if name.startswith("@") else name


def _check_sockets(layer: Layer, sets: list[str]) -> Iterator[Problem]:
    families = syscalls.expand_sets(sets) & set(syscalls.SOCKETS_OF_SET)
    for name in ("socket", "socketpair"):
        sourced = layer.items[ALLOW].get(name)
        if sourced is not None and not families:
            yield sourced.origin.problem(
                f"{name} by itself can make no socket: sets decide about the families",
                "allow @ipc for Unix sockets, or @network-io for TCP and UDP",
            )
