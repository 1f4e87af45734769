// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The fence: nothing of a sandbox leaves but over its own loopback.
 *
 * All programs are attached once, to the cgroup above all sandboxes, before any sandbox exists. Who
 * asks is told by the id of its ancestor at `call_level`, so a cgroup that a program makes below its
 * own inherits, and a process that belongs to no live call is denied.
 *
 *   connect4/6   where TCP connects and UDP is connected: EPERM at once, and who asked
 *   sendmsg4/6   where UDP is sent without being connected
 *   bind4/6      which address is one's own
 *   sock_create  which kinds of internet sockets there are: TCP and UDP, nothing raw
 *   setsockopt   multicast: joining a group sends packets that no socket sends
 *   skb egress   the wall behind: whatever packet a socket sends, however it came to be
 *   skb ingress  the same for what arrives: a listening socket is a way out, too
 *
 * The first seven are for a program's sake and for the record: an error at once, with a process.
 * The last two are the wall: what they let through is all that gets through. A socket that was made
 * outside and passed in has no program here; no such socket can reach a sandbox, which shares no
 * file system and no namespace with anyone. Packet sockets pass below; seccomp denies them. Of a
 * 32-bit program's setsockopt no BPF program is asked (do_sock_setsockopt): seccomp ends it. And
 * whoever may change the network (CAP_NET_ADMIN) can lead its own loopback elsewhere, below here: no
 * sandbox has that capability, or a device to lead it to. tests/escape/matrix.py tries all of it.
 *
 * 1 allows and 0 denies, in all of them.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

#define ALLOW 1
#define DENY  0

#define AF_INET	 2
#define AF_INET6 10

#define SOCK_STREAM 1
#define SOCK_DGRAM  2

/* Of every network namespace (include/net/net_namespace.h). */
#define LOOPBACK_IFINDEX 1

#define IPV4_DESTINATION 16
#define IPV4_SOURCE	 12
#define IPV6_DESTINATION 24
#define IPV6_SOURCE	 8

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

/* Decide on an IPv4 address that a process named. */
static __always_inline int decide4(struct bpf_sock_addr *ctx, enum hook hook)
{
	struct kind kind = {.hook = hook, .family = AF_INET};
	__u64 call = current_call();
	__u32 address = ctx->user_ip4;

	/*
	 * Allowed: a live call talks to its own loopback. 0.0.0.0 is "this host" to connect(2), and
	 * any address of one's own to bind(2); packets that are for another place are dropped below.
	 */
	if ((is_loopback4(address) || address == 0) && bpf_map_lookup_elem(&calls, &call))
		return ALLOW;
	kind.call = call;
	kind.port = bpf_ntohs(ctx->user_port);
	kind.type = ctx->type;
	kind.protocol = ctx->protocol;
	set_address4(&kind, address);
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
	/* Allowed: as for IPv4, ::1 and :: in place of 127.0.0.0/8 and 0.0.0.0. */
	if ((is_loopback6(address) || is_any6(address)) && bpf_map_lookup_elem(&calls, &call))
		return ALLOW;
	kind.call = call;
	kind.port = bpf_ntohs(ctx->user_port);
	kind.type = ctx->type;
	kind.protocol = ctx->protocol;
	__builtin_memcpy(kind.address, address, sizeof(address));
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

SEC("cgroup_skb/egress")
int fence_egress(struct __sk_buff *skb)
{
	return decide_packet(skb, HOOK_EGRESS, IPV4_DESTINATION, IPV6_DESTINATION);
}

SEC("cgroup_skb/ingress")
int fence_ingress(struct __sk_buff *skb)
{
	return decide_packet(skb, HOOK_INGRESS, IPV4_SOURCE, IPV6_SOURCE);
}
