"""A caller sees the profiles that it may use, and no others."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from supervisor.v1 import profile_pb2
from tests.unit.api.fakes import make_profile
from tests.unit.api.harness import connected, refused, run


def granted(*profiles: str) -> dict[str, object]:
    return {"callers": [{"name": "me", "uid": os.getuid(), "profiles": list(profiles)}]}


@pytest.mark.parametrize(
    ("grants", "names"),
    [(("python",), ["python"]), (("*",), ["broken", "python", "shell"])],
)
def test_list(grants: tuple[str, ...], names: list[str], tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted(*grants)) as (_, client):
            answer = await client.profile.ListProfiles(profile_pb2.ListProfilesRequest())
            assert [profile.name for profile in answer.profiles] == names
            python = next(found for found in answer.profiles if found.name == "python")
            assert python.digest == make_profile("python").digest
            assert python.mode == "enforce"

    run(main())


def test_a_profile_that_is_wrong_is_listed_as_such(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("*")) as (_, client):
            answer = await client.profile.ListProfiles(profile_pb2.ListProfilesRequest())
            assert answer.profiles[0].why.startswith("invalid: broken.yaml:1:1")
            assert not answer.profiles[0].digest

    run(main())


def test_get(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("python")) as (_, client):
            answer = await client.profile.GetProfile(profile_pb2.GetProfileRequest(name="python"))
            assert answer.canonical_json == make_profile("python").canonical
            (line,) = answer.lines
            assert (line.path, line.value_json, line.file, line.line) == (
                "limits.wall", '"60s"', "python.yaml", 3,
            )  # fmt: skip

    run(main())


def test_explain(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("python")) as (_, client):
            answer = await client.profile.ExplainProfile(
                profile_pb2.ExplainProfileRequest(name="python")
            )
            assert answer.summary.name == "python"
            assert answer.findings
            [programs] = [found for found in answer.findings if found.wall == "programs"]
            assert "guard is not on this host: this kernel has no BPF LSM" in programs.host
            for finding in answer.findings:
                assert finding.wall
                assert finding.verdict
                assert finding.exposure != profile_pb2.EXPOSURE_UNSPECIFIED

    run(main())


@pytest.mark.parametrize("name", ["shell", "no-such", ""])
@pytest.mark.parametrize("rpc", ["GetProfile", "ExplainProfile"])
def test_what_is_not_granted_is_not_there(rpc: str, name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("python")) as (_, client):
            request = getattr(profile_pb2, f"{rpc}Request")(name=name)
            found = await refused(getattr(client.profile, rpc)(request))
            assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "PROFILE_NOT_FOUND")

    run(main())


@pytest.mark.parametrize("rpc", ["GetProfile", "ExplainProfile"])
def test_a_profile_that_is_wrong(rpc: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path, granted("*")) as (_, client):
            request = getattr(profile_pb2, f"{rpc}Request")(name="broken")
            found = await refused(getattr(client.profile, rpc)(request))
            assert (found.code, found.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "PROFILE_INVALID",
            )

    run(main())
