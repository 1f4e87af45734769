"""From an effective profile to a container: seccomp, spec, root filesystem, images, runtime."""
