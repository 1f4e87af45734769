// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The guard: a sandbox runs programs of its read-only image only, and touches no mount, no process
 * of another sandbox and nothing of ours.
 *
 * It needs BPF LSM (and fexit), so it is a wall that not every kernel has: the daemon tries it when
 * it starts, and says whether it stands. All programs are attached once, for the whole host. Whom
 * they concern is told by the id of the current task's ancestor at `call_level`, as in the fence.
 *
 *   bprm_check_security   a program is to be run, and each interpreter of it
 *   mmap_file             a file is to be mapped as code: `ld-linux ./program`, dlopen
 *   file_mprotect         a mapping of a file is to become code
 *   path_noexec (fexit)   tells what the kernel itself refuses on a noexec mount, before any of the
 *                         above is asked; it denies nothing
 *   sb_mount, move_mount, sb_remount, sb_umount, sb_pivotroot, sb_alloc_security
 *                         no mount is made, moved, changed or taken away
 *   ptrace_access_check, ptrace_traceme
 *                         no process outside the call is read, traced or asked to trace
 *   userns_create         no user namespace: it is where capabilities come from
 *   bpf                   no bpf(2) in a call; and with
 *   bpf_map, bpf_prog     no map, program or link of ours for whom is outside of the host's first
 *                         pid namespace and of the daemon's: a privileged container of somebody else
 *
 * Which file may be run is told by the kernel's objects, never by a path. What lies on a mount where
 * the call can write is not run, unless the profile says `exec: true` for that mount; the daemon
 * writes those mounts' devices into `guards`. They are asked first, so that making such a mount
 * read-only (mount_setattr(2) has no hook) gains nothing. Everything else must lie on a read-only
 * mount or file system, as the image and files.read do, and a memfd does not. Who can make neither a
 * mount nor a file system has no other place for a program.
 *
 * Memory that belongs to no file may be made executable: the just-in-time compilers of node, luajit
 * and pypy need it. So the guard bounds which files run, not what a program that runs can compute.
 *
 * While the runtime builds the sandbox, it runs in the call's cgroup: it mounts, and runs itself
 * from a memfd. A call is guarded from the moment that `guards` has a row for it, which the daemon
 * writes after `runtime create` and reads back before `runtime start`; the row goes with the call.
 *
 *   guards   cgroup id of a guarded call → its writable mounts. Full: the daemon cannot write the
 *            row, so the call does not start.
 *   ours     ids of our maps, programs and links. Full: the daemon cannot write the row, and does
 *            not start, or the call does not.
 *
 * Denials are counted and told as the fence's are (include/maps.h).
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "kernel.h"
#include "maps.h"

#define SCRATCH_EVENT struct refused_event
#define SCRATCH_BYTES PATH_BYTES
#include "path.h"

#define EPERM 1

#define PROT_EXEC 4

/* include/linux/mount.h, include/linux/fs.h */
#define MNT_READONLY 0x40
#define MNT_INTERNAL 0x4000
#define SB_RDONLY    1

/* arch/x86/entry/syscalls/syscall_64.tbl */
#define NR_EXECVE   59
#define NR_EXECVEAT 322

/* include/linux/proc_ns.h: the inode of the host's first pid namespace. */
#define PID_INIT_INO 0xEFFFFFFC

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALLS_MAX);
	__type(key, __u64);
	__type(value, struct guard);
} guards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OURS_MAX);
	__type(key, struct ours);
	__type(value, __u32);
} ours SEC(".maps");

/* Say which call the current process belongs to; 0 where it is in none. */
static __always_inline __u64 current_call(void)
{
	return bpf_get_current_ancestor_cgroup_id(call_level);
}

/* Say which call another process belongs to; 0 where it is in none. */
static __always_inline __u64 call_of(struct task_struct *task)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
	struct cgroup *ancestor = NULL;
	void *ancestors = (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors);

	if (BPF_CORE_READ(cgroup, level) < (int)call_level)
		return 0;
	if (bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
				  ancestors + call_level * sizeof(ancestor)))
		return 0;
	return BPF_CORE_READ(ancestor, kn, id);
}

