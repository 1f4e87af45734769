"""Which addresses the world has, and who lives there."""

from __future__ import annotations

PYTHON = "/usr/bin/python3"
ECHO, DISCARD, CHARGEN, DOT = 7, 9, 19, 853

ISLAND4, ISLAND6 = "192.0.2.2", "2001:db8::2"
WORLD4, WORLD6 = "192.0.2.1", "2001:db8::1"
"""The two ends of the wire."""

RESOLVERS = ("198.51.100.53", "2001:db8:1::53")
FOREIGN = ("198.51.100.54", "2001:db8:1::54")
"""Somebody else's resolver, also over TLS and HTTPS."""

SHARED = ("203.0.113.10", "2001:db8:1::10")
"""Where good and evil names live together, as on any large host."""

OTHER = ("203.0.113.20", "2001:db8:1::20")
"""Where only evil names live."""

LENGTH_FIRST, NO_BODIES = "203.0.113.12", "203.0.113.13"
"""Servers that frame requests in ways of their own."""

SOCKETS = ("203.0.113.30", "2001:db8:1::30")
"""The server of WebSockets."""

LOOPBACK = ("127.0.0.1", "::1")
"""The island's own."""

METADATA = ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")
PRIVATE = ("10.0.0.8", "fd12:3456:789a::8", "192.168.7.8", "172.16.7.8", "100.64.7.8")
TRANSLATED = ("64:ff9b::cb00:710a", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1")
"""IPv4 addresses inside of IPv6: the shared one, metadata by NAT64, metadata by 6to4."""

POSTGRES = "10.2.0.5"
POSTGRES_NETWORK = "10.2.0.0/24"

SITES = (
    *SHARED, *OTHER, LENGTH_FIRST, NO_BODIES, *METADATA, *PRIVATE, *TRANSLATED, *FOREIGN,
)  # fmt: skip

ONLY = {
    **dict.fromkeys(METADATA, "metadata"),
    **dict.fromkeys(PRIVATE, "private"),
    TRANSLATED[1]: "metadata",
    TRANSLATED[2]: "metadata",
}
"""Where the same document is served whoever is asked for."""

HOME = (
    "198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
    "169.254.0.0/16", "100.64.0.0/10",
    "2001:db8:1::/48", "fd00:ec2::/32", "fd12:3456:789a::/48", "64:ff9b::/96", "2002::/16",
)  # fmt: skip
"""What is local over there: whatever is sent to any of it arrives."""

ZONE = {
    # What profiles of the tests allow.
    "api.github.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
    "files.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
    "git.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
    "*.good.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]], "TXT": ['"canary by name"']},
    "paths.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
    "four.example.com": {"A": [SHARED[0]]},
    "six.example.com": {"AAAA": [SHARED[1]]},
    "length.example.com": {"A": [LENGTH_FIRST]},
    "nobody.example.com": {"A": [NO_BODIES]},
    "ws.example.com": {"A": [SOCKETS[0]], "AAAA": [SOCKETS[1]]},
    # Allowed, and not what they should be.
    "metadata.example.com": {"A": [METADATA[0]], "AAAA": [METADATA[1]]},
    "private.example.com": {"A": [PRIVATE[0]], "AAAA": [PRIVATE[1]]},
    "alias.example.com": {"CNAME": "inner.corp.example.com."},
    "inner.corp.example.com": {"A": [PRIVATE[0]], "AAAA": [PRIVATE[1]]},
    "nat64.example.com": {"AAAA": [TRANSLATED[1]]},
    "sixtofour.example.com": {"AAAA": [TRANSLATED[2]]},
    "mapped.example.com": {"AAAA": ["::ffff:169.254.169.254"]},
    "loop.example.com": {"A": ["127.0.0.1"], "AAAA": ["::1"]},
    "zero.example.com": {"A": ["0.0.0.0"], "AAAA": ["::"]},  # noqa: S104 (an answer)
    "rebind.example.com": {"ttl": 0, "turns": [{"A": [SHARED[0]]}, {"A": [METADATA[0]]}]},
    # Allowed by nobody.
    "evil.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
    "*.evil.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]], "TXT": ['"canary by name"']},
    "lair.example.com": {"A": [OTHER[0]], "AAAA": [OTHER[1]]},
    "*.tunnel.example.com": {"A": [SHARED[0]], "TXT": ['"canary by name"']},
    "good.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
    "evilgood.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
    "api.github.com.evil.example.com": {"A": [SHARED[0]], "AAAA": [SHARED[1]]},
}  # fmt: skip
