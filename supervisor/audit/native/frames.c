/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the log, many at a time: what `supervisor.audit.entry` does with one. And what of text
 * is no line.
 *
 * Writing takes bodies that are encoded; reading takes bytes of a segment, of which it believes
 * nothing. It gives out only what is flawless and in its plainest spelling, and stops before
 * anything else: Python looks at that, and says what is wrong with it.
 *
 * No function keeps anything between calls, so each may be called from any thread.
 */
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define HEADER_BYTES	16 /* length, checksum, durable */
#define LEAF_BYTES	32
#define LEAF_DIGITS	(2 * LEAF_BYTES)
#define ENTRY_BYTES_MAX 65535
#define CALL_BYTES_MAX	64
#define KIND_BYTES_MAX	32
#define DIGITS_MAX	20
/* All keys and marks of a tail come to 63 bytes, and C's end of a text to one. */
#define TAIL_BYTES_MAX (64 + CALL_BYTES_MAX + 3 * DIGITS_MAX + KIND_BYTES_MAX + LEAF_DIGITS)
#define FULL	       (-1)
#define NO_DIGEST      (-2)

static const char PREFIX[] = "{\"body\":";
static const char CALL_KEY[] = ",\"call\":\"";
static const char INDEX_KEY[] = "\",\"index\":";
static const char KIND_KEY[] = ",\"kind\":\"";
static const char PREV_KEY[] = "\",\"prev\":\"";
static const char SEQUENCE_KEY[] = "\",\"sequence\":";
static const char TIME_KEY[] = ",\"time_ns\":";
#define LENGTH(text) (sizeof(text) - 1)

/* Where in the buffer an entry and its parts lie. */
struct entry {
	uint32_t at, length;
	uint32_t tail;
	uint32_t call, call_length;
	uint32_t kind, kind_length;
	uint32_t unused;
	uint64_t sequence;
};

struct hasher {
	EVP_MD *digest;
	EVP_MD_CTX *context;
};

static bool begin_hasher(struct hasher *hasher)
{
	hasher->digest = EVP_MD_fetch(NULL, "SHA256", NULL);
	hasher->context = EVP_MD_CTX_new();
	return hasher->digest != NULL && hasher->context != NULL;
}

static void end_hasher(struct hasher *hasher)
{
	EVP_MD_CTX_free(hasher->context);
	EVP_MD_free(hasher->digest);
}

/* Hash an entry: a zero byte, and what it is (RFC 6962, section 2.1). */
static bool hash(struct hasher *hasher, const uint8_t *data, size_t length, uint8_t *out)
{
	static const uint8_t mark = 0;

	return EVP_DigestInit_ex2(hasher->context, hasher->digest, NULL) == 1 &&
	       EVP_DigestUpdate(hasher->context, &mark, 1) == 1 &&
	       EVP_DigestUpdate(hasher->context, data, length) == 1 &&
	       EVP_DigestFinal_ex(hasher->context, out, NULL) == 1;
}

static void put_u32(uint8_t *to, uint32_t value)
{
	for (int byte = 0; byte < 4; byte++)
		to[byte] = (uint8_t)(value >> (24 - 8 * byte));
}

