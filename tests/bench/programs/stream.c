// SPDX-License-Identifier: Apache-2.0
/* Both ends of what `make bench` measures of egress.
 *
 *   stream serve ADDRESS               HTTP on 80 and 9000, a byte and an echo on 7000
 *   stream get|put HOST PORT BYTES     prints megabytes a second
 *   stream ping|request HOST PORT COUNT   on one connection; prints the median in µs
 *   stream connect|first HOST PORT COUNT  a connection each time, to its first byte; the same
 *   stream rate HOST PORT COUNT        the same without a pause; prints how many there were a second
 *   stream flows HOST PORT TOTAL:AT_ONCE…  connections in batches; before and after the last
 *                                      batch of each stage is closed a line is written and one read
 *
 * A HOST with a `%d` in it is another name each time, and asking for it is part of the time.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <time.h>
#include <unistd.h>

enum {
	BUFFER = 1 << 20,
	HEAD = 4096,
	MESSAGE = 64,
	ECHO_PORT = 7000,
	HELD_MAX = 1024,
	/* Between two connections: what is still to be done for the one before is not the next one's. */
	PAUSE_US = 5000,
};

static int file;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void no_delay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int send_all(int fd, const char *data, size_t count)
{
	while (count) {
		ssize_t sent = write(fd, data, count);

		if (sent <= 0)
			return -1;
		data += sent;
		count -= (size_t)sent;
	}
	return 0;
}

/* ---- the far side */

static int take_all(int fd, char *buffer, long long count)
{
	while (count > 0) {
		ssize_t got = read(fd, buffer, count < BUFFER ? (size_t)count : BUFFER);

		if (got <= 0)
			return -1;
		count -= got;
	}
	return 0;
}

static int give_all(int fd, long long count)
{
	while (count > 0) {
		off_t from = 0;
		ssize_t sent = sendfile(fd, file, &from, count < BUFFER ? (size_t)count : BUFFER);

		if (sent <= 0)
			return -1;
		count -= sent;
	}
	return 0;
}

/* Reads a head; gives how many bytes of the body came along, or -1 at the end. */
static long read_head(int fd, char *head)
{
	size_t have = 0;
	char *end;

	for (;;) {
		ssize_t got = have < HEAD - 1 ? read(fd, head + have, HEAD - 1 - have) : 0;

		if (got <= 0)
			return -1;
		have += (size_t)got;
		head[have] = 0;
		end = strstr(head, "\r\n\r\n");
		if (end)
			return (long)(have - (size_t)(end + 4 - head));
	}
}

static void *serve_http(void *arg)
{
	char head[HEAD], answer[128], *buffer = malloc(BUFFER);
	int fd = (int)(long)arg;
	long along;

	while ((along = read_head(fd, head)) >= 0) {
		int is_put = !strncmp(head, "PUT /", 5);
		long long count = atoll(head + 5);
		int length = snprintf(answer, sizeof(answer),
				      "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n",
				      is_put ? 0 : count);

		if (is_put && take_all(fd, buffer, count - along))
			break;
		if (send_all(fd, answer, (size_t)length) || (!is_put && give_all(fd, count)))
			break;
	}
	free(buffer);
	close(fd);
	return NULL;
}

static void *serve_echo(void *arg)
{
	char data[HEAD] = "!";
	int fd = (int)(long)arg;
	ssize_t got = 1;

	do {
		if (send_all(fd, data, (size_t)got))
			break;
		got = read(fd, data, sizeof(data));
	} while (got > 0);
	close(fd);
	return NULL;
}

static int listen_at(const char *address, int port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	inet_pton(AF_INET, address, &at.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 1024))
		die("listen");
	return fd;
}

static void *accept_all(void *arg)
{
	int listener = (int)(long)arg;
	struct sockaddr_in at;
	socklen_t size = sizeof(at);

	getsockname(listener, (struct sockaddr *)&at, &size);
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		pthread_t thread;

		if (fd < 0)
			die("accept");
		no_delay(fd);
		if (pthread_create(&thread, NULL,
				   ntohs(at.sin_port) == ECHO_PORT ? serve_echo : serve_http,
				   (void *)(long)fd))
			die("pthread_create");
		pthread_detach(thread);
	}
	return NULL;
}

static int serve(const char *address)
{
	int ports[] = {80, 9000, ECHO_PORT};
	pthread_t thread;
	char end;

	file = memfd_create("body", 0);
	if (file < 0 || ftruncate(file, BUFFER))
		die("memfd_create");
	for (unsigned int i = 0; i < sizeof(ports) / sizeof(ports[0]); i++)
		if (pthread_create(&thread, NULL, accept_all,
				   (void *)(long)listen_at(address, ports[i])))
			die("pthread_create");
	if (puts("ready") < 0 || fflush(stdout))
		die("stdout");
	return read(0, &end, 1) != 0;
}

/* ---- the near side */

static struct addrinfo *find(const char *host, const char *port, int number)
{
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
	const char *mark = strstr(host, "%d");
	char name[256];
	int error;

