"""The kernel side, from here: loading probes, their maps and links, and reading their events."""
