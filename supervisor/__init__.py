"""Stockade: run every tool call of an AI agent in a sandbox of its own, and keep the record."""

__version__ = "0.1.0"
