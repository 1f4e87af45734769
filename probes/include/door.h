/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Egress by name: what a call may connect to, where it is led instead, and what it had asked for.
 *
 *   doors    cgroup id of a call → the port of its own loopback at which its broker listens. Who is
 *            not in it connects to nothing. Full: the daemon cannot write the row, no call starts.
 *   places   call and network → ports. Rows are written before the door's, and stay as they are.
 *            Full: as above.
 *   origins  call and a client's own address → what it asked for, for the broker. Each call has no
 *            more rows than its `flows_max` and FLOWS_ENDED_MAX together, and the daemon opens no
 *            door for which there might be no room. Where a row cannot be written all the same, the
 *            broker knows of no such connection and lets nothing of it pass; it is told like one
 *            too many.
 *   past     which rows of `origins` are of connections that are over. Full: such a row goes at once.
 *   led      what becomes of a socket that was led elsewhere, by the socket itself
 *
 * A flow is counted, and has its row, from when its connection is about to be made: before the first
 * packet, so that whoever accepts it finds the row. It is over when the kernel closes its socket,
 * whether or not there still is a process: as soon as its program has closed it in order, which can
 * be before the broker has seen it. So the row stays, until FLOWS_ENDED_MAX others of its call are
 * over, or somebody connects from the same address and port, or the call ends. A socket that never
 * gets as far as connecting is not counted, and has no row.
 *
 * Nobody but such sockets gets to the door: to connect there straight is denied, so that a row is
 * never taken for somebody else's.
 */
#ifndef STOCKADE_DOOR_H
#define STOCKADE_DOOR_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

#define AF_INET	 2
#define AF_INET6 10

#define SOCK_STREAM 1
#define SOCK_DGRAM  2

#define TCP_ESTABLISHED 1

#define LOOPBACK4 0x7f000001
#define MAPPED	  0x0000ffff

/* Where a datagram socket is led: what it sends does not get as far. */
#define DISCARD_PORT 9

#define CALL_BITS    64
#define ADDRESS_BITS 128

/* How far a socket is that was led elsewhere. */
enum led_state {
	LED_ASKED = 0,	/* it may connect, and has no row yet, or has none any more */
	LED_TOLD = 1,	/* it is a flow: it is counted, and was told */
	LED_SILENT = 2, /* a datagram socket: it may send nothing there */
};

struct led {
	struct origin origin;
	struct origin_key key; /* of its row; `family` is that of the loopback it was led to */
	__u32 port;	       /* where it was led to, in host order */
	__u32 state;
};

enum leading {
	LEADING_NOT = 0, /* it is no place of the call */
	LEADING = 1,
	LEADING_NO_MORE = 2,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALLS_MAX);
	__type(key, __u64);
	__type(value, struct door);
} doors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PLACE_ROWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct place_key);
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ORIGIN_ROWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct origin_key);
	__type(value, struct origin);
} origins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS_ENDED_ROWS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ended_key);
	__type(value, struct origin_key);
} past SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct led);
} led SEC(".maps");

/* Say whether a call may connect to an address: to this port, or to any where `port` is negative. */
static __always_inline bool is_place(__u64 call, const __u32 address[4], int port)
{
	struct place_key key = {.bits = CALL_BITS + ADDRESS_BITS};
	struct place *place;

	__builtin_memcpy(key.call, &call, sizeof(key.call));
	__builtin_memcpy(key.address, address, sizeof(key.address));
	place = bpf_map_lookup_elem(&places, &key);
	if (!place)
		return false;
	if (port < 0)
		return true;
	for (__u32 i = 0; i < PORT_RANGES_MAX; i++) {
		if (i >= place->count)
			break;
		if (place->ports[i].low <= port && port <= place->ports[i].high)
			return true;
	}
	return false;
}

/*
 * Decide whether a socket is led to the door of its call, and if so keep what it asked for.
 *
 * `four`: the address is an IPv4 address; `to`: the port to go to. The kernel asks about TCP only where the socket is closed,
 * so no row of it can be there.
 */
