/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cell: the init of a sandbox.
 *
 * Architecture. `cell STATUS_FD[,GATE_FD][:TERMINAL] DIRECTORY PROGRAM [ARGUMENT...]` is process 1 of the
 * sandbox's pid namespace. It starts the program as its only child, in a session of its own, passes every signal
 * that it gets on to it, reaps whatever is orphaned to it, and writes one line about the program's
 * end to STATUS_FD:
 *
 *     exit CODE | signal NUMBER CORE | terminal ERRNO | chdir ERRNO | exec ERRNO
 *
 * Then it exits, and the kernel kills everything that is left in the pid namespace. Without it the
 * program itself would be process 1: signals without a handler would be ignored, abort() would not
 * abort, and orphans would stay zombies (pid_namespaces(7)).
 *
 * The program's environment is every variable of cell's own that begins with CELL_, without that
 * prefix, and nothing else. It does not come as arguments, because every user of the host can read
 * those. Every argument from DIRECTORY on and every value may hold %XX for any byte: an OCI spec is
 * JSON and cannot carry bytes that are not UTF-8.
 *
 * The other end of STATUS_FD is the daemon's. When it closes, nobody records or bounds this call any
 * more, so cell ends, and the call with it.
 *
 * Where it gets a GATE_FD, it waits there for one byte before anything else: some runtimes put up the
 * last walls only on the way to this program, and the daemon reads them back while it waits. An end of
 * file is the end of the daemon.
 *
 * Where it gets a TERMINAL, a path, that is the program's standard input, output and error, and rules
 * its session (tty_ioctl(4)). The daemon has the other side, and has made it: cell opens what is there.
 *
 * Before the program starts, it writes "ready" as a line of its own: a signal that arrives earlier
 * would be lost, because the kernel drops what process 1 has no handler for.
 *
 * What it must never do: it is no wall. It runs under the same seccomp filter, uid and mounts as the
 * program; a program that takes it over gains nothing but the right to lie about its own exit status.
 * It reads no input but its arguments, its environment and that byte.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a shell answers for a program that is not found, and for one that cannot be run. */
enum { EXIT_NOT_FOUND = 127, EXIT_NOT_RUN = 126, EXIT_USAGE = 125 };

static const char ready[] = "ready\n";

#define PREFIX "CELL_"

static int status_fd;

static void report(const char *what, int value, int core)
{
	char line[64];
	int length;

	if (core < 0)
		length = snprintf(line, sizeof(line), "%s %d\n", what, value);
	else
		length = snprintf(line, sizeof(line), "%s %d %d\n", what, value, core);
	/* One short line into an empty pipe is written whole or, where the daemon is gone, not at all;
	 * the exit status then still tells the end. */
	if (write(status_fd, line, (size_t)length) != length)
		_exit(EXIT_USAGE);
}

/* What the child tells of where it failed, beside errno; the words for it are in main(). */
enum { AT_CHDIR, AT_EXEC, AT_TERMINAL };

/* A session without a terminal gets the first that its leader opens. */
static int take_terminal(const char *path)
{
	int terminal = open(path, O_RDWR | O_CLOEXEC);

	for (int fd = 0; terminal >= 0 && fd <= 2; fd++)
		if (dup2(terminal, fd) < 0)
			return -1;
	return terminal;
}

/* In the child. The write end of `failed` closes by itself once exec succeeds. */
static void become(char **argv, const char *directory, const char *terminal, const sigset_t *mask,
		   int failed)
{
	int failure[2] = {AT_CHDIR, 0};

	if (setsid() < 0 || sigprocmask(SIG_SETMASK, mask, NULL) < 0)
		failure[1] = errno;
	else if (*terminal && take_terminal(terminal) < 0) {
		failure[0] = AT_TERMINAL;
		failure[1] = errno;
	} else if (chdir(directory) < 0)
		failure[1] = errno;
	else {
		failure[0] = AT_EXEC;
		execvp(argv[0], argv);
		failure[1] = errno;
	}
	if (write(failed, failure, sizeof(failure)) != (ssize_t)sizeof(failure))
		_exit(EXIT_USAGE);
	_exit(failure[1] == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN);
}

/* Reap everything that has ended; say whether the program was among it. */
static int reap(pid_t program, int *status)
{
	int ended = 0, one;
	pid_t pid;

	while ((pid = waitpid(-1, &one, WNOHANG)) > 0)
		if (pid == program) {
			*status = one;
			ended = 1;
		}
	return ended;
}

static int hex(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'A' && digit <= 'F')
		return digit - 'A' + 10;
	return -1;
}

