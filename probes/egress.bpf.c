// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The fence: nothing of a sandbox leaves but over its own loopback. Where its profile allows it to
 * connect to places, those connections are led to a port of that loopback where its broker listens:
 * what the broker is told of them, and what happens where a map is full, is in door.h.
 *
 * All programs are attached once, to the cgroup above all sandboxes, before any sandbox exists. Who
 * asks is told by the id of its ancestor at `call_level`, so a cgroup that a program makes below its
 * own inherits, and a process that belongs to no live call is denied.
 *
 *   connect4/6   where TCP connects and UDP is connected: EPERM at once, and who asked. TCP to a
 *                place of the call is led to the call's door, and UDP to nowhere: getaddrinfo(3)
 *                connects to see which addresses could be had, and sends nothing
 *   sendmsg4/6   where UDP is sent without being connected
 *   bind4/6      which address is one's own
 *   sock_create  which kinds of internet sockets there are: TCP and UDP, nothing raw
 *   setsockopt   multicast: joining a group sends packets that no socket sends
 *   getpeername4/6  whom a socket that was led elsewhere is connected to, as its program named it
 *   sockops      when such a connection is made and when it is over: the broker is told
 *   skb egress   the wall behind: whatever packet a socket sends, however it came to be
 *   skb ingress  the same for what arrives: a listening socket is a way out, too
 *
 * All but the last two are for a program's sake and for the record: an error at once, with a process.
 * Those two are the wall: what they let through is all that gets through. A socket that was made
 * outside and passed in has no program here; no such socket can reach a sandbox, which shares no
 * file system and no namespace with anyone. Packet sockets pass below; seccomp denies them. Of a
 * 32-bit program's setsockopt no BPF program is asked (do_sock_setsockopt): seccomp ends it. And
 * whoever may change the network (CAP_NET_ADMIN) can lead its own loopback elsewhere, below here: no
 * sandbox has that capability, or a device to lead it to. tests/escape/matrix.py tries all of it.
 *
 * 1 allows and 0 denies, in all of them; getpeername and sockops can deny nothing.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "door.h"
#include "maps.h"

#define ALLOW 1
#define DENY  0

/* Of every network namespace (include/net/net_namespace.h). */
#define LOOPBACK_IFINDEX 1

#define IPV4_DESTINATION 16
#define IPV4_SOURCE	 12
#define IPV6_DESTINATION 24
#define IPV6_SOURCE	 8
#define IPV6_NEXT	 6
#define IPV6_BYTES	 40
#define UDP_DESTINATION	 2

#define SOL_IP	 0
#define SOL_IPV6 41

#define IP_ADD_MEMBERSHIP	 35
#define IP_ADD_SOURCE_MEMBERSHIP 39
#define MCAST_JOIN_GROUP	 42
#define MCAST_JOIN_SOURCE_GROUP	 46
#define IPV6_ADD_MEMBERSHIP	 20
#define IPV6_JOIN_ANYCAST	 27

/* What the kernel hands to a program of an option's value; longer ones are the kernel's own. */
#define OPTION_BYTES_MAX 4096

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline bool is_loopback4(__u32 address)
{
	return (bpf_ntohl(address) >> 24) == 127;
}

