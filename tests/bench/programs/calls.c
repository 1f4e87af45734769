// SPDX-License-Identifier: Apache-2.0
/* Prints how many nanoseconds one system call takes: `calls connect|getppid COUNT`.
 * connect(2) is of a datagram socket to loopback: the kernel looks up a route and sends nothing. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
	int connecting = argc == 3 && !strcmp(argv[1], "connect");
	long count = argc == 3 ? atol(argv[2]) : 0, done;
	struct timespec began, ended;
	int fd = -1;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connecting && (fd = socket(AF_INET, SOCK_DGRAM, 0)) < 0)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (done = 0; done < count; done++)
		if (!connecting)
			syscall(SYS_getppid);
		else if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
			return 1;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	if (!count)
		return 2;
	printf("%.2f\n", ((double)(ended.tv_sec - began.tv_sec) * 1e9 +
			  (double)(ended.tv_nsec - began.tv_nsec)) /
				 (double)count);
	return 0;
}