	if (mark)
		snprintf(name, sizeof(name), "%.*s%d-%d%s", (int)(mark - host), host, (int)getpid(),
			 number, mark + 2);
	error = getaddrinfo(mark ? name : host, port, &hints, &found);
	if (error) {
		fprintf(stderr, "%s: %s\n", host, gai_strerror(error));
		exit(1);
	}
	return found;
}

static int join(const struct addrinfo *to)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen))
		die("connect");
	no_delay(fd);
	return fd;
}

static void ask(int fd, const char *method, const char *host, long long count)
{
	char head[HEAD];
	int size = snprintf(head, sizeof(head), "%s /%lld HTTP/1.1\r\nHost: %s\r\n", method, count,
			    host);

	size += snprintf(head + size, sizeof(head) - (size_t)size,
			 *method == 'P' ? "Content-Length: %lld\r\n\r\n" : "\r\n", count);
	if (send_all(fd, head, (size_t)size))
		die("write");
}

/* Reads an answer whole. */
static void hear(int fd, char *buffer)
{
	char head[HEAD], *length;
	long along = read_head(fd, head);

	length = along < 0 ? NULL : strstr(head, "Content-Length: ");
	if (!length || strncmp(head, "HTTP/1.1 200", 12) ||
	    take_all(fd, buffer, atoll(length + 16) - along)) {
		fprintf(stderr, "not an answer: %.40s\n", along < 0 ? "" : head);
		exit(1);
	}
}

static void move(const struct addrinfo *to, const char *host, long long count, int is_put)
{
	char *buffer = calloc(1, BUFFER);
	int fd = join(to);
	double began = now();
	long long left = is_put ? count : 0;

	if (!buffer)
		die("calloc");
	ask(fd, is_put ? "PUT" : "GET", host, count);
	for (size_t part; left > 0; left -= (long long)part) {
		part = left < BUFFER ? (size_t)left : BUFFER;
		if (send_all(fd, buffer, part))
			die("write");
	}
	hear(fd, buffer);
	printf("%.2f\n", (double)count / 1e6 / (now() - began));
	free(buffer);
}

static void echo(int fd, int count)
{
	char data[MESSAGE] = {0};

	if (send_all(fd, data, (size_t)count) || take_all(fd, data, count))
		die("echo");
}

static int by_size(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

static void once(const char *what, int fd, const char *host)
{
	char data[HEAD];

	if (!strcmp(what, "ping")) {
		echo(fd, MESSAGE);
	} else if (!strcmp(what, "request") || !strcmp(what, "first")) {
		ask(fd, "GET", host, MESSAGE);
		hear(fd, data);
	} else if (take_all(fd, data, 1)) {
		die("read");
	}
}

static void repeat(const char *what, const char *host, const char *port, int count)
{
	struct addrinfo *to = strstr(host, "%d") ? NULL : find(host, port, 0);
	int stays = !strcmp(what, "ping") || !strcmp(what, "request"), fd = -1;
	double *times = calloc((size_t)count, sizeof(*times)), start = now();

	if (count < 1 || !times)
		exit(2);
	if (stays)
		fd = join(to);
	if (!strcmp(what, "ping"))
		once("connect", fd, host);
	for (int i = 0; i < count; i++) {
		double began = now();

		if (!stays)
			fd = join(to ? to : find(host, port, i));
		once(what, fd, host);
		times[i] = now() - began;
		if (!stays)
			close(fd);
		if (!stays && strcmp(what, "rate"))
			usleep(PAUSE_US);
	}
	qsort(times, (size_t)count, sizeof(*times), by_size);
	printf("%.2f\n", strcmp(what, "rate") ? times[count / 2] * 1e6 : count / (now() - start));
	free(times);
}

static void tell(const char *what)
{
	char line[16];

	if (puts(what) < 0 || fflush(stdout) || !fgets(line, sizeof(line), stdin))
		exit(3);
}

static void stage(const struct addrinfo *to, int total, int at_once)
{
	int held[HELD_MAX];
	char data;

	if (at_once < 1 || at_once > HELD_MAX)
		exit(2);
	for (int done = 0; done < total; done += at_once) {
		for (int i = 0; i < at_once; i++)
			held[i] = join(to);
		for (int i = 0; i < at_once; i++) {
			if (take_all(held[i], &data, 1))
				die("read");
			echo(held[i], MESSAGE);
		}
		if (done + at_once >= total)
			tell("open");
		for (int i = 0; i < at_once; i++)
			close(held[i]);
	}
	tell("closed");
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc < 5)
		return 2;
	if (!strcmp(argv[1], "flows")) {
		struct addrinfo *to = find(argv[2], argv[3], 0);

		for (int i = 4; i < argc; i++) {
			const char *at_once = strchr(argv[i], ':');

			stage(to, atoi(argv[i]), at_once ? atoi(at_once + 1) : 1);
		}
	} else if (!strcmp(argv[1], "get") || !strcmp(argv[1], "put")) {
		move(find(argv[2], argv[3], 0), argv[2], atoll(argv[4]), *argv[1] == 'p');
	} else {
		repeat(argv[1], argv[2], argv[3], atoi(argv[4]));
	}
	return 0;
}
