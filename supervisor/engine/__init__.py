"""Admission, live calls, reaping at start, shutdown."""

from supervisor.engine.engine import Engine
from supervisor.engine.options import EngineObserver, EngineOptions
from supervisor.engine.subscription import Subscription

__all__ = ["Engine", "EngineObserver", "EngineOptions", "Subscription"]
