"""Names of hosts in their one spelling, and which pattern covers which name.

A name is made canonical once, at the door (profile, DNS question, TLS server name, Host header),
and compared as text from then on. The canonical form is ASCII: lower case, no dot at the end,
A-labels (UTS 46 without transitional processing, then IDNA 2008), labels of letters, digits and
hyphens (RFC 1123, section 2.1). Nothing that a resolver or an HTTP client could take for an
address is a name here.
"""

from __future__ import annotations

# Both are imported by what needs them only when it does, and in the broker's root there is nothing.
import encodings.punycode  # noqa: F401
import re

import idna
import idna.uts46data

NAME_MAX = 253
"""The longest name as text (RFC 1035, section 3.1: 255 octets on the wire)."""

LABEL_MAX = 63

TEXT_MAX = 1024
"""The longest text that is looked at: a name of `NAME_MAX` may be shorter in Unicode, and longer
only by characters that UTS 46 takes out."""

WILDCARD_LABELS_MIN = 2

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_ACE_PREFIX = "xn--"
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""A last label with which a name "ends in a number" (WHATWG URL Standard, section 3.5)."""

_ADDRESS_HINT = "an address goes into cidr:, such as cidr: 192.0.2.7/32"
_NAME_HINT = "write the bare name of a host, such as api.github.com"
_FORBIDDEN = {
    "@": ("a user", "leave out everything before and with the @"),
    ":": ("a port, a scheme or an IPv6 address", f"ports go into port:; {_ADDRESS_HINT}"),
    "/": ("a path or a network", "write the host alone; a network goes into cidr:"),
    "\\": ("a backslash", _NAME_HINT),
    "%": ("an escape or a zone", _NAME_HINT),
    "[": ("a bracket", _ADDRESS_HINT),
    "]": ("a bracket", _ADDRESS_HINT),
    "_": ("an underscore", "names of hosts are letters, digits and hyphens"),
    "*": ("a star", 'a star stands alone and first: "*.example.com"'),
}

_UNFIT = re.compile(rf"[{re.escape(''.join(_FORBIDDEN))}\s\x00-\x1f\x7f-\x9f]")
"""What is forbidden, white space of any kind, and the controls of ASCII and Latin-1."""


class HostnameError(ValueError):
    """A text that is no name of a host; `hint` says what to write."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def canonical(text: str) -> str:
    """Give the one spelling of the name `text`.

    Raises:
        HostnameError: it is no name that can be asked of a resolver, or an address in any spelling.
    """
    mapped = _mapped(text)
    labels = mapped.removesuffix(".").split(".")
    if not all(labels):
        raise HostnameError(f"{_shown(text)} has an empty label", _NAME_HINT)
    labels = [_to_ascii(label, text) for label in labels]
    name = ".".join(labels)
    if len(name) > NAME_MAX:
        raise HostnameError(
            f"{_shown(text)} has {len(name)} characters", f"a name has at most {NAME_MAX}"
        )
    if _NUMBER.fullmatch(labels[-1]):
        raise HostnameError(f"{_shown(text)} is an address, not a name", _ADDRESS_HINT)
    if labels[-1] == "localhost":
        raise HostnameError(
            f"{_shown(text)} is the sandbox itself", "loopback needs no rule: leave this one out"
        )
    if len(labels) < 2:
        raise HostnameError(f"{_shown(text)} has one label only", "write the full name of the host")
    if labels[-1] == "arpa":
        raise HostnameError(f"{_shown(text)} is no host: .arpa names addresses", _NAME_HINT)
    return name


def canonical_pattern(text: str) -> str:
    """Give the one spelling of `text`, a name or "*.suffix".

    Raises:
        HostnameError: it is neither, or the suffix has less than `WILDCARD_LABELS_MIN` labels.
    """
    if not text.startswith("*."):
        return canonical(text)
    written = text.removeprefix("*.")
    if "." not in _mapped(written).removesuffix("."):
        raise HostnameError(
            f"{_shown(text)} covers a whole top-level domain",
            f'at least {WILDCARD_LABELS_MIN} labels follow the star: "*.example.com"',
        )
    suffix = canonical(written)
    if len(suffix) + len("a.") > NAME_MAX:
        raise HostnameError(f"{_shown(text)} covers nothing: no name fits before it", _NAME_HINT)
    return f"*.{suffix}"


def covers(pattern: str, name: str) -> bool:
    """Say whether `pattern` is for `name`, both canonical.

    The star stands for one label or more, so it never matches the bare suffix.
    """
    if not pattern.startswith("*."):
        return pattern == name
    suffix = pattern.removeprefix("*")
    return len(name) > len(suffix) and name.endswith(suffix)


def _mapped(text: str) -> str:
    """Map `text` by UTS 46; look for what no name holds both before and after, for the mapping
    turns fullwidth forms and symbols such as U+2100 into it."""
    if not text:
        raise HostnameError("a name of a host is missing", _NAME_HINT)
    if len(text) > TEXT_MAX:
        raise HostnameError(
            f"{_shown(text)} has {len(text)} characters", f"a name has at most {NAME_MAX}"
        )
    _check_characters(text, text)
    if text.isascii():
        return text.lower()
    try:
        mapped = idna.uts46_remap(text, std3_rules=False)
    except idna.IDNAError as error:
        raise HostnameError(f"{_shown(text)} is no name: {_reason(error)}", _NAME_HINT) from error
    _check_characters(mapped, text)
    return mapped


def _check_characters(characters: str, text: str) -> None:
    found = _UNFIT.search(characters)
    if found is None:
        return
    character = found.group()
    blank = "white space" if character.isspace() else "a control character"
    what, hint = _FORBIDDEN.get(character, (blank, _NAME_HINT))
    raise HostnameError(f"{_shown(text)} holds {what}", hint)


def _to_ascii(label: str, text: str) -> str:
    """Give the A-label of a mapped label.

    Plain ASCII labels are held to the rules of host names alone: hyphens in the third and fourth
    place are in use. What claims to be an A-label is decoded, and must be the one way to write it.
    """
    if not label.isascii() or label.startswith(_ACE_PREFIX):
        try:
            label = idna.alabel(label).decode("ascii").lower()
        except idna.IDNAError as error:
            raise HostnameError(
                f"the label {_shown(label)} of {_shown(text)} is not valid: {_reason(error)}",
                "only names by IDNA 2008 can be used",
            ) from error
    if len(label) > LABEL_MAX:
        raise HostnameError(
            f"the label {_shown(label)} has {len(label)} characters",
            f"a label has at most {LABEL_MAX}",
        )
    if _LABEL.fullmatch(label) is None:
        raise HostnameError(
            f"the label {_shown(label)} of {_shown(text)} is not valid",
            "labels are letters, digits and hyphens, and neither begin nor end with a hyphen",
        )
    return label


def _reason(error: idna.IDNAError) -> str:
    return ascii(str(error))[1:-1][:160]


def _shown(text: str) -> str:
    """Write `text` for a message: ASCII, so that look-alikes and controls show, and short."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
