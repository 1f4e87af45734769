/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the probes and supervisor/bpf/ share: maps' keys and values, and events.
 *
 * supervisor/bpf/layout.py repeats it in Python; tests/unit/bpf/test_layout.py compares the two by
 * the objects' BTF. Every struct has its padding written out, so that no byte of a key is left to
 * chance. A change of anything here needs a new ABI_VERSION: a daemon adopts pins of its own
 * version only.
 */
#ifndef STOCKADE_ABI_H
#define STOCKADE_ABI_H

#include <linux/types.h>

#define ABI_VERSION 4

#define ADDRESS_BYTES 16
#define COMM_BYTES    16

/* Live calls, and so rows of `calls` and places of `rings`: more than any configuration admits. */
#define CALLS_MAX 4096

/* The place behind them, of the guard's trial: no call's, and no former call's, is used for it. */
#define TRIAL_RING 4096

/*
 * Kinds of denials that are told apart for one call, of the fence and of the guard: neither takes the
 * other's place. What comes beyond is counted by hook.
 */
#define KINDS_MAX  256
#define FOLDED_MAX 65536

/* Writable mounts that one call can have: without a place for each, it does not start. */
#define MOUNTS_MAX 32

/* Maps (each ring is one), programs and links of all daemons of the host that have a guard. */
#define OURS_MAX 8192

#define RING_BYTES (256 * 1024)

/* Ranges of ports of one place: profile lint refuses more. */
#define PORT_RANGES_MAX 16

/* Rows of `places` and of `origins`. The daemon opens no door that might need more than there are. */
#define PLACE_ROWS_MAX	(1024 * 1024)
#define ORIGIN_ROWS_MAX (256 * 1024)

/* Connections of a call that are over and whose rows are still there, for a broker that is late. */
#define FLOWS_ENDED_MAX	     512
#define FLOWS_ENDED_ROWS_MAX (128 * 1024)

/* System calls that can be watched: more than any kernel has numbers. */
#define SYSCALLS_MAX  512
#define SYSCALL_WORDS 8

/* Where a call's repeats are counted: by number, but a socket by its family. */
#define PLACES_MAX    516
#define PLACE_UNIX    512
#define PLACE_INET    513
#define PLACE_INET6   514
#define PLACE_NETLINK 515

#define ARGUMENTS_MAX 6

/* So small that an entry of the record (64 KiB) holds them at six bytes for each. */
#define PATH_BYTES  4096
#define ARGV_BYTES  2048
#define CHUNK_BYTES 8192

/* Which hook denied: a kind's part of the key, and the index of call.rest. */
enum hook {
	HOOK_CONNECT = 0,
	HOOK_SENDMSG = 1,
	HOOK_BIND = 2,
	HOOK_SOCKET = 3,
	HOOK_MULTICAST = 4,
	HOOK_EGRESS = 5,
	HOOK_INGRESS = 6,
	HOOK_FLOWS = 7, /* a connection that is allowed, but the call has as many as it may have */
	HOOK_EXEC = 8,	/* from here on: the guard's */
	HOOK_MMAP = 9,
	HOOK_MPROTECT = 10,
	HOOK_MOUNT = 11,
	HOOK_PTRACE = 12,
	HOOK_BPF = 13,
	HOOK_USERNS = 14,
	HOOKS = 16,
};

enum event_kind {
	EVENT_DENIED = 0,
	EVENT_EXEC = 1,
	EVENT_ARGV = 2,
	EVENT_EXIT = 3,
	EVENT_WATCHED = 4,
	EVENT_REFUSED = 5,
	EVENT_KINDS = 8,
};

/* What the probe of system calls does for a call. */
enum watching {
	WATCHING_NOT = 0,
	WATCHING_FROM_EXEC = 1, /* from the next program on that is started in it */
	WATCHING = 2,
};

/* Why a file is not run: `family` of a kind of the guard's. */
enum because {
	BECAUSE_WRITABLE = 1, /* it lies where the call can write */
	BECAUSE_MEMORY = 2,   /* it lies nowhere: a memfd, a shared memory segment */
	BECAUSE_NOEXEC = 3,   /* its mount is noexec: the kernel's own denial, told by us */
};

/* What was tried with a mount: `type` of a kind of HOOK_MOUNT. */
enum mounting {
	MOUNTING_MOUNT = 0,
	MOUNTING_MOVE = 1,
	MOUNTING_REMOUNT = 2,
	MOUNTING_UNMOUNT = 3,
	MOUNTING_PIVOT = 4,
	MOUNTING_MAKE = 5,
};

/* What a row of `ours` is about. */
enum sort {
	SORT_MAP = 1,
	SORT_PROGRAM = 2,
	SORT_LINK = 3,
	SORT_PID_NAMESPACE = 4,
};

/* What an event could not tell whole: bits of its `cut`. */
#define CUT_PATH      1
#define CUT_DIRECTORY 2
#define CUT_ARGV      4

/* The row of a live call. The daemon writes it before the sandbox exists; the counters are ours. */
struct call {
	__u32 ring; /* its place in `rings` */
	__u32 padding;
	__u64 sequence;		 /* events so far: a number is taken before the place in the ring */
	__u64 lost[EVENT_KINDS]; /* of them, those that found no place */
	__u64 rest[HOOKS];	 /* denials beyond KINDS_MAX */
	__u64 kinds;		 /* rows of `folded` that this call has of the fence */
	__u64 guard_kinds;	 /* and of the guard */
};