static __always_inline bool is_mapped(const __u32 address[4])
{
	return address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_loopback6(const __u32 address[4])
{
	if (is_mapped(address))
		return is_loopback4(address[3]);
	return address[0] == 0 && address[1] == 0 && address[2] == 0 && address[3] == bpf_htonl(1);
}

static __always_inline bool is_any6(const __u32 address[4])
{
	if (is_mapped(address))
		return address[3] == 0;
	return address[0] == 0 && address[1] == 0 && address[2] == 0 && address[3] == 0;
}

static __always_inline void set_address4(struct kind *kind, __u32 address)
{
	__u32 mapped[4] = {0, 0, bpf_htonl(0xffff), address};

	__builtin_memcpy(kind->address, mapped, sizeof(mapped));
}

/* Say which call is current; 0 where the process is in none. */
static __always_inline __u64 current_call(void)
{
	return bpf_get_current_ancestor_cgroup_id(call_level);
}

/* A function of its own and not inlined: so its argument's layout is in the BTF, for our tests. */
static __noinline void put(struct call *call, struct denied_event *event)
{
	if (call && event)
		send(call, EVENT_DENIED, event, sizeof(*event));
}

/* Count a denial, and tell the first of its kind. */
static __always_inline void count_and_tell(const struct kind *kind, const struct folded *who)
{
	struct call *call = count(kind, who);
	struct denied_event event = {};

	if (!call)
		return;
	set_header(&event.header, call, kind, who, EVENT_DENIED);
	event.kind = *kind;
	put(call, &event);
}

/* Deny what the current process asked for. */
static __always_inline int deny(struct kind *kind)
{
	struct folded who = {};

	set_current(&who);
	count_and_tell(kind, &who);
	return DENY;
}

/* Forget what a socket was led to: from here on it goes where its program says. */
static __always_inline void let_go(struct bpf_sock_addr *ctx)
{
	bpf_sk_storage_delete(&led, ctx->sk);
}

/* Decide on an IPv4 address that a process named. */
static __always_inline int decide4(struct bpf_sock_addr *ctx, enum hook hook)
{
	struct kind kind = {.hook = hook, .family = AF_INET};
	__u64 call = current_call();
	__u32 address = ctx->user_ip4;

	kind.call = call;
	kind.port = bpf_ntohs(ctx->user_port);
	kind.type = ctx->type;
	kind.protocol = ctx->protocol;
	set_address4(&kind, address);
	/*
	 * Allowed: a live call talks to its own loopback. 0.0.0.0 is "this host" to connect(2), and
	 * any address of one's own to bind(2); packets that are for another place are dropped below.
	 */
	if ((is_loopback4(address) || address == 0) && bpf_map_lookup_elem(&calls, &call)) {
		if (hook == HOOK_CONNECT && is_door(ctx, call))
			return deny(&kind);
		if (hook == HOOK_CONNECT)
			let_go(ctx);
		return ALLOW;
	}
	if (hook == HOOK_CONNECT) {
		__u32 mapped[4] = {0, 0, bpf_htonl(MAPPED), address};
		__u16 to = 0;

		switch (lead(ctx, call, mapped, true, &to)) {
		case LEADING:
			/* Allowed: to the call's own loopback, where its broker listens. */
			ctx->user_ip4 = bpf_htonl(LOOPBACK4);
			ctx->user_port = bpf_htons(to);
			return ALLOW;
		case LEADING_NO_MORE:
			kind.hook = HOOK_FLOWS;
			break;
		case LEADING_NOT:
			break;
		}
	}
	return deny(&kind);
}

/* Decide on an IPv6 address that a process named. */
static __always_inline int decide6(struct bpf_sock_addr *ctx, enum hook hook)
{
	struct kind kind = {.hook = hook, .family = AF_INET6};
	__u64 call = current_call();
	__u32 address[4];

	address[0] = ctx->user_ip6[0];
	address[1] = ctx->user_ip6[1];
	address[2] = ctx->user_ip6[2];
	address[3] = ctx->user_ip6[3];
	kind.call = call;
	kind.port = bpf_ntohs(ctx->user_port);
	kind.type = ctx->type;
	kind.protocol = ctx->protocol;
	__builtin_memcpy(kind.address, address, sizeof(address));
	/* Allowed: as for IPv4, ::1 and :: in place of 127.0.0.0/8 and 0.0.0.0. */
	if ((is_loopback6(address) || is_any6(address)) && bpf_map_lookup_elem(&calls, &call)) {
		if (hook == HOOK_CONNECT && is_door(ctx, call))
			return deny(&kind);
		if (hook == HOOK_CONNECT)
			let_go(ctx);
		return ALLOW;
	}
	if (hook == HOOK_CONNECT) {
		bool four = is_mapped(address);
		__u16 to = 0;

		switch (lead(ctx, call, address, four, &to)) {
		case LEADING:
			/* Allowed: as for IPv4; ::ffff:a.b.c.d must stay such an address. */
			ctx->user_ip6[0] = 0;
			ctx->user_ip6[1] = 0;
			ctx->user_ip6[2] = four ? bpf_htonl(MAPPED) : 0;
			ctx->user_ip6[3] = four ? bpf_htonl(LOOPBACK4) : bpf_htonl(1);
			ctx->user_port = bpf_htons(to);
			return ALLOW;
		case LEADING_NO_MORE:
			kind.hook = HOOK_FLOWS;
			break;
		case LEADING_NOT:
			break;
		}
	}
	return deny(&kind);
}

SEC("cgroup/connect4")
int fence_connect4(struct bpf_sock_addr *ctx)
{
	return decide4(ctx, HOOK_CONNECT);
}

SEC("cgroup/connect6")
int fence_connect6(struct bpf_sock_addr *ctx)
{
	return decide6(ctx, HOOK_CONNECT);
}

SEC("cgroup/sendmsg4")
int fence_sendmsg4(struct bpf_sock_addr *ctx)
{
	return decide4(ctx, HOOK_SENDMSG);
}

SEC("cgroup/sendmsg6")
int fence_sendmsg6(struct bpf_sock_addr *ctx)
{
	return decide6(ctx, HOOK_SENDMSG);
}

SEC("cgroup/bind4")
int fence_bind4(struct bpf_sock_addr *ctx)
{
	return decide4(ctx, HOOK_BIND);
}

SEC("cgroup/bind6")
int fence_bind6(struct bpf_sock_addr *ctx)
{
	return decide6(ctx, HOOK_BIND);
}

/* Give a socket's peer as its program named it, where the socket still is where it was led to. */
SEC("cgroup/getpeername4")
int fence_peer4(struct bpf_sock_addr *ctx)
{
	struct led *kept = bpf_sk_storage_get(&led, ctx->sk, NULL, 0);
	__u32 address[4];

	if (kept && ctx->user_ip4 == bpf_htonl(LOOPBACK4) &&
	    bpf_ntohs(ctx->user_port) == kept->port) {
		__builtin_memcpy(address, kept->origin.address, sizeof(address));
		ctx->user_ip4 = address[3];
		ctx->user_port = bpf_htons(kept->origin.port);
	}
	return ALLOW;
}

SEC("cgroup/getpeername6")
int fence_peer6(struct bpf_sock_addr *ctx)
{
	struct led *kept = bpf_sk_storage_get(&led, ctx->sk, NULL, 0);
	__u32 address[4];

	address[0] = ctx->user_ip6[0];
	address[1] = ctx->user_ip6[1];
	address[2] = ctx->user_ip6[2];
	address[3] = ctx->user_ip6[3];
	if (kept && is_loopback6(address) && bpf_ntohs(ctx->user_port) == kept->port) {
		__builtin_memcpy(address, kept->origin.address, sizeof(address));
		ctx->user_ip6[0] = address[0];
		ctx->user_ip6[1] = address[1];
		ctx->user_ip6[2] = address[2];
		ctx->user_ip6[3] = address[3];
		ctx->user_port = bpf_htons(kept->origin.port);
	}
	return ALLOW;
}

/* Count what a socket was refused that was led elsewhere, by who had asked for it. */
static __always_inline void tell_of(const struct led *kept, enum hook hook, __u32 type,
				    __u32 protocol)
{
	struct kind kind = {.hook = hook, .type = type, .protocol = protocol};
	struct folded who = {.count = 1};

	kind.call = kept->key.call;
	kind.port = kept->origin.port;
	kind.family = kept->origin.family;
	__builtin_memcpy(kind.address, kept->origin.address, sizeof(kind.address));
	who.time_ns = bpf_ktime_get_boot_ns();
	who.tgid = kept->origin.tgid;
	who.tid = kept->origin.tid;
	__builtin_memcpy(who.comm, kept->origin.comm, sizeof(who.comm));
	count_and_tell(&kind, &who);
}

/*
 * A socket of a call is about to connect, or has another state: see door.h. It denies nothing, and
 * what it answers for other events is what the kernel takes where nobody answers.
 */
SEC("sockops")
int fence_flows(struct bpf_sock_ops *ctx)
{
	bool connects = ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB;
	bool closes = ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_CLOSE;
	struct bpf_sock *sk = ctx->sk;
	struct led *kept;

	if (!sk || (!connects && !closes))
		return ALLOW;
	kept = bpf_sk_storage_get(&led, sk, NULL, 0);
	if (!kept)
		return ALLOW;
	if (closes)
		end_flow(kept);
	else if (kept->state == LED_ASKED && is_to_door(ctx, kept) && !tell_origin(ctx, kept))
		tell_of(kept, HOOK_FLOWS, SOCK_STREAM, IPPROTO_TCP);
	return ALLOW;
}

/* The kernel has put the protocol in the place of 0 by now. It runs for IPv4 and IPv6 only. */
SEC("cgroup/sock_create")
int fence_socket(struct bpf_sock *ctx)
{
	struct kind kind = {.hook = HOOK_SOCKET};
	__u64 call = current_call();
	bool tcp = ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
	bool udp = ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;

	/* Allowed: a live call may have TCP and UDP sockets, whose every use is decided above. */
	if ((tcp || udp) && bpf_map_lookup_elem(&calls, &call))
		return ALLOW;
	kind.call = call;
	kind.family = ctx->family;
	kind.type = ctx->type;
	kind.protocol = ctx->protocol;
	return deny(&kind);
}

SEC("cgroup/setsockopt")
int fence_multicast(struct bpf_sockopt *ctx)
{
	struct kind kind = {.hook = HOOK_MULTICAST};
	int level = ctx->level, option = ctx->optname;
	bool joins = option == MCAST_JOIN_GROUP || option == MCAST_JOIN_SOURCE_GROUP;
	bool joins4 = joins || option == IP_ADD_MEMBERSHIP || option == IP_ADD_SOURCE_MEMBERSHIP;
	bool joins6 = joins || option == IPV6_ADD_MEMBERSHIP || option == IPV6_JOIN_ANYCAST;

	if ((level == SOL_IP && joins4) || (level == SOL_IPV6 && joins6)) {
		kind.call = current_call();
		kind.family = level == SOL_IP ? AF_INET : AF_INET6;
		kind.protocol = option;
		return deny(&kind);
	}
	/* Allowed: every other option; which of them a call may set is seccomp's to say. */
	if (ctx->optlen > OPTION_BYTES_MAX)
		ctx->optlen = 0; /* the kernel is to use the program's own value */
	return ALLOW;
}

/* Decide on a packet by the device it goes over and the address at its other end. */
static __always_inline int decide_packet(struct __sk_buff *skb, enum hook hook, __u32 at4,
					 __u32 at6)
{
	__u64 call = bpf_skb_ancestor_cgroup_id(skb, call_level);
	struct folded who = {.count = 1};
	struct kind kind = {.hook = hook};
	bool loopback = false;
	__u32 address[4] = {};

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!bpf_skb_load_bytes(skb, at4, &address[3], sizeof(address[3])))
			loopback = is_loopback4(address[3]);
		kind.family = AF_INET;
		set_address4(&kind, address[3]);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (!bpf_skb_load_bytes(skb, at6, address, sizeof(address)))
			loopback = is_loopback6(address);
		kind.family = AF_INET6;
		__builtin_memcpy(kind.address, address, sizeof(address));
	}
	/* Allowed: over the loopback device, with a loopback address at the other end, of a call. */
	if (loopback && skb->ifindex == LOOPBACK_IFINDEX && bpf_map_lookup_elem(&calls, &call))
		return ALLOW;
	kind.call = call;
	who.time_ns = bpf_ktime_get_boot_ns();
	count_and_tell(&kind, &who);
	return DENY;
}

