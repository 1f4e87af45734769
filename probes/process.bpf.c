// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Who ran what, in which call.
 *
 *   sched_process_exec   a program was started: path, directory, argv, ids, parent
 *   sched_process_exit   a process ended: status and what it used
 *
 * Both only look; neither can deny. What is told is read from the kernel's own objects after the
 * program was put in place: the path from the file that is mapped, argv from the new memory's
 * arg_start, where nothing of the program has run yet. Nothing is taken from the pointers that a
 * program gave to execve(2), which it could have changed meanwhile. Another process could write to
 * the new memory, but a sandbox has no way to: its /proc is read-only, and ptrace(2) and
 * process_vm_writev(2) are in no set of system calls.
 *
 * A process that belongs to no live call is passed by without a word: it is not ours. An event
 * that finds no place in its call's ring is counted in call.lost.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "kernel.h"
#include "maps.h"

#define SCRATCH_EVENT struct exec_event
#define SCRATCH_BYTES (2 * PATH_BYTES + ARGV_BYTES)
#include "path.h"

/* More than 6 MiB of argv, the most that any stack limit lets execve(2) take (fs/exec.c). */
#define CHUNKS_MAX 1024
#define PAGE_BYTES 4096
#define ENDED_MAX  4096
#define EEXIST	   17

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct ended {
	__u64 started_ns;
	__u32 tgid;
	__u32 padding;
};

struct chunk {
	struct argv_event event;
	__u8 data[CHUNK_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct chunk);
} chunks SEC(".maps");

static __always_inline void fill(struct header *header, __u64 id, struct call *call,
				 enum event_kind kind)
{
	__u64 ids = bpf_get_current_pid_tgid();

	header->call = id;
	header->sequence = next_sequence(call);
	header->time_ns = bpf_ktime_get_boot_ns();
	header->kind = kind;
	header->tgid = ids >> 32;
	header->tid = (__u32)ids;
	header->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(header->comm, sizeof(header->comm));
}

struct rest {
	struct call *call;
	__u64 id;
	__u64 from;
	__u64 offset;
	__u64 size;
};

/* Say whether so much is in the call's ring that the rest is kept for what is short. */
static __always_inline bool is_half_full(const struct call *call)
{
	__u32 place = call->ring;
	void *ring = bpf_map_lookup_elem(&rings, &place);

	return !ring || bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > RING_BYTES / 2;
}

/*
 * Tell the next piece of argv; 1 ends the loop. Pieces take no more than half of the ring: which
 * programs were started is told first, whatever their arguments are.
 */
