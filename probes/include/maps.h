/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps that all objects share: the daemon makes them once and gives them to each object.
 *
 *   calls    cgroup id of a live call → its row. Who is not in it is denied. Full: the daemon cannot
 *            write the row, so the call does not start.
 *   rings    call.ring → the call's own ring of events, so that no call can take the place of
 *            another's. The next call may have the same ring: making one takes the kernel 10 ms,
 *            since it waits for all running programs. Full ring: the event is counted in call.lost.
 *   folded   a call's kind of denial → how often. A call has KINDS_MAX of them, and as many of the
 *            guard's; beyond that, and where the map is full, the denial is counted in call.rest.
 *   strays   denials of processes below our cgroup that belong to no live call.
 */
#ifndef STOCKADE_MAPS_H
#define STOCKADE_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALLS_MAX);
	__type(key, __u64);
	__type(value, struct call);
} calls SEC(".maps");

struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CALLS_MAX + 1);
	__type(key, __u32);
	__array(values, struct ring);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FOLDED_MAX);
	__type(key, struct kind);
	__type(value, struct folded);
} folded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HOOKS);
	__type(key, __u32);
	__type(value, __u64);
} strays SEC(".maps");

/* How deep a call's cgroup lies below the root; the daemon writes it before the object is loaded. */
const volatile __u32 call_level = 0;

/* Take a number for an event of this call: before its place in the ring, so that a gap shows. */
static __always_inline __u64 next_sequence(struct call *call)
{
	return __sync_fetch_and_add(&call->sequence, 1);
}

static __always_inline void count_lost(struct call *call, enum event_kind kind)
{
	__sync_fetch_and_add(&call->lost[kind], 1);
}

static __always_inline void send(struct call *call, enum event_kind kind, void *event, __u64 size)
{
	__u32 place = call->ring;
	void *ring = bpf_map_lookup_elem(&rings, &place);

	if (!ring || bpf_ringbuf_output(ring, event, size, 0))
		count_lost(call, kind);
}

/*
 * Count a denial; give the call's row where it is the first of its kind, which is to be told. The
 * caller denies whatever comes of it.
 */
static __always_inline struct call *count(const struct kind *kind, const struct folded *who)
{
	struct call *call = bpf_map_lookup_elem(&calls, &kind->call);
	__u32 hook = kind->hook;
	struct folded *known;
	__u64 *kinds;

	if (hook >= HOOKS)
		return NULL;
	if (!call) {
		__u64 *stray = bpf_map_lookup_elem(&strays, &hook);

		if (stray)
			__sync_fetch_and_add(stray, 1);
		return NULL;
	}
	known = bpf_map_lookup_elem(&folded, kind);
	if (known) {
		__sync_fetch_and_add(&known->count, 1);
		known->time_ns = who->time_ns;
		known->tgid = who->tgid;
		known->tid = who->tid;
		__builtin_memcpy(known->comm, who->comm, COMM_BYTES);
		return NULL;
	}
	kinds = hook < HOOK_EXEC ? &call->kinds : &call->guard_kinds;
	/* Two at once may both see the last place: a row more than KINDS_MAX does no harm. */
	if (*kinds >= KINDS_MAX) {
		__sync_fetch_and_add(&call->rest[hook], 1);
		return NULL;
	}
	if (bpf_map_update_elem(&folded, kind, who, BPF_NOEXIST)) {
		/* Full, or another processor was first with the same kind. */
		__sync_fetch_and_add(&call->rest[hook], 1);
		return NULL;
	}
	__sync_fetch_and_add(kinds, 1);
	return call;
}

/* Say who is current, as a denial's first row has it. */
static __always_inline void set_current(struct folded *who)
{
	__u64 ids = bpf_get_current_pid_tgid();

	who->count = 1;
	who->time_ns = bpf_ktime_get_boot_ns();
	who->tgid = ids >> 32;
	who->tid = (__u32)ids;
	bpf_get_current_comm(who->comm, sizeof(who->comm));
}

/* Write what every denial's event begins with. */
static __always_inline void set_header(struct header *header, struct call *call,
				       const struct kind *kind, const struct folded *who,
				       enum event_kind event)
{
	header->call = kind->call;
	header->sequence = next_sequence(call);
	header->time_ns = who->time_ns;
	header->kind = event;
	header->tgid = who->tgid;
	header->tid = who->tid;
	header->uid = 0;
	__builtin_memcpy(header->comm, who->comm, COMM_BYTES);
}

#endif