/* Undo %XX in place. The daemon writes upper-case digits and escapes '%' itself. */
static int unescape(char *argument)
{
	char *to = argument, *from = argument;
	int high, low;

	while (*from) {
		if (*from != '%') {
			*to++ = *from++;
			continue;
		}
		high = hex(from[1]);
		low = high < 0 ? -1 : hex(from[2]);
		if (low < 0)
			return -1;
		*to++ = (char)(high << 4 | low);
		from += 3;
	}
	*to = '\0';
	return 0;
}

/* Keep the variables that the daemon sent, without their prefix; drop what the runtime added. */
static int take_environment(void)
{
	char **to = environ;

	for (char **from = environ; *from; from++) {
		if (strncmp(*from, PREFIX, sizeof(PREFIX) - 1) != 0)
			continue;
		*to = *from + sizeof(PREFIX) - 1;
		if (unescape(*to++) < 0)
			return -1;
	}
	*to = NULL;
	return 0;
}

/*
 * Ask for what no sandbox may have, and no process without CAP_SYS_BOOT: it fails, and the daemon is
 * told, with a number. The kernel counts what it tells, also what is gone before the daemon has read
 * it, so between the first mark and the last nothing is missed that is not counted.
 */
static void mark(void)
{
	syscall(SYS_reboot, 0, 0, 0, 0);
}

static int finish(int status)
{
	mark();
	if (WIFSIGNALED(status)) {
		report("signal", WTERMSIG(status), WCOREDUMP(status) ? 1 : 0);
		return 128 + WTERMSIG(status);
	}
	report("exit", WEXITSTATUS(status), -1);
	return WEXITSTATUS(status);
}

/* Until the program has ended, or the daemon. */
static int watch(pid_t program, int signals)
{
	struct pollfd ends[2] = {{.fd = signals, .events = POLLIN}, {.fd = status_fd}};
	struct signalfd_siginfo got;
	int status = 0;

	for (;;) {
		if (poll(ends, 2, -1) < 0 && errno != EINTR)
			return EXIT_USAGE;
		if (ends[1].revents)
			return EXIT_USAGE;
		if (!(ends[0].revents & POLLIN) ||
		    read(signals, &got, sizeof(got)) != (ssize_t)sizeof(got))
			continue;
		if (got.ssi_signo != SIGCHLD)
			/* The program may have ended meanwhile; SIGCHLD will say so. */
			kill(program, (int)got.ssi_signo);
		else if (reap(program, &status))
			return finish(status);
	}
}

/* Wait until the daemon lets the program go; say whether it did. */
static int let_go(int gate)
{
	char byte;
	int told = read(gate, &byte, sizeof(byte)) == (ssize_t)sizeof(byte);

	close(gate);
	return told;
}

int main(int argc, char **argv)
{
	static const char *const words[] = {"chdir", "exec", "terminal"};
	int failed[2], failure[2], signals, gate;
	char *rest;
	sigset_t all, before;
	pid_t program;

	if (argc < 4 || take_environment() < 0)
		return EXIT_USAGE;
	status_fd = (int)strtol(argv[1], &rest, 10);
	gate = *rest == ',' ? (int)strtol(rest + 1, &rest, 10) : -1;
	rest += *rest == ':';
	for (int i = 2; i < argc; i++)
		if (unescape(argv[i]) < 0)
			return EXIT_USAGE;
	/* Not dumpable: the program has the same uid and could otherwise open /proc/1/fd. */
	if (fcntl(status_fd, F_SETFD, FD_CLOEXEC) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
		return EXIT_USAGE;
	sigfillset(&all);
	if (sigprocmask(SIG_BLOCK, &all, &before) < 0 || pipe2(failed, O_CLOEXEC) < 0)
		return EXIT_USAGE;
	signals = signalfd(-1, &all, SFD_CLOEXEC);
	if (signals < 0 || (gate >= 0 && !let_go(gate)))
		return EXIT_USAGE;
	if (write(status_fd, ready, sizeof(ready) - 1) != (ssize_t)sizeof(ready) - 1)
		return EXIT_USAGE;
	mark();
	program = fork();
	if (program < 0) {
		report("exec", errno, -1);
		return EXIT_NOT_RUN;
	}
	if (program == 0)
		become(argv + 3, argv[2], rest, &before, failed[1]);
	close(failed[1]);
	/* The pipes belong to the program: a program that closes its output must be seen to have. */
	close(0);
	close(1);
	close(2);
	if (read(failed[0], failure, sizeof(failure)) == (ssize_t)sizeof(failure)) {
		report(words[failure[0]], failure[1], -1);
		return failure[1] == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN;
	}
	return watch(program, signals);
}
