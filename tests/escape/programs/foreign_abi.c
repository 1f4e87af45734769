/* SPDX-License-Identifier: Apache-2.0 */
/* Make system calls through another ABI: `foreign_abi x32|i386`, getpid by its number there.
 * Prints what came back; the filter of a sandbox ends the process instead. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long i386(long number)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number)
			 : "memory", "r8", "r9", "r10", "r11");
	return result;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "i386"))
		printf("%ld\n", i386(20)); /* getpid is 20 there */
	else
		printf("%ld\n", syscall(0x40000000 | SYS_getpid));
	return 0;
}
