/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves the time of day of a process by the seconds in the file that $STOCKADE_TEST_CLOCK names, for
 * LD_PRELOAD. The clocks that only run forward are left alone, as they are when somebody sets the
 * host's clock; libfaketime moves what sleeps by those as well.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *moved;

__attribute__((constructor)) static void find_clock(void)
{
	const char *path = getenv("STOCKADE_TEST_CLOCK");
	int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		abort();
	void *page = mmap(NULL, sizeof(*moved), PROT_READ, MAP_SHARED, fd, 0);

	close(fd);
	if (page == MAP_FAILED)
		abort();
	moved = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = (int)syscall(SYS_clock_gettime, clock, now);

	if (!failed && moved != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += *moved;
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec at;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &at);
	now->tv_sec = at.tv_sec;
	now->tv_usec = at.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	if (now != NULL)
		*now = at.tv_sec;
	return at.tv_sec;
}
