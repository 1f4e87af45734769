"""A set of profiles out of folders: `NAME.yaml` and `fragments/NAME.yaml`.

Loading never fails for a profile that is wrong: its problems are kept, and asking for it raises.
So one bad file stops its own calls and those of the profiles that build on it, and no others.
A folder that is not there does fail: a daemon must not serve a part of its policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from supervisor.errors import NotFound, ProfileError
from supervisor.profile import lint
from supervisor.profile.layers import (
    Layer,
    Origin,
    Sourced,
    apply_drop,
    layer_of,
    merge,
    merge_fragments,
)
from supervisor.profile.model import EffectiveProfile
from supervisor.profile.resolve import resolve
from supervisor.profile.schema import (
    FRAGMENT_KEYS,
    PROFILE_KEYS,
    Body,
    FragmentFile,
    ProfileFile,
)
from supervisor.profile.yaml_source import (
    Document,
    Problem,
    ProblemsFound,
    did_you_mean,
    load_document,
    validate,
)

LINEAGE_MAX = 5
"""How many profiles an `extends` chain may have, the first one counted."""

SHIPPED = "base"
"""Of the shipped profiles the one that all others build on."""

NOT_THERE = "`stockade profile ls` lists what there is; a daemon reads its folders at its start"
NOT_SHIPPED = (
    "the shipped profiles are not loaded: where `profiles:` or --profiles names folders, these "
    "and no others are; name the shipped folder as well"
)

BodyT = TypeVar("BodyT", bound=Body)

__all__ = ["LINEAGE_MAX", "Problem", "ProfileSet"]


@dataclass(frozen=True, kw_only=True)
class _Source(Generic[BodyT]):
    """One file: its layer where it could be read, and its problems."""

    path: Path
    problems: tuple[Problem, ...]
    document: Document | None = None
    body: BodyT | None = None
    layer: Layer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merged:
    """A profile merged with all that it builds on, complete or not."""

    lineage: tuple[str, ...]
    layer: Layer
    problems: tuple[Problem, ...]


class ProfileSet:
    """All profiles of some folders, resolved on demand and kept."""

    def __init__(
        self,
        profiles: dict[str, _Source[ProfileFile]],
        fragments: dict[str, _Source[FragmentFile]],
        stray: tuple[Problem, ...] = (),
    ) -> None:
        self._profiles = profiles
        self._fragments = fragments
        self._resolved: dict[str, EffectiveProfile | tuple[Problem, ...]] = {}
        self.stray = stray
        """Problems of files that are no profile's: fragments, and files with another suffix."""

    @classmethod
    def load(cls, folders: Sequence[Path]) -> ProfileSet:
        """Read every profile and fragment in `folders`; one name in two files is an error of
        that name. A folder that is given twice is read once.

        Raises:
            ProfileError: PROFILES_UNREADABLE, a folder cannot be listed.
        """
        profiles: dict[str, _Source[ProfileFile]] = {}
        fragments: dict[str, _Source[FragmentFile]] = {}
        stray: list[Problem] = []
        for folder in {folder.resolve(): folder for folder in folders}.values():
            for path in _files(folder, stray):
                _add(profiles, _read(path, ProfileFile, PROFILE_KEYS))
            inner = folder / "fragments"
            for path in _files(inner, stray) if inner.is_dir() else ():
                _add(fragments, _read(path, FragmentFile, FRAGMENT_KEYS))
        stray += [problem for source in fragments.values() for problem in source.problems]
        return cls(profiles, fragments, tuple(stray))

    def instead(self, path: Path) -> ProfileSet:
        """Give the same profiles with the file at `path` in the place of the one of its name."""
        profiles = {**self._profiles, path.stem: _read(path, ProfileFile, PROFILE_KEYS)}
        return ProfileSet(profiles, self._fragments, self.stray)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all profiles, also of those with problems."""
        return tuple(sorted(self._profiles))

    def documents(self) -> Iterator[tuple[str, Document]]:
        """Give each file that could be read, and what it is: `profile NAME`, `fragment NAME`."""
        for kind, sources in (("profile", self._profiles), ("fragment", self._fragments)):
            for name, source in sources.items():
                if source.document is not None:
                    yield f"{kind} {name}", source.document

    def problems(self, name: str) -> tuple[Problem, ...]:
        """Give what is wrong with the profile `name` and with what it builds on.

        Raises:
            NotFound: PROFILE_NOT_FOUND.
        """
        resolved = self._resolve(name)
        return () if isinstance(resolved, EffectiveProfile) else resolved

    @property
    def shipped_missing(self) -> str:
        """Give a hint where the shipped profiles do not seem to be among those that are loaded."""
        return "" if SHIPPED in self._profiles else NOT_SHIPPED

    def effective(self, name: str) -> EffectiveProfile:
        """Give the effective profile `name`.

        Raises:
            NotFound: PROFILE_NOT_FOUND.
            ProfileError: PROFILE_INVALID; the message is its problems.
        """
        resolved = self._resolve(name)
        if not isinstance(resolved, EffectiveProfile):
            raise ProblemsFound("PROFILE_INVALID", resolved)
        return resolved

    def _resolve(self, name: str) -> EffectiveProfile | tuple[Problem, ...]:
        if name not in self._profiles:
            raise NotFound(
                "PROFILE_NOT_FOUND",
                f"there is no profile {name!r}",
                hint=did_you_mean(name, self._profiles) or self.shipped_missing or NOT_THERE,
            )
        if name not in self._resolved:
            self._resolved[name] = self._finish(name)
        return self._resolved[name]

    def _finish(self, name: str) -> EffectiveProfile | tuple[Problem, ...]:
        merged = self._merge(name, ())
        source = self._profiles[name]
        problems = merged.problems
        if source.document is None or source.body is None or problems:
            return problems
        document, body = source.document, source.body
        problems = tuple(lint.check_merged(merged.layer, document))
        if problems:
            return problems
        why = Sourced(value=body.why, origin=Origin(document=document, location=("why",)))
        mode = Sourced(value=body.mode, origin=Origin(document=document, location=("mode",)))
        written = mode if "mode" in document.data else None
        return resolve(name, merged.lineage, why, written, merged.layer)

    def _merge(self, name: str, below: tuple[str, ...]) -> _Merged:
        """Merge the profile `name`; `below` are the profiles that extend it."""
        source = self._profiles[name]
        if source.document is None or source.body is None or source.layer is None:
            problems = _by_position((*source.problems, *self._unfounded(source.document)))
            return _Merged(lineage=(name,), layer=Layer(), problems=problems)
        body, document, own = source.body, source.document, source.layer
        found = list(source.problems)
        lineage, parent = self._parent(name, below, document, body, found)
        fragments, use = self._used(document, body, found)
        united, conflicts = merge_fragments(fragments, use)
        found += conflicts
        inherited = merge(parent, united)
        if not found:
            found += apply_drop(inherited, body.drop, own, document)
        return _Merged(lineage=(name, *lineage), layer=merge(inherited, own), problems=tuple(found))

    def _unfounded(self, document: Document | None) -> Iterator[Problem]:
        """Give what a file builds on and is not there, where all else of it was not read."""
        data = document.data if document is not None else {}
        parent, used = data.get("extends"), data.get("use")
        if document is None:
            return
        if isinstance(parent, str) and parent not in self._profiles:
            yield document.problem(("extends",), *self._no_profile(parent))
        for position, name in enumerate(used if isinstance(used, list) else ()):
            if isinstance(name, str) and name not in self._fragments:
                yield document.problem(("use", position), *self._no_fragment(name))

    def _no_profile(self, name: str) -> tuple[str, str]:
        hint = did_you_mean(name, self._profiles) or self.shipped_missing
        return f"there is no profile {name!r}", hint

    def _no_fragment(self, name: str) -> tuple[str, str]:
        hint = did_you_mean(name, self._fragments) or self.shipped_missing
        return f"there is no fragment {name!r}", hint

    def _parent(
        self,
        name: str,
        below: tuple[str, ...],
        document: Document,
        body: ProfileFile,
        found: list[Problem],
    ) -> tuple[tuple[str, ...], Layer]:
        """Give the lineage and the merged layer of what `name` extends; note problems."""
        chain = (*below, name)
        parent = body.extends
        if parent is None:
            return (), Layer()
        message, hint = "", ""
        if parent in chain:
            circle = " -> ".join((*chain[chain.index(parent) :], parent))
            message, hint = f"extends itself: {circle}", "one of them must not extend the next"
        elif parent not in self._profiles:
            message, hint = self._no_profile(parent)
        elif len(chain) >= LINEAGE_MAX:
            message = f"more than {LINEAGE_MAX} profiles deep: {' -> '.join((*chain, parent))}"
            hint = "extend one of the earlier ones"
        if message:
            found.append(document.problem(("extends",), message, hint))
            return (), Layer()
        merged = self._merge(parent, chain)
        found += merged.problems
        return merged.lineage, merged.layer

    def _used(
        self, document: Document, body: ProfileFile, found: list[Problem]
    ) -> tuple[dict[str, Layer], dict[str, Origin]]:
        fragments: dict[str, Layer] = {}
        use: dict[str, Origin] = {}
        for position, name in enumerate(body.use):
            origin = Origin(document=document, location=("use", position))
            source = self._fragments.get(name)
            if name in use:
                found.append(origin.problem(f"{name} is used twice"))
            elif source is None:
                found.append(origin.problem(*self._no_fragment(name)))
            else:
                found += source.problems
                fragments[name] = source.layer or Layer()
            use[name] = origin
        return fragments, use


def _files(folder: Path, stray: list[Problem]) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ProfileError(
            "PROFILES_UNREADABLE",
            f"the profiles in {folder} cannot be listed: {error.strerror or error}",
        ) from error
    stray += [
        Problem(file=str(path), line=1, column=1, message="is not read", hint="name it .yaml")
        for path in entries
        if path.suffix == ".yml"
    ]
    return [path for path in entries if path.suffix == ".yaml"]


def _read(path: Path, model: type[BodyT], keys: Sequence[str]) -> _Source[BodyT]:
    document: Document | None = None
    layout: list[Problem] = []
    try:
        document = load_document(path)
        layout += lint.check_layout(document, keys, path.stem)
        body = validate(document, model)
    except ProblemsFound as error:
        problems = _by_position((*error.problems, *layout))
        return _Source(path=path, problems=problems, document=document)
    layer, twice = layer_of(document, body)
    return _Source(
        path=path,
        problems=_by_position((*layout, *twice)),
        document=document,
        body=body,
        layer=layer,
    )


def _by_position(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda found: (found.line, found.column)))


def _add(known: dict[str, _Source[BodyT]], source: _Source[BodyT]) -> None:
    name = source.path.stem
    first = known.get(name)
    if first is not None:
        problem = Problem(
            file=str(source.path), line=1, column=1,
            message=f"the name {name!r} stands twice: {first.path} and {source.path}",
            hint="rename one; a name never shadows another",
        )  # fmt: skip
        source = _Source(path=first.path, problems=(*first.problems, problem))
    known[name] = source
