"""Egress by name: what a call may reach, its DNS, and the broker that dials for it."""