static __always_inline void set_file(struct kind *kind, struct dentry *dentry)
{
	__u64 inode = BPF_CORE_READ(dentry, d_inode, i_ino);
	__u32 device = BPF_CORE_READ(dentry, d_inode, i_sb, s_dev);

	__builtin_memcpy(kind->address, &inode, sizeof(inode));
	__builtin_memcpy(kind->address + sizeof(inode), &device, sizeof(device));
}

/*
 * Count a denial and tell the first of its kind, with the path where there is one. A task that is
 * interrupted in here by another one has the processor's scratch: the other's path is not told.
 */
static __noinline void refuse(const struct kind *kind, struct dentry *dentry,
			      struct vfsmount *mount)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct folded who = {};
	struct scratch *scratch;
	struct call *call;
	__u64 length = 0;
	__u32 zero = 0;

	set_current(&who);
	call = count(kind, &who);
	if (!call)
		return;
	scratch = bpf_map_lookup_elem(&scratches, &zero);
	if (!scratch || __sync_fetch_and_add(&scratch->users, 1)) {
		struct refused_event event = {.cut = CUT_PATH};

		set_header(&event.header, call, kind, &who, EVENT_REFUSED);
		event.kind = *kind;
		send(call, EVENT_REFUSED, &event, sizeof(event));
	} else {
		scratch->event.cut = 0;
		set_header(&scratch->event.header, call, kind, &who, EVENT_REFUSED);
		scratch->event.kind = *kind;
		if (dentry)
			length = write_path(scratch, 0, dentry, mount, BPF_CORE_READ(task, fs),
					    CUT_PATH);
		length = at_most(length, SCRATCH_BYTES);
		scratch->event.path_bytes = length;
		send(call, EVENT_REFUSED, &scratch->event, sizeof(scratch->event) + length);
	}
	if (scratch)
		__sync_fetch_and_add(&scratch->users, -1);
}

/* Say why a file of this mount may not be run; 0 where it may. */
static __always_inline enum because judge(const struct guard *guard, struct vfsmount *mount)
{
	struct super_block *sb = BPF_CORE_READ(mount, mnt_sb);
	int flags = BPF_CORE_READ(mount, mnt_flags);
	__u32 device = BPF_CORE_READ(sb, s_dev);

	for (__u32 i = 0; i < MOUNTS_MAX; i++) {
		if (i >= guard->count)
			break;
		/* Allowed: the profile says that programs run from this writable mount. */
		if (guard->mounts[i].device == device)
			return guard->mounts[i].exec ? 0 : BECAUSE_WRITABLE;
	}
	/* Allowed: nobody in the sandbox can change it, and it made no file system of its own. */
	if (flags & MNT_READONLY || BPF_CORE_READ(sb, s_flags) & SB_RDONLY)
		return 0;
	return flags & MNT_INTERNAL ? BECAUSE_MEMORY : BECAUSE_WRITABLE;
}

/* Say whether the current process is not to run this file, and tell it. */
static __always_inline bool refuse_file(struct file *file, enum hook hook)
{
	struct kind kind = {.hook = hook, .call = current_call()};
	struct guard *guard = bpf_map_lookup_elem(&guards, &kind.call);
	struct vfsmount *mount = BPF_CORE_READ(file, f_path.mnt);
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);

	/* Allowed: the host's own process, or the runtime that still builds the sandbox. */
	if (!guard)
		return false;
	kind.family = judge(guard, mount);
	if (!kind.family)
		return false;
	set_file(&kind, dentry);
	refuse(&kind, dentry, mount);
	return true;
}

SEC("lsm/bprm_check_security")
int BPF_PROG(guard_exec, struct linux_binprm *bprm)
{
	if (refuse_file(BPF_CORE_READ(bprm, file), HOOK_EXEC))
		return -EPERM;
	return 0;
}

SEC("lsm/mmap_file")
int BPF_PROG(guard_mmap, struct file *file, unsigned long asked, unsigned long prot)
{
	/* Allowed: what is not code, and memory without a file. `prot` has what personality adds. */
	if (!file || !(prot & PROT_EXEC))
		return 0;
	if (refuse_file(file, HOOK_MMAP))
		return -EPERM;
	return 0;
}

