// SPDX-License-Identifier: Apache-2.0
/*
 * The canary: tries to leave from within a call's cgroup, before the call's program is let go.
 *
 *     canary /sys/fs/cgroup/…/CALL [guarded]
 *
 * A child is made right inside of the cgroup (clone3, CLONE_INTO_CGROUP), connects a datagram socket
 * to a cloud's metadata, which no rule of a profile may name, and expects EPERM, for both families.
 * Connecting sends nothing, so a fence that is not there lets nothing out, either.
 *
 * Where the call is guarded (probes/guard.bpf.c), it goes on to try what the guard denies. Nothing of
 * that does harm where it is not denied: what is run or mapped is an empty file, the mount has no
 * type, of the other process a name is read, and the child is gone afterwards.
 *
 * Ends with 0 where everything was denied, 1 where it could get out, 2 where it could not be tried,
 * 10 and more where the guard did not deny: `attempts` has them in order.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT 9

/* Of the memfd that is to be run: a page, so that it can be mapped. */
#define FILE_BYTES 4096

/* include/uapi/linux/sched.h, include/uapi/linux/bpf.h; bpf(2) with it changes nothing. */
#define NEW_USER	    0x10000000
#define BPF_MAP_GET_NEXT_ID 12
#define BPF_ATTR_BYTES	    16

/* include/uapi/linux/memfd.h: one that may be run, whatever vm.memfd_noexec makes of others. */
#define MEMORY_EXEC 0x10

enum { DENIED = 0, PASSED = 1, UNTRIED = 2, UNGUARDED = 10 };

static int try_to_leave(int family, const void *address, socklen_t length)
{
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	/* No IPv6 on this host, at all. */
	if (fd < 0)
		return errno == EAFNOSUPPORT ? DENIED : UNTRIED;
	return connect(fd, address, length) < 0 && errno == EPERM ? DENIED : PASSED;
}

static int both(void)
{
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	int first, second;

	inet_pton(AF_INET, "169.254.169.254", &four.sin_addr);
	inet_pton(AF_INET6, "fd00:ec2::254", &six.sin6_addr);
	first = try_to_leave(AF_INET, &four, sizeof(four));
	second = try_to_leave(AF_INET6, &six, sizeof(six));
	return first > second ? first : second;
}

static int memory_fd = -1;

static long run_memory(void)
{
	char *none[] = {"canary", NULL};

	return syscall(SYS_execveat, memory_fd, "", none, none + 1, AT_EMPTY_PATH);
}

static long map_code(void)
{
	return (long)mmap(NULL, FILE_BYTES, PROT_READ | PROT_EXEC, MAP_PRIVATE, memory_fd, 0);
}

static long turn_into_code(void)
{
	void *page = mmap(NULL, FILE_BYTES, PROT_READ, MAP_PRIVATE, memory_fd, 0);

	return page == MAP_FAILED ? 0 : mprotect(page, FILE_BYTES, PROT_READ | PROT_EXEC);
}

/* The kernel runs nothing of proc, wherever it is mounted. */
static long run_noexec(void)
{
	char *none[] = {"canary", NULL};

	return execve("/proc/version", none, none + 1);
}

static long mount_nothing(void)
{
	return mount(NULL, "/", NULL, 0, NULL);
}

/*
 * Of a process outside the cgroup: what may be read of it, Yama has no say in. Proc makes EACCES of
 * what a security module answers.
 */
static long read_outside(void)
{
	char path[32], target[32];

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)getppid());
	return readlink(path, target, sizeof(target));
}

static long make_user_namespace(void)
{
	return syscall(SYS_unshare, NEW_USER);
}

static long ask_for_maps(void)
{
	uint32_t attr[BPF_ATTR_BYTES / sizeof(uint32_t)] = {0};

	return syscall(SYS_bpf, BPF_MAP_GET_NEXT_ID, attr, sizeof(attr));
}

static const struct {
	long (*attempt)(void);
	int error;
} attempts[] = {
	{run_memory, EPERM},	      {map_code, EPERM},      {turn_into_code, EPERM},
	{run_noexec, EACCES},	      {mount_nothing, EPERM}, {read_outside, EACCES},
	{make_user_namespace, EPERM}, {ask_for_maps, EPERM},
};

/* Try what the guard denies; supervisor/bpf/guard.py knows the order. */
static int try_guard(void)
{
	memory_fd = memfd_create("canary", MFD_CLOEXEC | MEMORY_EXEC);
	if (memory_fd < 0 && errno == EINVAL) /* before Linux 6.3: all of them are like that */
		memory_fd = memfd_create("canary", MFD_CLOEXEC);
	if (memory_fd < 0 || ftruncate(memory_fd, FILE_BYTES))
		return UNTRIED;
	for (unsigned i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++)
		if (attempts[i].attempt() != -1 || errno != attempts[i].error)
			return UNGUARDED + (int)i;
	return DENIED;
}

static int everything(int guarded)
{
	int code = both();

	return code == DENIED && guarded ? try_guard() : code;
}

int main(int argc, char **argv)
{
	struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
	int cgroup, status;
	long child;

	cgroup = argc >= 2 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (cgroup < 0)
		return UNTRIED;
	args.cgroup = (uint64_t)cgroup;
	child = syscall(SYS_clone3, &args, sizeof(args));
	if (child == 0)
		_exit(everything(argc == 3 && strcmp(argv[2], "guarded") == 0));
	if (child < 0 || waitpid((pid_t)child, &status, 0) < 0 || !WIFEXITED(status))
		return UNTRIED;
	return WEXITSTATUS(status);
}
