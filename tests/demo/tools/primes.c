// SPDX-License-Identifier: Apache-2.0
// Count the primes below one million.
#include <stdio.h>

#define LIMIT 1000000

static char composite[LIMIT];

int main(void)
{
	int count = 0;

	for (long n = 2; n < LIMIT; n++) {
		if (composite[n])
			continue;
		count++;
		for (long m = n * n; m < LIMIT; m += n)
			composite[m] = 1;
	}
	printf("%d\n", count);
	return 0;
}
