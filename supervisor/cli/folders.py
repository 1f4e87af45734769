"""Where the profiles of this installation are, for the daemon and for the verbs that need none."""

from __future__ import annotations

from pathlib import Path

ETC_PROFILES = Path("/etc/stockade/profiles")
_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_profiles() -> Path:
    """Give the folder of the profiles that come with Stockade: a wheel's, or a checkout's."""
    packaged = _PACKAGE / "_data" / "profiles"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "profiles"


def profile_folders(configured: list[str] | None = None) -> list[Path]:
    """Give the folders to load: those that the configuration names and no others, or the shipped
    ones and /etc/stockade/profiles."""
    if configured is not None:
        return [Path(folder) for folder in configured]
    return [shipped_profiles(), *([ETC_PROFILES] if ETC_PROFILES.is_dir() else [])]