SEC("lsm/file_mprotect")
int BPF_PROG(guard_mprotect, struct vm_area_struct *area, unsigned long asked, unsigned long prot)
{
	struct file *file;

	/* Allowed: as above. */
	if (!(prot & PROT_EXEC))
		return 0;
	file = BPF_CORE_READ(area, vm_file);
	if (!file)
		return 0;
	if (refuse_file(file, HOOK_MPROTECT))
		return -EPERM;
	return 0;
}

/* The kernel opens a file to run it, and its mount is noexec: EACCES, before any hook is asked. */
SEC("fexit/path_noexec")
int BPF_PROG(guard_noexec, const struct path *path, __u64 noexec)
{
	struct kind kind = {.hook = HOOK_EXEC, .family = BECAUSE_NOEXEC};
	struct pt_regs *registers;
	struct dentry *dentry;
	__u32 number; /* the kernel looks at no more of the register */

	if (!(__u8)noexec)
		return 0;
	kind.call = current_call();
	if (!bpf_map_lookup_elem(&guards, &kind.call))
		return 0;
	/* access(2) asks for it too, and mmap(2), which has a hook of its own. */
	registers = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	number = BPF_CORE_READ(registers, orig_ax);
	if (number != NR_EXECVE && number != NR_EXECVEAT)
		return 0;
	dentry = BPF_CORE_READ(path, dentry);
	set_file(&kind, dentry);
	refuse(&kind, dentry, BPF_CORE_READ(path, mnt));
	return 0;
}

/* Say whether the current process is not to do that to a mount, and tell it. */
static __always_inline bool refuse_mount(enum mounting mounting, struct dentry *dentry,
					 struct vfsmount *mount)
{
	struct kind kind = {.hook = HOOK_MOUNT, .type = mounting, .call = current_call()};

	/* Allowed: the host's own process, or the runtime that still builds the sandbox. */
	if (!bpf_map_lookup_elem(&guards, &kind.call))
		return false;
	if (dentry)
		set_file(&kind, dentry);
	refuse(&kind, dentry, mount);
	return true;
}

SEC("lsm/sb_mount")
int BPF_PROG(guard_mount, const char *source, const struct path *path)
{
	if (refuse_mount(MOUNTING_MOUNT, BPF_CORE_READ(path, dentry), BPF_CORE_READ(path, mnt)))
		return -EPERM;
	return 0;
}

SEC("lsm/move_mount")
int BPF_PROG(guard_move, const struct path *from, const struct path *to)
{
	if (refuse_mount(MOUNTING_MOVE, BPF_CORE_READ(to, dentry), BPF_CORE_READ(to, mnt)))
		return -EPERM;
	return 0;
}

SEC("lsm/sb_remount")
int BPF_PROG(guard_remount, struct super_block *sb)
{
	if (refuse_mount(MOUNTING_REMOUNT, NULL, NULL))
		return -EPERM;
	return 0;
}

SEC("lsm/sb_umount")
int BPF_PROG(guard_unmount, struct vfsmount *mount)
{
	if (refuse_mount(MOUNTING_UNMOUNT, BPF_CORE_READ(mount, mnt_root), mount))
		return -EPERM;
	return 0;
}

SEC("lsm/sb_pivotroot")
int BPF_PROG(guard_pivot, const struct path *from, const struct path *to)
{
	if (refuse_mount(MOUNTING_PIVOT, BPF_CORE_READ(to, dentry), BPF_CORE_READ(to, mnt)))
		return -EPERM;
	return 0;
}

/* A new file system, also one that is mounted nowhere (fsopen(2)): programs could be put into it. */
SEC("lsm/sb_alloc_security")
int BPF_PROG(guard_make, struct super_block *sb)
{
	if (refuse_mount(MOUNTING_MAKE, NULL, NULL))
		return -EPERM;
	return 0;
}

