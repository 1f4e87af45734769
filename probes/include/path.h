/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Paths from the kernel's own objects, as a sandbox sees them, written behind an event.
 *
 * Who includes it says which event lies before the names (SCRATCH_EVENT) and how many bytes behind
 * it (SCRATCH_BYTES), at least PATH_BYTES for each path.
 */
#ifndef STOCKADE_PATH_H
#define STOCKADE_PATH_H

#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "kernel.h"

#define DEPTH_MAX  2048
#define NAME_BYTES 256

/*
 * A walk from a file up to the root of the sandbox; `at` and `limit` are places in scratch.data. It
 * lies in a map and not on the stack: the verifier would follow each length that a path can have.
 */
struct walk {
	struct dentry *dentry;
	struct vfsmount *vfsmount;
	struct dentry *top;
	struct vfsmount *top_mount;
	__u64 at;
	__u64 limit;
	bool whole;
};

struct scratch {
	struct walk walk;
	__u64 users; /* who may be interrupted by another task takes it by `take_scratch` */
	SCRATCH_EVENT event;
	__u8 data[SCRATCH_BYTES];
};

/* One for each processor. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* The barrier keeps the compiler from proving the bound away, which the verifier has to see. */
static __always_inline __u64 at_most(__u64 value, __u64 most)
{
	barrier_var(value);
	return value > most ? most : value;
}

/* Write the name that the walk is at and go up; 1 ends the walk. */
static long write_name(__u32 number, void *context)
{
	__u32 zero = 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
	struct dentry *dentry, *parent;
	struct vfsmount *vfsmount;
	struct mount *mount;
	struct walk *walk;
	long written;

	if (!scratch)
		return 1;
	walk = &scratch->walk;
	dentry = walk->dentry;
	vfsmount = walk->vfsmount;
	mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	if (dentry == walk->top && vfsmount == walk->top_mount) {
		walk->whole = true;
		return 1;
	}
	if (dentry == BPF_CORE_READ(vfsmount, mnt_root)) {
		struct mount *above = BPF_CORE_READ(mount, mnt_parent);

		/* Mounted nowhere: a memfd, or a file of a mount that is gone. */
		walk->whole = above == mount;
		if (above == mount)
			return 1;
		walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		walk->vfsmount = (void *)above + bpf_core_field_offset(struct mount, mnt);
		return 0;
	}
	parent = BPF_CORE_READ(dentry, d_parent);
	if (walk->at > walk->limit)
		return 1;
	written = bpf_probe_read_kernel_str(
		&scratch->data[at_most(walk->at, SCRATCH_BYTES - NAME_BYTES)], NAME_BYTES,
		BPF_CORE_READ(dentry, d_name.name));
	if (written <= 0)
		return 1;
	walk->at += written;
	/* The root of a file system that is mounted nowhere. */
	walk->whole = parent == dentry;
	walk->dentry = parent;
	return walk->whole;
}

/*
 * Write the names of a file from the leaf up to the root of `fs` to scratch.data from `at` on; give
 * where they end. Where not all of them fit, `bit` is set in event.cut.
 */
static __always_inline __u64 write_path(struct scratch *scratch, __u64 at, struct dentry *dentry,
					struct vfsmount *vfsmount, struct fs_struct *fs, __u32 bit)
{
	struct walk *walk = &scratch->walk;

	walk->dentry = dentry;
	walk->vfsmount = vfsmount;
	walk->top = BPF_CORE_READ(fs, root.dentry);
	walk->top_mount = BPF_CORE_READ(fs, root.mnt);
	walk->at = at;
	walk->limit = at + PATH_BYTES - NAME_BYTES;
	walk->whole = false;
	bpf_loop(DEPTH_MAX, write_name, NULL, 0);
	if (!walk->whole)
		scratch->event.cut |= bit;
	return walk->at;
}

#endif
