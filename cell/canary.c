// SPDX-License-Identifier: Apache-2.0
/*
 * The canary: tries to leave from within a call's cgroup, before the call's program is let go.
 *
 *     canary /sys/fs/cgroup/…/CALL
 *
 * A child is made right inside of the cgroup (clone3, CLONE_INTO_CGROUP), connects a datagram socket
 * to an address for documentation (RFC 5737, RFC 3849) and expects EPERM, for IPv4 and IPv6 alike.
 * Connecting sends nothing, so a fence that is not there lets nothing out, either.
 *
 * Ends with 0 where both were denied with EPERM, 1 where one was not, 2 where it could not be tried.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT 9

enum { DENIED = 0, PASSED = 1, UNTRIED = 2 };

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

	inet_pton(AF_INET, "203.0.113.1", &four.sin_addr);
	inet_pton(AF_INET6, "2001:db8::1", &six.sin6_addr);
	first = try_to_leave(AF_INET, &four, sizeof(four));
	second = try_to_leave(AF_INET6, &six, sizeof(six));
	return first > second ? first : second;
}

int main(int argc, char **argv)
{
	struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
	int cgroup, status;
	long child;

	cgroup = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (cgroup < 0)
		return UNTRIED;
	args.cgroup = (uint64_t)cgroup;
	child = syscall(SYS_clone3, &args, sizeof(args));
	if (child == 0)
		_exit(both());
	if (child < 0 || waitpid((pid_t)child, &status, 0) < 0 || !WIFEXITED(status))
		return UNTRIED;
	return WEXITSTATUS(status);
}