static __always_inline enum leading lead(struct bpf_sock_addr *ctx, __u64 call,
					 const __u32 address[4], bool four, __u16 *to)
{
	bool stream = ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
	bool datagram = ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;
	struct door *door = bpf_map_lookup_elem(&doors, &call);
	__u16 port = bpf_ntohs(ctx->user_port);
	struct folded who = {};
	struct led *kept;

	if (!door || !bpf_map_lookup_elem(&calls, &call) || (!stream && !datagram))
		return LEADING_NOT;
	if (!is_place(call, address, stream ? port : -1))
		return LEADING_NOT;
	if (stream && door->flows >= door->flows_max)
		return LEADING_NO_MORE;
	/* It is charged to the socket: no room, where its options have taken all that it may have. */
	kept = bpf_sk_storage_get(&led, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept)
		return LEADING_NO_MORE;
	set_current(&who);
	__builtin_memset(&kept->key, 0, sizeof(kept->key));
	__builtin_memcpy(kept->origin.address, address, sizeof(kept->origin.address));
	__builtin_memcpy(kept->origin.comm, who.comm, sizeof(kept->origin.comm));
	kept->origin.over = 0;
	kept->origin.time_ns = who.time_ns;
	kept->origin.tgid = who.tgid;
	kept->origin.tid = who.tid;
	kept->origin.port = port;
	kept->origin.family = kept->key.family = four ? AF_INET : AF_INET6;
	kept->key.call = call;
	kept->port = stream ? door->port : DISCARD_PORT;
	kept->state = stream ? LED_ASKED : LED_SILENT;
	*to = kept->port;
	return LEADING;
}

/* Count a connection as over, once, and let its row be the next to go but so many. */
static __always_inline void end_flow(struct led *kept)
{
	struct ended_key key = {.call = kept->key.call};
	struct origin_key *last;
	struct origin *row;
	struct door *door;

	if (kept->state != LED_TOLD)
		return;
	kept->state = LED_ASKED;
	door = bpf_map_lookup_elem(&doors, &key.call);
	if (!door)
		return; /* the call has ended, and the daemon has taken its rows out */
	__sync_fetch_and_sub(&door->flows, 1);
	key.place = __sync_fetch_and_add(&door->ended, 1) % FLOWS_ENDED_MAX;
	last = bpf_map_lookup_elem(&past, &key);
	if (last) {
		/* Who has connected from the same port since then has the row. */
		row = bpf_map_lookup_elem(&origins, last);
		if (row && row->over)
			bpf_map_delete_elem(&origins, last);
	}
	if (bpf_map_update_elem(&past, &key, &kept->key, BPF_ANY)) {
		bpf_map_delete_elem(&origins, &kept->key);
		return;
	}
	row = bpf_map_lookup_elem(&origins, &kept->key);
	if (row)
		row->over = 1;
}

/* Say whether it is the door of a call that is asked for. */
static __always_inline bool is_door(struct bpf_sock_addr *ctx, __u64 call)
{
	struct door *door = bpf_map_lookup_elem(&doors, &call);

	return door && ctx->type == SOCK_STREAM && bpf_ntohs(ctx->user_port) == door->port;
}

/* Say whether a connection that is about to be made goes where `lead` has led it. */
static __always_inline bool is_to_door(struct bpf_sock_ops *ctx, const struct led *kept)
{
	if (bpf_ntohl(ctx->remote_port) != kept->port)
		return false;
	if (kept->key.family == AF_INET)
		return ctx->remote_ip4 == bpf_htonl(LOOPBACK4);
	return !ctx->remote_ip6[0] && !ctx->remote_ip6[1] && !ctx->remote_ip6[2] &&
	       ctx->remote_ip6[3] == bpf_htonl(1);
}

/* Write the row of a connection that is about to be made; false where there is no place for it. */
static __always_inline bool tell_origin(struct bpf_sock_ops *ctx, struct led *kept)
{
	struct door *door = bpf_map_lookup_elem(&doors, &kept->key.call);
	__u32 address[4] = {0, 0, bpf_htonl(MAPPED), 0};
	__u32 four = ctx->local_ip4;

	/* The verifier refuses what the compiler would make of two places in ctx. */
	barrier_var(four);
	address[3] = four;
	if (!door)
		return false;
	if (kept->key.family == AF_INET6) {
		address[0] = ctx->local_ip6[0];
		address[1] = ctx->local_ip6[1];
		address[2] = ctx->local_ip6[2];
		address[3] = ctx->local_ip6[3];
	}
	__builtin_memcpy(kept->key.address, address, sizeof(kept->key.address));
	kept->key.port = ctx->local_port;
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		return false;
	if (__sync_fetch_and_add(&door->flows, 1) >= door->flows_max) {
		__sync_fetch_and_sub(&door->flows, 1);
		return false;
	}
	/* A row that is there is of a connection that is over. */
	if (bpf_map_update_elem(&origins, &kept->key, &kept->origin, BPF_ANY)) {
		__sync_fetch_and_sub(&door->flows, 1);
		return false;
	}
	kept->state = LED_TOLD;
	return true;
}

#endif
