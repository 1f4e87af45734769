"""YAML profiles, resolved into what the kernel enforces. Reads files; starts nothing."""