static long send_chunk(__u32 number, void *context)
{
	struct rest *rest = context;
	__u64 left = rest->size - rest->offset;
	__u32 zero = 0;
	struct chunk *chunk = bpf_map_lookup_elem(&chunks, &zero);
	struct call *call = bpf_map_lookup_elem(&calls, &rest->id);

	if (!chunk || !call || rest->offset >= rest->size)
		return 1;
	left = at_most(left, CHUNK_BYTES);
	if (is_half_full(call)) {
		next_sequence(call);
		count_lost(call, EVENT_ARGV);
		rest->offset += left;
		return 0;
	}
	fill(&chunk->event.header, rest->id, call, EVENT_ARGV);
	chunk->event.offset = rest->offset;
	chunk->event.bytes = left;
	if (bpf_probe_read_user(chunk->data, left, (void *)(rest->from + rest->offset))) {
		count_lost(call, EVENT_ARGV);
		return 1;
	}
	send(call, EVENT_ARGV, chunk, sizeof(chunk->event) + left);
	rest->offset += left;
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(watch_exec, struct task_struct *task)
{
	__u64 id = bpf_get_current_ancestor_cgroup_id(call_level);
	struct call *call = bpf_map_lookup_elem(&calls, &id);
	__u64 length, part;
	__u32 zero = 0;
	struct scratch *scratch;
	struct exec_event *event;
	struct rest rest = {};
	struct fs_struct *fs;
	struct mm_struct *mm;
	struct file *file;

	/* Not a process of a live call: nothing to tell. */
	if (!call)
		return 0;
	scratch = bpf_map_lookup_elem(&scratches, &zero);
	if (!scratch) {
		next_sequence(call);
		count_lost(call, EVENT_EXEC);
		return 0;
	}
	event = &scratch->event;
	mm = BPF_CORE_READ(task, mm);
	fs = BPF_CORE_READ(task, fs);
	file = BPF_CORE_READ(mm, exe_file);
	fill(&event->header, id, call, EVENT_EXEC);
	event->started_ns = BPF_CORE_READ(task, start_boottime);
	event->parent_tgid = BPF_CORE_READ(task, real_parent, tgid);
	event->gid = bpf_get_current_uid_gid() >> 32;
	event->cut = 0;
	event->padding = 0;

	length = write_path(scratch, 0, BPF_CORE_READ(file, f_path.dentry),
			    BPF_CORE_READ(file, f_path.mnt), fs, CUT_PATH);
	event->path_bytes = length;
	part = write_path(scratch, length, BPF_CORE_READ(fs, pwd.dentry),
			  BPF_CORE_READ(fs, pwd.mnt), fs, CUT_DIRECTORY);
	event->directory_bytes = part - length;
	length = at_most(part, 2 * PATH_BYTES);

	rest.from = BPF_CORE_READ(mm, arg_start);
	rest.size = BPF_CORE_READ(mm, arg_end) - rest.from;
	rest.id = id;
	part = at_most(rest.size, ARGV_BYTES);
	event->argv_size = rest.size;
	if (bpf_probe_read_user(scratch->data + length, part, (void *)rest.from)) {
		event->cut |= CUT_ARGV;
		part = 0;
	}
	event->argv_bytes = part;
	send(call, EVENT_EXEC, event, sizeof(*event) + length + part);
	rest.offset = part;
	if (part && part < rest.size)
		bpf_loop(CHUNKS_MAX, send_chunk, &rest, 0);
	return 0;
}

/* A function of its own and not inlined: so its argument's layout is in the BTF, for our tests. */
static __noinline void put_exit(struct call *call, struct exit_event *event)
{
	if (call && event)
		send(call, EVENT_EXIT, event, sizeof(*event));
}

/*
 * Processes that ended just now: of threads that end at the same time on several processors, each
 * finds that none is left. Old rows make room; a process whose row did is told twice at worst.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, ENDED_MAX);
	__type(key, struct ended);
	__type(value, __u32);
} ended SEC(".maps");

/* Say whether this process's end has been told by another of its threads. */
static __always_inline bool is_told(__u64 started_ns, __u32 tgid)
{
	struct ended key = {.started_ns = started_ns, .tgid = tgid};
	__u32 one = 1;

	/* Told again rather than not at all, where there is no place for a row. */
	return bpf_map_update_elem(&ended, &key, &one, BPF_NOEXIST) == -EEXIST;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(watch_exit, struct task_struct *task)
{
	__u64 id = bpf_get_current_ancestor_cgroup_id(call_level);
	struct call *call = bpf_map_lookup_elem(&calls, &id);
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct exit_event event = {};
	int status;

	/* Not of a live call, or a thread whose process goes on: nothing to tell. */
	if (!call || BPF_CORE_READ(signal, live.counter))
		return 0;
	event.started_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	if (is_told(event.started_ns, BPF_CORE_READ(task, tgid)))
		return 0;
	fill(&event.header, id, call, EVENT_EXIT);
	event.user_ns = BPF_CORE_READ(signal, utime) + BPF_CORE_READ(task, utime);
	event.system_ns = BPF_CORE_READ(signal, stime) + BPF_CORE_READ(task, stime);
	event.memory_peak_bytes = BPF_CORE_READ(signal, maxrss) * PAGE_BYTES;
	status = BPF_CORE_READ(signal, group_exit_code);
	event.status = status ? status : BPF_CORE_READ(task, exit_code);
	event.parent_tgid = BPF_CORE_READ(task, real_parent, tgid);
	put_exit(call, &event);
	return 0;
}