/* Say whether the current process is not to have to do with `task`, and tell it. */
static __always_inline bool refuse_task(struct task_struct *task)
{
	struct kind kind = {.hook = HOOK_PTRACE, .call = current_call()};

	/* Allowed: the host's own process, or the runtime that still builds the sandbox. */
	if (!bpf_map_lookup_elem(&guards, &kind.call))
		return false;
	/* Allowed: a process of the same call. */
	if (call_of(task) == kind.call)
		return false;
	kind.type = BPF_CORE_READ(task, tgid);
	refuse(&kind, NULL, NULL);
	return true;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(guard_ptrace, struct task_struct *child)
{
	if (refuse_task(child))
		return -EPERM;
	return 0;
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(guard_traceme, struct task_struct *parent)
{
	if (refuse_task(parent))
		return -EPERM;
	return 0;
}

SEC("lsm/userns_create")
int BPF_PROG(guard_userns, const struct cred *cred)
{
	struct kind kind = {.hook = HOOK_USERNS, .call = current_call()};

	/* Allowed: the host's own process, or the runtime that still builds the sandbox. */
	if (!bpf_map_lookup_elem(&guards, &kind.call))
		return 0;
	refuse(&kind, NULL, NULL);
	return -EPERM;
}

static __always_inline bool is_ours(enum sort sort, __u32 id)
{
	struct ours key = {.sort = sort, .id = id};

	return bpf_map_lookup_elem(&ours, &key);
}

/* Say whether the current process may reach what is ours: who is where the daemon is, or above. */
static __always_inline bool is_of_host(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 inode = BPF_CORE_READ(task, nsproxy, pid_ns_for_children, ns.inum);

	return inode == PID_INIT_INO || is_ours(SORT_PID_NAMESPACE, inode);
}

/*
 * Give the id of the link behind a descriptor; of what is no link some number, and 0, which no link
 * has, where there is no such descriptor: the kernel refuses both.
 */
static __always_inline __u32 link_of(__u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = NULL;
	struct bpf_link *link;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	if (bpf_probe_read_kernel(&file, sizeof(file), files + fd))
		return 0;
	link = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(link, id);
}

/* Say whether a command is about a link of ours; what it is about comes first in all of them. */
static __always_inline bool is_about_ours(int command, const union bpf_attr *attr)
{
	__u32 first = 0;

	if (bpf_probe_read_kernel(&first, sizeof(first), attr))
		return true; /* what cannot be read is not allowed */
	switch (command) {
	case BPF_LINK_GET_FD_BY_ID:
		return is_ours(SORT_LINK, first);
	case BPF_LINK_DETACH:
	case BPF_LINK_UPDATE:
		return is_ours(SORT_LINK, link_of(first));
	default:
		return false; /* it names maps and programs, which have hooks of their own */
	}
}

SEC("lsm/bpf")
int BPF_PROG(guard_bpf, int command, union bpf_attr *attr)
{
	struct kind kind = {.hook = HOOK_BPF, .type = command, .call = current_call()};

	/* Allowed: whoever is in no sandbox, unless it is a stranger who wants a link of ours. */
	if (!bpf_map_lookup_elem(&guards, &kind.call)) {
		if (is_of_host() || !is_about_ours(command, attr))
			return 0;
	}
	refuse(&kind, NULL, NULL);
	return -EPERM;
}

/* Say whether a stranger wants an object of ours, and count it. */
static __always_inline bool refuse_object(enum sort sort, __u32 id)
{
	struct kind kind = {.hook = HOOK_BPF};

	/* Allowed: an object of somebody else's, or whoever is where the daemon is. */
	if (!is_ours(sort, id) || is_of_host())
		return false;
	refuse(&kind, NULL, NULL);
	return true;
}

SEC("lsm/bpf_map")
int BPF_PROG(guard_map, struct bpf_map *map)
{
	if (refuse_object(SORT_MAP, BPF_CORE_READ(map, id)))
		return -EPERM;
	return 0;
}

SEC("lsm/bpf_prog")
int BPF_PROG(guard_program, struct bpf_prog *prog)
{
	if (refuse_object(SORT_PROGRAM, BPF_CORE_READ(prog, aux, id)))
		return -EPERM;
	return 0;
}
