"""BCC's tools: only root's are found, and those that cannot look at a call are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.errors import HostError, InvalidRequest
from supervisor.linux import bcc

pytestmark = pytest.mark.root

TAKES = "#!/bin/sh\necho '  --cgroupmap CGROUPMAP'\n"
TAKES_NOT = "#!/bin/sh\necho 'usage: other [-h]'\n"
BROKEN = "#!/bin/sh\necho 'ModuleNotFoundError: bcc --cgroupmap' >&2; exit 1\n"


def make(folder: Path, name: str, text: str) -> Path:
    tool = folder / f"{name}{bcc.SUFFIX}"
    tool.write_text(text)
    tool.chmod(0o755)
    return tool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path, "takes", TAKES)
    make(tmp_path, "other", TAKES_NOT)
    make(tmp_path, "broken", BROKEN)
    (tmp_path / "takes").write_text(TAKES)
    return tmp_path


def test_tools_are_named_without_their_suffix(folder: Path) -> None:
    found = bcc.tools(f"relative:{folder}:/nowhere")
    assert found == {n: folder / f"{n}-bpfcc" for n in ("broken", "other", "takes")}
    assert bcc.find_tool("takes", str(folder)) == bcc.find_tool("takes-bpfcc", str(folder))
    assert [n for n, tool in found.items() if bcc.mentions_option(tool)] == ["broken", "takes"]


@pytest.mark.parametrize("wrong", ["owner", "mode", "folder's owner", "folder's mode", "no exec"])
def test_what_others_could_write_is_not_run(folder: Path, wrong: str) -> None:
    tool = folder / "takes-bpfcc"
    match wrong:
        case "owner":
            os.chown(tool, 1000, 0)
        case "mode":
            tool.chmod(0o757)
        case "folder's owner":
            os.chown(folder, 1000, 0)
        case "folder's mode":
            folder.chmod(0o777)
        case "no exec":
            tool.chmod(0o644)
    with pytest.raises(HostError) as caught:
        bcc.find_tool("takes", str(folder))
    assert caught.value.reason == "TOOL_MISSING"


def test_a_link_is_judged_by_where_it_leads(folder: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "linked-bpfcc").symlink_to(folder / "takes-bpfcc")
    assert "linked" in bcc.tools(str(inner))
    (folder / "takes-bpfcc").chmod(0o777)
    assert "linked" not in bcc.tools(str(inner))


def test_a_tool_that_is_missing_has_a_way_out(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        bcc.find_tool("opensnoop", str(folder))
    assert caught.value.reason == "TOOL_MISSING"
    assert caught.value.hint.endswith(": broken, takes")
    with pytest.raises(HostError) as caught:
        bcc.find_tool("opensnoop", "/nowhere")
    assert caught.value.hint == "apt-get install bpfcc-tools"


def test_a_tool_must_take_the_map(folder: Path) -> None:
    bcc.require_option(folder / "takes-bpfcc", str(folder))
    with pytest.raises(InvalidRequest) as caught:
        bcc.require_option(folder / "other-bpfcc", str(folder))
    assert caught.value.reason == "CGROUPMAP_UNSUPPORTED"
    assert "takes" in caught.value.hint


def test_a_tool_that_cannot_even_help(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError) as caught:
        bcc.require_option(folder / "broken-bpfcc", str(folder))
    assert caught.value.reason == "TOOL_BROKEN"
    assert "ModuleNotFoundError: bcc" in caught.value.message
    monkeypatch.setattr(bcc, "HELP_S", 0.05)
    with pytest.raises(HostError) as caught:
        bcc.require_option(make(folder, "slow", "#!/bin/sh\nsleep 60\n"), str(folder))
    assert caught.value.reason == "TOOL_BROKEN"


def test_what_a_kernel_lacks(tmp_path: Path) -> None:
    release = os.uname().release
    kprobes, headers = bcc.kernel_lacks(tmp_path)
    assert "CONFIG_KPROBE_EVENTS" in kprobes
    assert f"linux-headers-{release}" in headers
    (tmp_path / "sys/bus/event_source/devices/kprobe").mkdir(parents=True)
    assert list(bcc.kernel_lacks(tmp_path)) == [headers]
    (tmp_path / f"lib/modules/{release}/build").mkdir(parents=True)
    assert list(bcc.kernel_lacks(tmp_path)) == []