/*
 * A call that may connect to its `places`: those connections are led to this port of its own
 * loopback. The daemon writes it when the places are there; `flows` is ours.
 */
struct door {
	__u32 port;
	__u32 flows_max;
	__u64 flows; /* connections that are made or being made now */
	__u64 ended; /* and those that were */
};

/* A place of a call: so many bits of what follows, 64 and the address's prefix. */
struct place_key {
	__u32 bits;
	__u8 call[8];
	__u8 address[ADDRESS_BYTES];
};

struct port_range {
	__u16 low;
	__u16 high;
};

/* To which ports of a place one may connect: the longest prefix says it, and no other. */
struct place {
	__u32 count;
	struct port_range ports[PORT_RANGES_MAX];
};

/*
 * A connection through a door, by the client's own address, as the door's other side sees it: an
 * IPv4 address is ::ffff:a.b.c.d, `family` is AF_INET where it is one, `port` is in host order.
 */
struct origin_key {
	__u64 call;
	__u8 address[ADDRESS_BYTES];
	__u16 port;
	__u16 family;
	__u32 padding;
};

/* What was asked for, by whom, and when (CLOCK_BOOTTIME). */
struct origin {
	__u8 address[ADDRESS_BYTES];
	__u64 time_ns;
	__u32 tgid;
	__u32 tid;
	__u16 port;
	__u16 family;
	__u32 over; /* 1: the client has closed it */
	__u8 comm[COMM_BYTES];
};

/* One of FLOWS_ENDED_MAX places for the key of a connection that is over; the oldest leaves. */
struct ended_key {
	__u64 call;
	__u64 place;
};

/* A writable mount of a call, by the device of its file system (s_dev, as MKDEV packs it). */
struct writable {
	__u32 device;
	__u32 exec; /* 1: what lies there may be run */
};

/* A call that is guarded: there is a row from the moment on that its sandbox is whole. */
struct guard {
	__u32 armed;
	__u32 count;
	struct writable mounts[MOUNTS_MAX];
};

/* A map, program or link of ours by its id, or the daemon's pid namespace by its inode. */
struct ours {
	__u32 sort;
	__u32 id;
};

/*
 * One kind of denial. `port` is in host order; an IPv4 address is ::ffff:a.b.c.d. For the guard's
 * hooks, `address` holds a file's inode (8 bytes) and device (4); `family` is why a file is not run;
 * `type` is what was tried with a mount, the command of bpf(2), or whom somebody wanted to trace.
 */
struct kind {
	__u64 call;
	__u8 address[ADDRESS_BYTES];
	__u32 hook;
	__u16 port;
	__u16 family;
	__u32 type;
	__u32 protocol;
};

/* How often it was denied, and who tried last; no process where a packet was dropped. */
struct folded {
	__u64 count;
	__u64 time_ns;
	__u32 tgid;
	__u32 tid;
	__u8 comm[COMM_BYTES];
};

/* What every event begins with. `time_ns` is of CLOCK_BOOTTIME. */
struct header {
	__u64 call;
	__u64 sequence;
	__u64 time_ns;
	__u32 kind;
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__u8 comm[COMM_BYTES];
};

struct denied_event {
	struct header header;
	struct kind kind;
};

/* The guard denied something. Behind it lie `path_bytes` of a path, as in an exec_event. */
struct refused_event {
	struct header header;
	struct kind kind;
	__u32 path_bytes;
	__u32 cut; /* CUT_PATH, also where the path could not be told at all */
};

/*
 * A program was started. Behind it lie path, working directory and the beginning of argv, each as
 * many bytes as said. Path and directory are names from the leaf to the root, each with a NUL:
 * reversing them is cheaper outside the kernel. They are as the sandbox sees them; `cut` says which
 * of them is not whole. `argv_size` is the whole argv's: what is missing follows as EVENT_ARGV.
 */
struct exec_event {
	struct header header;
	__u64 started_ns; /* of the process, CLOCK_BOOTTIME: with tgid it names a process for good */
	__u32 parent_tgid;
	__u32 gid;
	__u32 path_bytes;
	__u32 directory_bytes;
	__u32 argv_bytes;
	__u32 argv_size;
	__u32 cut; /* CUT_ARGV: it could not be read */
	__u32 padding;
};

/* More of the argv of the process that started a program last: `bytes` of it, from `offset` on. */
struct argv_event {
	struct header header;
	__u32 offset;
	__u32 bytes;
};

/* A process has ended. `status` is as wait(2) gives it. */
struct exit_event {
	struct header header;
	__u64 started_ns;
	__u64 user_ns;
	__u64 system_ns;
	__u64 memory_peak_bytes;
	__u32 status;
	__u32 parent_tgid;
};

/*
 * What of a live call's system calls is watched; the daemon writes it, the counters are ours. Bit n of
 * `watch` and `kill` is number n: word n / 64, bit n % 64.
 */
struct watched {
	__u64 watch[SYSCALL_WORDS];
	__u64 kill[SYSCALL_WORDS];
	__u64 count[PLACES_MAX];
	__u32 state;
	__u32 padding;
};

/* The first system call of a place; `killed` says whether its process was sent SIGKILL. */
struct watched_event {
	struct header header;
	__u32 number;
	__u32 place;
	__u32 killed;
	__u32 padding;
	__u64 arguments[ARGUMENTS_MAX];
};

#endif