/* Give the port that a datagram is for, in network order; 0 where it is not to be found. */
static __always_inline __u16 port_of(struct __sk_buff *skb)
{
	__u32 at = 0;
	__u8 byte = 0;
	__u16 port = 0;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!bpf_skb_load_bytes(skb, 0, &byte, sizeof(byte)))
			at = (byte & 0xf) * 4;
	} else if (!bpf_skb_load_bytes(skb, IPV6_NEXT, &byte, sizeof(byte)) &&
		   byte == IPPROTO_UDP) {
		at = IPV6_BYTES;
	}
	if (at && !bpf_skb_load_bytes(skb, at + UDP_DESTINATION, &port, sizeof(port)))
		return port;
	return 0;
}

/* Say whether a packet is of a datagram socket that was led elsewhere, and goes there. */
static __always_inline struct led *silent(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct led *kept;
	__u16 port;

	if (!sk)
		return NULL;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return NULL;
	kept = bpf_sk_storage_get(&led, sk, NULL, 0);
	if (!kept || kept->state != LED_SILENT)
		return NULL;
	/* It was disconnected meanwhile, or names another address for this packet alone. */
	port = port_of(skb);
	if (sk->state != TCP_ESTABLISHED || (port && port != bpf_htons(DISCARD_PORT)))
		return NULL;
	return kept;
}

SEC("cgroup_skb/egress")
int fence_egress(struct __sk_buff *skb)
{
	struct led *kept = silent(skb);

	if (kept) {
		tell_of(kept, HOOK_EGRESS, SOCK_DGRAM, IPPROTO_UDP);
		return DENY;
	}
	return decide_packet(skb, HOOK_EGRESS, IPV4_DESTINATION, IPV6_DESTINATION);
}

SEC("cgroup_skb/ingress")
int fence_ingress(struct __sk_buff *skb)
{
	return decide_packet(skb, HOOK_INGRESS, IPV4_SOURCE, IPV6_SOURCE);
}
