// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which system calls a call makes, where its profile asks: watch lists, learning, and a second wall
 * behind `syscalls.kill`.
 *
 *   sys_enter            a system call that seccomp let through: count it, tell the first of a kind,
 *                        and where it is one that kills, kill
 *   sched_process_exec   from which program on a call is watched
 *
 * Attached only while a live call asks: sys_enter taxes every system call of the whole host. seccomp
 * comes first (kernel/entry/), so what it denies never gets here; it is told by the notify
 * descriptor. A SIGKILL from here ends the process, but does not undo the system call: prevention is
 * seccomp's, and this acts where seccomp did not.
 *
 *   watched   cgroup id of a live call → what of it is watched, and the counters. Full: the daemon
 *             cannot write the row, so the call does not start. The counters are part of the row, so
 *             counting needs no place and cannot fail.
 *
 * Arguments are the registers as they were; nothing that they point to is read. An event that finds no
 * place in its call's ring is counted all the same, and told from the row, without its arguments.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "kernel.h"
#include "maps.h"

#define NR_SOCKET 41

#define AF_UNIX	   1
#define AF_INET	   2
#define AF_INET6   10
#define AF_NETLINK 16

#define SIGKILL 9

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Not allocated beforehand: a row has four kilobytes, and few calls ask for one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALLS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct watched);
} watched SEC(".maps");

static __always_inline bool has(const __u64 words[SYSCALL_WORDS], __u32 number)
{
	return words[number / 64 % SYSCALL_WORDS] >> number % 64 & 1;
}

/* Which counter is a system call's: a socket has one for each family, since rules differ by it. */
static __always_inline __u32 place_of(__u32 number, __u32 family)
{
	if (number != NR_SOCKET)
		return number;
	switch (family) {
	case AF_UNIX:
		return PLACE_UNIX;
	case AF_INET:
		return PLACE_INET;
	case AF_INET6:
		return PLACE_INET6;
	case AF_NETLINK:
		return PLACE_NETLINK;
	default:
		return number;
	}
}

/* A function of its own and not inlined: so its argument's layout is in the BTF, for our tests. */
static __noinline void put_watched(struct call *call, struct watched_event *event)
{
	if (call && event)
		send(call, EVENT_WATCHED, event, sizeof(*event));
}

static __always_inline void tell(__u64 id, struct watched_event *event)
{
	struct call *call = bpf_map_lookup_elem(&calls, &id);
	__u64 ids = bpf_get_current_pid_tgid();

	/* The daemon has let the call go, and its processes are dead but for this one: it is counted. */
	if (!call)
		return;
	event->header.call = id;
	event->header.sequence = next_sequence(call);
	event->header.time_ns = bpf_ktime_get_boot_ns();
	event->header.kind = EVENT_WATCHED;
	event->header.tgid = ids >> 32;
	event->header.tid = (__u32)ids;
	event->header.uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(event->header.comm, sizeof(event->header.comm));
	put_watched(call, event);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(watch_syscall, struct pt_regs *registers, long number)
{
	__u64 id = bpf_get_current_ancestor_cgroup_id(call_level);
	struct watched *row = bpf_map_lookup_elem(&watched, &id);
	struct watched_event event = {};
	bool kills;
	__u32 place;

	/* Not a process of a call that asks, which is almost everybody: nothing to do. */
	if (!row)
		return 0;
	/* The runtime's own init, before the sandbox's first program: it is not the call's doing. */
	if (row->state != WATCHING)
		return 0;
	/* No number of x86_64: seccomp has denied it, and foreign ABIs are killed there. */
	if ((__u64)number >= SYSCALLS_MAX)
		return 0;
	kills = has(row->kill, number);
	/* One that the profile lets through and does not watch. */
	if (!kills && !has(row->watch, number))
		return 0;
	if (kills)
		bpf_send_signal(SIGKILL);
	place = place_of(number, BPF_CORE_READ(registers, di));
	if (place >= PLACES_MAX)
		return 0;
	if (__sync_fetch_and_add(&row->count[place], 1))
		return 0;
	event.number = number;
	event.place = place;
	event.killed = kills;
	event.arguments[0] = BPF_CORE_READ(registers, di);
	event.arguments[1] = BPF_CORE_READ(registers, si);
	event.arguments[2] = BPF_CORE_READ(registers, dx);
	event.arguments[3] = BPF_CORE_READ(registers, r10);
	event.arguments[4] = BPF_CORE_READ(registers, r8);
	event.arguments[5] = BPF_CORE_READ(registers, r9);
	tell(id, &event);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(watch_first_exec, struct task_struct *task)
{
	__u64 id = bpf_get_current_ancestor_cgroup_id(call_level);
	struct watched *row = bpf_map_lookup_elem(&watched, &id);

	/* Not a process of a call that asks, or of one whose sandbox is still being built. */
	if (!row || row->state != WATCHING_FROM_EXEC)
		return 0;
	row->state = WATCHING;
	return 0;
}
