"""ProfileService: what profiles this caller may use, and the worst that a call could do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.api import callers, messages
from supervisor.api.intercept import Context
from supervisor.call.texts import brief
from supervisor.errors import NotFound, ProfileError
from supervisor.profile.explain import explain
from supervisor.profile.load import ProfileSet
from supervisor.profile.model import EffectiveProfile
from supervisor.profile.walls import WallState
from supervisor.v1 import profile_pb2, profile_pb2_grpc


class ProfileService(profile_pb2_grpc.ProfileServiceServicer):
    """Answers from the loaded profiles; a profile that is not granted is not there."""

    def __init__(self, profiles: ProfileSet, walls: Callable[[], Mapping[str, WallState]]) -> None:
        """Take the profiles, and how to ask which of `HOST_WALLS` stand on this host."""
        self._profiles = profiles
        self._walls = walls

    async def ListProfiles(
        self, request: profile_pb2.ListProfilesRequest, context: Context
    ) -> profile_pb2.ListProfilesResponse:
        """List the profiles that this caller may use."""
        grants = callers.current().grants
        return profile_pb2.ListProfilesResponse(
            profiles=[
                self._summary(name) for name in sorted(self._profiles.names) if grants.may_use(name)
            ]
        )

    async def GetProfile(
        self, request: profile_pb2.GetProfileRequest, context: Context
    ) -> profile_pb2.GetProfileResponse:
        """Give the effective profile, each value with its origin."""
        profile = self._effective(request.name)
        return profile_pb2.GetProfileResponse(
            summary=messages.profile_summary(profile),
            canonical_json=profile.canonical,
            lines=messages.profile_lines(profile.lines),
        )

    async def ExplainProfile(
        self, request: profile_pb2.ExplainProfileRequest, context: Context
    ) -> profile_pb2.ExplainProfileResponse:
        """Say wall by wall what a call could do at worst, and what this host has."""
        profile = self._effective(request.name)
        return profile_pb2.ExplainProfileResponse(
            summary=messages.profile_summary(profile),
            findings=[messages.finding(finding) for finding in explain(profile, self._walls())],
        )

    def _effective(self, name: str) -> EffectiveProfile:
        if not callers.current().grants.may_use(name):
            raise NotFound("PROFILE_NOT_FOUND", f"there is no profile {brief(name)!r}")
        return self._profiles.effective(name)

    def _summary(self, name: str) -> profile_pb2.ProfileSummary:
        try:
            return messages.profile_summary(self._profiles.effective(name))
        except ProfileError as error:
            # One that is wrong must not hide the others, and must not look fit for use: it has
            # no digest.
            first_line = error.message.partition("\n")[0]
            return profile_pb2.ProfileSummary(name=name, why=f"invalid: {first_line}")
