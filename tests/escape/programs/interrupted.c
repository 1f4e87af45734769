/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks for ptrace(2) again and again, and takes it back: `signal ROUNDS` by a signal from another
 * thread while the call waits, `kill ROUNDS` by killing the child that asks, once it is inside.
 * Prints how often ptrace was asked for, and how often that ended with EINTR.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_t asking;
static volatile int go, stop;

static void nothing(int number)
{
	(void)number;
}

static void *kick(void *unused)
{
	while (!stop) {
		while (!go && !stop)
			;
		for (volatile int i = 0; i < 200; i++)
			;
		if (!stop)
			pthread_kill(asking, SIGUSR1);
		go = 0;
	}
	return unused;
}

static void by_signal(int rounds)
{
	struct sigaction action = {.sa_handler = nothing};
	int interrupted = 0;
	pthread_t thread;

	sigaction(SIGUSR1, &action, NULL);
	asking = pthread_self();
	pthread_create(&thread, NULL, kick, NULL);
	for (int i = 0; i < rounds; i++) {
		go = 1;
		if (syscall(SYS_ptrace, 0x1000 + i % 7, 0, 0, 0) < 0 && errno == EINTR)
			interrupted++;
		while (go)
			;
	}
	stop = 1;
	pthread_join(thread, NULL);
	printf("%d %d\n", rounds, interrupted);
}

/* Say whether the child has asked: it is inside of the call, or has its answer. */
static int inside(pid_t child)
{
	char path[64], line[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", child);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	if (read(fd, line, sizeof(line) - 1) < 0)
		line[0] = 0;
	close(fd);
	return strncmp(line, "101 ", 4) == 0;
}

static void by_kill(int rounds)
{
	int asked = 0, killed = 0, status;

	for (int i = 0; i < rounds; i++) {
		pid_t child = fork();

		if (child == 0) {
			syscall(SYS_ptrace, 0x2000, 0, 0, 0);
			_exit(0);
		}
		while (waitpid(child, &status, WNOHANG) == 0)
			if (inside(child)) {
				kill(child, SIGKILL);
				waitpid(child, &status, 0);
				break;
			}
		asked++;
		killed += WIFSIGNALED(status);
	}
	printf("%d %d\n", asked, killed);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	if (strcmp(argv[1], "signal") == 0)
		by_signal(atoi(argv[2]));
	else
		by_kill(atoi(argv[2]));
	return 0;
}
