"""Thin named wrappers around the kernel: cgroups, namespaces, mounts, processes, seccomp notify."""