static uint32_t get_u32(const uint8_t *from)
{
	return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void put_hex(char *to, const uint8_t *leaf)
{
	static const char digits[] = "0123456789abcdef";
	for (int byte = 0; byte < LEAF_BYTES; byte++) {
		to[2 * byte] = digits[leaf[byte] >> 4];
		to[2 * byte + 1] = digits[leaf[byte] & 15];
	}
}

/* CRC-32C (Castagnoli), by the processor where it can, else by a table that is made once. */

static uint32_t crc_table[256];

__attribute__((constructor)) static void make_crc_table(void)
{
	for (uint32_t byte = 0; byte < 256; byte++) {
		uint32_t value = byte;
		for (int bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? 0x82f63b78 : 0);
		crc_table[byte] = value;
	}
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *data, size_t length)
{
	for (; length > 0; length--)
		crc = crc >> 8 ^ crc_table[(crc ^ *data++) & 255];
	return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t
crc_by_processor(uint32_t crc, const uint8_t *data, size_t length)
{
	uint64_t wide = crc, word;
	for (; length >= sizeof word; data += sizeof word, length -= sizeof word) {
		memcpy(&word, data, sizeof word);
		wide = __builtin_ia32_crc32di(wide, word);
	}
	return crc_by_table((uint32_t)wide, data, length);
}
#endif

static uint32_t crc_of(uint32_t crc, const uint8_t *data, size_t length)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return crc_by_processor(crc, data, length);
#endif
	return crc_by_table(crc, data, length);
}

/* The checksum is over the frame but for itself. */
static uint32_t checksum_of(const uint8_t *frame, size_t length)
{
	return ~crc_of(crc_of(~0U, frame, 4), frame + 8, length - 8);
}

/* What `supervisor.audit.frames` was written for; another one does without this library. */
uint32_t stockade_frames_version(void)
{
	return 2;
}

/*
 * Make the frames of `count` entries of one call and kind, one after the other in `out`, of which
 * the entries before end at `ends`. `leaf` is that of the entry before the first, and then of the
 * last. Gives how many bytes that are; FULL, NO_DIGEST, or -3 - n where entry n is too large.
 */
int64_t stockade_make_frames(const uint8_t *bodies, const uint32_t *lengths, uint32_t count,
			     const char *call, const char *kind, uint64_t index, uint64_t sequence,
			     uint64_t time_ns, uint64_t durable, uint8_t *leaf, uint8_t *out,
			     size_t room, uint32_t *ends)
{
	struct hasher hasher;
	size_t at = 0;
	int64_t result = NO_DIGEST;
	bool can_hash = begin_hasher(&hasher);
	char prev[LEAF_DIGITS + 1] = {0};
	for (uint32_t number = 0; can_hash && number < count; number++) {
		size_t most = HEADER_BYTES + LENGTH(PREFIX) + lengths[number] + TAIL_BYTES_MAX +
			      LEAF_BYTES;
		if (room - at < most) {
			result = FULL;
			goto end;
		}
		uint8_t *frame = out + at, *payload = frame + HEADER_BYTES;
		memcpy(payload, PREFIX, LENGTH(PREFIX));
		memcpy(payload + LENGTH(PREFIX), bodies, lengths[number]);
		bodies += lengths[number];
		char *tail = (char *)payload + LENGTH(PREFIX) + lengths[number];
		put_hex(prev, leaf);
		int written =
			snprintf(tail, TAIL_BYTES_MAX, "%s%s%s%lu%s%s%s%s%s%lu%s%lu}", CALL_KEY,
				 call, INDEX_KEY, index + number, KIND_KEY, kind, PREV_KEY, prev,
				 SEQUENCE_KEY, sequence + number, TIME_KEY, time_ns);
		if (written < 0 || written >= TAIL_BYTES_MAX) {
			result = FULL;
			goto end;
		}
		size_t length = LENGTH(PREFIX) + lengths[number] + (size_t)written;
		if (length > ENTRY_BYTES_MAX) {
			result = -3 - (int64_t)number;
			goto end;
		}
		if (!hash(&hasher, payload, length, leaf))
			goto end;
		memcpy(payload + length, leaf, LEAF_BYTES);
		put_u32(frame, (uint32_t)length);
		put_u32(frame + 8, (uint32_t)(durable >> 32));
		put_u32(frame + 12, (uint32_t)durable);
		size_t whole = HEADER_BYTES + length + LEAF_BYTES;
		put_u32(frame + 4, checksum_of(frame, whole));
		at += whole;
		ends[number] = (uint32_t)at;
	}
	if (can_hash)
		result = (int64_t)at;
end:
	end_hasher(&hasher);
	return result;
}

/* What is left of an entry that is read from its front. */
struct rest {
	const uint8_t *at, *end;
};

static bool skip(struct rest *rest, const char *text, size_t length)
{
	if ((size_t)(rest->end - rest->at) < length || memcmp(rest->at, text, length) != 0)
		return false;
	rest->at += length;
	return true;
}

/* Take a number as it is written by us: no zero before it, and below 2^64. */
static bool take_number(struct rest *rest, uint64_t *value)
{
	const uint8_t *begin = rest->at;
	*value = 0;
	for (; rest->at < rest->end && *rest->at >= '0' && *rest->at <= '9'; rest->at++) {
		uint64_t digit = *rest->at - '0';
		if (*value > (UINT64_MAX - digit) / 10)
			return false;
		*value = *value * 10 + digit;
	}
	return rest->at > begin && (*begin != '0' || rest->at == begin + 1);
}

static bool is_of_call(uint8_t byte)
{
	return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
	       (byte >= '0' && byte <= '9') || byte == '.' || byte == '_' || byte == '-';
}

static bool is_of_kind(uint8_t byte)
{
	return (byte >= 'a' && byte <= 'z') || byte == '_';
}

static size_t take_while(struct rest *rest, bool (*is)(uint8_t), size_t most)
{
	const uint8_t *begin = rest->at;
	while (rest->at < rest->end && is(*rest->at) && (size_t)(rest->at - begin) < most)
		rest->at++;
	return (size_t)(rest->at - begin);
}

/* Give where the last `CALL_KEY` begins that a tail can begin with, or NULL. */
static const uint8_t *find_tail(const uint8_t *payload, size_t length)
{
	const uint8_t *least = payload + (length > TAIL_BYTES_MAX ? length - TAIL_BYTES_MAX : 0);
	for (const uint8_t *at = payload + length - LENGTH(CALL_KEY); at >= least; at--)
		if (*at == ',' && memcmp(at, CALL_KEY, LENGTH(CALL_KEY)) == 0)
			return at;
	return NULL;
}

/* Read what an entry says around its body; its index has to be `index`, and `prev` the one before.
 */
static bool read_entry(const uint8_t *buffer, struct entry *entry, uint64_t index, const char *prev)
{
	const uint8_t *payload = buffer + entry->at;
	uint64_t said, time_ns;
	if (entry->length < LENGTH(PREFIX) + LENGTH(CALL_KEY))
		return false;
	if (memcmp(payload, PREFIX, LENGTH(PREFIX)) != 0)
		return false;
	const uint8_t *tail = find_tail(payload, entry->length);
	if (tail == NULL || tail < payload + LENGTH(PREFIX))
		return false;
	struct rest rest = {tail + LENGTH(CALL_KEY), payload + entry->length};
	entry->tail = (uint32_t)(tail - buffer);
	entry->call = (uint32_t)(rest.at - buffer);
	entry->call_length = (uint32_t)take_while(&rest, is_of_call, CALL_BYTES_MAX);
	if (!skip(&rest, INDEX_KEY, LENGTH(INDEX_KEY)) || !take_number(&rest, &said) ||
	    said != index || !skip(&rest, KIND_KEY, LENGTH(KIND_KEY)))
		return false;
	entry->kind = (uint32_t)(rest.at - buffer);
	entry->kind_length = (uint32_t)take_while(&rest, is_of_kind, KIND_BYTES_MAX);
	return entry->kind_length > 0 && skip(&rest, PREV_KEY, LENGTH(PREV_KEY)) &&
	       skip(&rest, prev, LEAF_DIGITS) && skip(&rest, SEQUENCE_KEY, LENGTH(SEQUENCE_KEY)) &&
	       take_number(&rest, &entry->sequence) && skip(&rest, TIME_KEY, LENGTH(TIME_KEY)) &&
	       take_number(&rest, &time_ns) && skip(&rest, "}", 1) && rest.at == rest.end;
}

/*
 * Read the frames at the beginning of `buffer` that follow the entry before `index`, whose leaf
 * hash is `leaf`: up to `most` of them. Gives how many are flawless; NO_DIGEST.
 */
int64_t stockade_read_frames(const uint8_t *buffer, size_t size, uint64_t index,
			     const uint8_t *leaf, struct entry *entries, size_t most)
{
	struct hasher hasher;
	uint8_t hashed[LEAF_BYTES];
	char prev[LEAF_DIGITS];
	size_t at = 0, count = 0;
	bool can_hash = begin_hasher(&hasher);
	while (can_hash && count < most && size - at >= HEADER_BYTES) {
		const uint8_t *frame = buffer + at;
		struct entry *entry = &entries[count];
		size_t length = get_u32(frame), whole = HEADER_BYTES + length + LEAF_BYTES;
		if (length > ENTRY_BYTES_MAX || size - at < whole)
			break;
		entry->at = (uint32_t)(at + HEADER_BYTES);
		entry->length = (uint32_t)length;
		put_hex(prev, leaf);
		if (!read_entry(buffer, entry, index + count, prev))
			break;
		if (checksum_of(frame, whole) != get_u32(frame + 4))
			break;
		if (!hash(&hasher, frame + HEADER_BYTES, length, hashed)) {
			can_hash = false;
			break;
		}
		leaf = frame + HEADER_BYTES + length;
		if (memcmp(hashed, leaf, LEAF_BYTES) != 0)
			break;
		at += whole;
		count++;
	}
	end_hasher(&hasher);
	return can_hash ? (int64_t)count : NO_DIGEST;
}

#define AT_ONCE 64

static uint8_t is_control(uint8_t byte)
{
	return byte < 0x20 || byte == 0x7f;
}

/* Give how many of the bytes are control characters of ASCII. */
uint64_t stockade_count_controls(const uint8_t *text, size_t size)
{
	uint64_t count = 0;
	size_t at = 0;
	for (; size - at >= AT_ONCE; at += AT_ONCE) {
		uint8_t some =
			0; /* Of a fixed number, so that the compiler takes many at a time. */
		for (size_t next = 0; next < AT_ONCE; next++)
			some += is_control(text[at + next]);
		count += some;
	}
	for (; at < size; at++)
		count += is_control(text[at]);
	return count;
}
