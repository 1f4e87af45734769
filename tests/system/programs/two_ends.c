// SPDX-License-Identifier: Apache-2.0
/* Makes as many processes as its argument says, whose two threads end at the same time, each on a
 * processor of its own. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int go;

static void *end(void *nothing)
{
	while (!go)
		;
	syscall(SYS_exit, 5);
	return nothing;
}

static void pin(pthread_attr_t *attributes, int processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	if (attributes)
		pthread_attr_setaffinity_np(attributes, sizeof(set), &set);
	else
		sched_setaffinity(0, sizeof(set), &set);
}

static int both(int turn)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pin(NULL, 0);
	pthread_attr_init(&attributes);
	pin(&attributes, 1);
	if (pthread_create(&thread, &attributes, end, NULL))
		return 9;
	usleep(100);
	go = 1;
	for (volatile int wait = 0; wait < turn % 400; wait++)
		;
	syscall(SYS_exit, 4);
	return 0;
}

int main(int argc, char **argv)
{
	int count = argc == 2 ? atoi(argv[1]) : 0, status;

	for (int turn = 0; turn < count; turn++) {
		pid_t child = fork();

		if (!child)
			return both(turn);
		waitpid(child, &status, 0);
	}
	return 0;
}
