"""Which line decides: about places, names, system calls, paths, and denials of the record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor.call.events import OTHER_ARGUMENTS
from supervisor.egress.dial import LEADS_TO
from supervisor.egress.plan import Plan
from supervisor.errors import InvalidRequest
from supervisor.profile.explain import checked_at
from supervisor.profile.places import parse_place
from supervisor.profile.resolve import rules_of
from supervisor.profile.why import Judge, Said, distinct

from .conftest import COMPLETE, MakeSet

BASE = COMPLETE.replace("16MiB}", "16MiB, egress: 10MiB}")
CHILD = """\
profile: child
extends: base
drop: {syscalls: {allow: [mknod]}}
why: A test.
files: {read: [{path: /srv/a, why: x}]}
egress:
  - {host: api.example.com, port: 443, why: x}
  - {host: "*.example.com", port: 80, why: x}
  - {cidr: 10.2.0.0/24, port: "5432-5440", why: x}
  - {cidr: 10.2.0.0/28, port: 9, why: x}
syscalls: {allow: ["@network-io", {name: memfd_create, why: x}], kill: [ptrace], watch: [execve]}
"""

NARROW = "profile: child\nextends: base\nwhy: A test.\n"


def judge(make_set: MakeSet, child: str = CHILD, *, lines: bool = True) -> Judge:
    profile = make_set(base=BASE, child=child).effective("child")
    canonical = json.loads(profile.canonical)
    assert rules_of(canonical) == profile.egress
    return Judge(canonical, profile.lines if lines else (), Plan.of(rules_of(canonical)).decide)


@pytest.mark.parametrize(
    ("what", "rule", "line", "text"),
    [
        ("api.example.com:443", "api.example.com:443", 7, "{host: api.example.com, port: 443"),
        ("API.Example.com.:443", "api.example.com:443", 7, "{host: api.example.com"),
        ("api.example.com:80", "*.example.com:80", 8, '{host: "*.example.com", port: 80'),
        ("a.b.example.com:80", "*.example.com:80", 8, '{host: "*.example.com"'),
        ("10.2.0.77:5433", "10.2.0.0/24:5432-5440", 9, '{cidr: "10.2.0.0/24", port: "5432-5440"'),
        ("10.2.0.5:9", "10.2.0.0/28:9", 10, '{cidr: "10.2.0.0/28"'),
        ("10.2.0.5:5432", "10.2.0.0/24:5432-5440", 9, '{cidr: "10.2.0.0/24"'),
        ("[::ffff:10.2.0.5]:9", "10.2.0.0/28:9", 10, '{cidr: "10.2.0.0/28"'),
    ],
)
def test_a_place_that_is_allowed(
    make_set: MakeSet, what: str, rule: str, line: int, text: str
) -> None:
    found = judge(make_set).place(*parse_place(what))
    assert (found.allowed, found.rule) == (True, rule)
    assert found.decided is not None
    assert (found.decided.file, found.decided.line) == ("child.yaml", line)
    assert found.decided.text.startswith(text)
    assert found.decided.text.endswith(', why: "x"}')
    assert found.why
    assert (found.nearest, found.hint) == (None, "")


@pytest.mark.parametrize(
    ("what", "why", "nearest", "hint"),
    [
        ("api.example.com:8080", "port 8080 is not in api.example.com:443", 7, "add 8080"),
        ("other.example.com:443", "port 443 is not in *.example.com:80", 8, "add 443"),
        ("10.2.0.5:8", "port 8 is not in 10.2.0.0/28:9", 10, "add 8"),
        ("example.com:80", "the * of *.example.com:80 stands for one label or more", 8, "an entry"),
        ("api.exmaple.com:443", "no rule of egress is for api.exmaple.com", 7, "'api.example.com'"),
        ("evil.example.org:443", "no rule of egress is for evil.example.org", 0, "egress: [{host"),
        ("evil.test:443", "no rule of egress is for evil.test", 0, "{host: evil.test, port: 443"),
        ("192.0.2.1:9", "no rule of egress is for 192.0.2.1", 0, 'cidr: "192.0.2.1/32", port: 9'),
        ("[2001:db8::1]:9", "no rule of egress", 0, 'cidr: "2001:db8::1/128"'),
        ("169.254.169.254:80", "no rule may ever reach it: metadata", 0, ""),
        ("metadata.google.internal:80", "no rule may ever reach it: metadata", 0, ""),
        ("[fe80::1]:80", "no rule may ever reach it: link-local", 0, ""),
        ("198.18.0.1:80", "no rule may ever reach it: synthetic", 0, ""),
        ("224.0.0.1:80", "no rule may ever reach it: multicast", 0, ""),
    ],
)
def test_a_place_that_is_denied(
    make_set: MakeSet, what: str, why: str, nearest: int, hint: str
) -> None:
    found = judge(make_set).place(*parse_place(what))
    assert (found.allowed, found.rule, found.decided) == (False, "", None)
    assert why in found.why
    assert (found.nearest.line if found.nearest else 0) == nearest
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)


def test_a_rule_to_write_can_be_written(make_set: MakeSet) -> None:
    for what in ("evil.test:443", "192.0.2.1:9", "[2001:db8::1]:9"):
        hint = judge(make_set).place(*parse_place(what)).hint
        assert (
            judge(
                make_set,
                CHILD.replace("egress:", f"{hint.replace('…', 'x')}\n#", 1)
                .replace("\n  - {host: api", "\n#")
                .replace("\n  - {", "\n# "),
            )
            .place(*parse_place(what))
            .allowed
        )


@pytest.mark.parametrize("what", ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "localhost:80"])
def test_the_loopback_is_the_sandboxs_own(make_set: MakeSet, what: str) -> None:
    found = judge(make_set).place(*parse_place(what))
    assert found.allowed
    assert found.decided is not None
    assert (found.decided.text, found.decided.line) == ('"@network-io"', 11)
    closed = CHILD.partition("egress:")[0]
    found = judge(make_set, closed).place(*parse_place(what))
    assert (found.allowed, found.hint) == (False, "use: [loopback]")


def test_what_is_checked(make_set: MakeSet) -> None:
    rules = {rule.name: rule for rule in judge(make_set).rules}
    assert "TLS server name" in checked_at(rules["api.example.com:443"], 443)
    assert "must not lead to a private" in checked_at(rules["api.example.com:443"], 443)
    assert "every request is read" in checked_at(rules["*.example.com:80"], 80)
    assert "no name is checked" in checked_at(rules["10.2.0.0/28:9"], 9)


@pytest.mark.parametrize(
    ("name", "why", "line", "rule"),
    [
        ("read", "with any arguments", "base.yaml:6", "syscalls.allow"),
        ("execve", "and is told", "base.yaml:6", "syscalls.allow"),
        ("socket", "with some arguments only", "", "syscalls.allow"),
        ("memfd_create", "with any arguments", "child.yaml:11", "syscalls.allow"),
    ],
)
def test_a_system_call_that_is_allowed(
    make_set: MakeSet, name: str, why: str, line: str, rule: str
) -> None:
    found = judge(make_set).syscall(name)
    assert (found.allowed, found.rule) == (True, rule)
    assert why in found.why
    assert line in str(found.decided)


@pytest.mark.parametrize(
    ("name", "why", "line", "hint"),
    [
        ("ptrace", "ends the whole call", "child.yaml:11", ""),
        ("mknod", "taken away by name", "child.yaml:3", "only its name brings it back"),
        ("kcmp", "no set does", "None", "{name: kcmp"),
        ("io_setup", "no entry", "None", '"@aio"'),
        ("bpf", "no profile can allow it", "None", ""),
        ("clone3", "no profile can allow it", "None", ""),
    ],
)
def test_a_system_call_that_is_denied(
    make_set: MakeSet, name: str, why: str, line: str, hint: str
) -> None:
    found = judge(make_set).syscall(name)
    assert not found.allowed
    assert why in found.why
    assert str(found.decided) == line
    assert hint in found.hint


def test_a_name_that_is_no_system_call(make_set: MakeSet) -> None:
    with pytest.raises(InvalidRequest) as caught:
        judge(make_set).syscall("conect")
    assert (caught.value.reason, "'connect'" in caught.value.hint) == ("SYSCALL_UNKNOWN", True)


def test_a_profile_that_observes_allows_by_its_mode(make_set: MakeSet) -> None:
    found = judge(make_set, CHILD + "mode: observe\n").syscall("io_setup")
    assert (found.allowed, str(found.decided)) == (True, "child.yaml:12")


@pytest.mark.parametrize(
    ("path", "allowed", "line", "why"),
    [
        ("/work/x", True, "base.yaml:5", "read and write, no programs run from it"),
        ("/srv/a/b", True, "child.yaml:5", "read only: a path of the host"),
        ("/usr/bin/true", True, "base.yaml:3", "read only"),
        ("/srv", False, "base.yaml:3", "/usr alone"),
        ("/workshop", False, "base.yaml:3", "/usr alone"),
    ],
)
def test_paths(make_set: MakeSet, path: str, allowed: bool, line: str, why: str) -> None:
    found = judge(make_set).path(path)
    assert (found.allowed, str(found.decided)) == (allowed, line)
    assert why in found.why
    assert bool(found.hint) != allowed


def denial(wall: str, name: str, detail: str = "", rule: str = "", **more: Any) -> dict[str, Any]:
    return {"wall": wall, "name": name, "detail": detail, "rule": rule, "count": 1, **more}


@pytest.mark.parametrize(
    ("body", "allowed", "line", "why"),
    [
        (denial("syscall", "mknod"), False, "child.yaml:3", "taken away"),
        (denial("syscall", "kcmp"), False, "None", "no entry"),
        (denial("syscall", "read"), True, "base.yaml:6", "with any"),  # allowed since
        (
            denial("syscall", "clone", "clone(X)", f"syscalls.allow: clone{OTHER_ARGUMENTS}"),
            False, "base.yaml:6", "with other arguments only",
        ),
        (denial("network", "connect", "192.0.2.1:443 tcp"), False, "None", "no rule of egress"),
        (denial("network", "connect", "10.2.0.5:9 tcp"), True, "child.yaml:10", "no name"),
        (denial("network", "connect", "10.2.0.5:9 no more connections"), False, "child.yaml:10",
         "no more connections; "),
        (denial("network", "sendmsg", "10.2.0.5:9 udp"), False, "None", "UDP never leaves"),
        # Denials of the kernel: the name that the address stands for is judged, not the address.
        (denial("network", "connect", "198.18.0.1:22 tcp (api.example.com)"), False, "None",
         "port 22 is not in api.example.com:443"),
        (denial("network", "connect", "[fd40:b1a3:129e::1]:443 tcp: too many (api.example.com)"),
         False, "child.yaml:7", "tcp: too many; "),
        (denial("network", "sendmsg", "198.18.0.1:443 udp (api.example.com)"), False, "None",
         "UDP never leaves"),
        (denial("network", "dns", "evil.test A"), False, "None", "no rule of egress"),
        (denial("network", "dns", "x.example.com AAAA"), True, "child.yaml:8", "an address of its"),
        (denial("network", "dns", "x.example.com A: 1024 names"), False, "child.yaml:8",
         "1024 names; "),
        (denial("network", "dns", "too many questions"), False, "None", "in every profile"),
        (denial("network", "tls", "api.example.com:443 names evil.test"), False, "child.yaml:7",
         "names evil.test; "),
        (denial("network", "socket", "raw icmp"), False, "None", "in every profile"),
        (denial("network", "connect", ""), False, "None", "in every profile"),
        (denial("limit", "egress", rule="limits.egress", used=11, allowed=10), False,
         "base.yaml:8", "all of it is used: 11 bytes of 10 bytes"),
        (denial("limit", "egress", rule="limits.egress", used=1_002_975, allowed=1 << 20), False,
         "base.yaml:8", "979.468 KiB of 1 MiB were used, and more came at once"),
        (denial("limit", "disk", "/work", "files.write: /work", used=64 << 20, allowed=64 << 20),
         False, "base.yaml:5", "all of it is used: 64 MiB of 64 MiB"),
        (denial("program", "exec", "/work/x", "programs: from the read-only image only"), False,
         "None", "in every profile"),
    ],
)  # fmt: skip
def test_denials(
    make_set: MakeSet, body: dict[str, Any], allowed: bool, line: str, why: str
) -> None:
    found = judge(make_set).denial(body)
    assert (found.allowed, str(found.decided)) == (allowed, line)
    assert why in found.why
    assert found.asked == f"{body['wall']} {body['name']} {body['detail']}".strip()


@pytest.mark.parametrize(
    ("kinds", "hint"),
    [
        ("10.0.0.8: private; 100.64.7.8: shared", "private: true in that rule"),  # older records
        (f"{LEADS_TO}10.0.0.8: private", "private: true in that rule"),
        (f"{LEADS_TO}10.0.0.8: private; 100.64.7.8: shared", "private: true in that rule"),
        (f"{LEADS_TO}fd12::8: private; ::1: loopback", ""),
        (f"{LEADS_TO}169.254.169.254: metadata", "no rule opens such an address"),
        (f"{LEADS_TO}169.254.169.254: metadata; ::1: loopback", "no rule opens such an address"),
        ("no answer is allowed", ""),
    ],
)
def test_private_addresses_of_a_name_can_be_allowed(
    make_set: MakeSet, kinds: str, hint: str
) -> None:
    found = judge(make_set).denial(denial("network", "dial", f"api.example.com:443 {kinds}"))
    assert (found.allowed, hint in found.hint, bool(found.hint)) == (False, True, bool(hint))
    assert found.why.startswith(f"{kinds}; ")


@pytest.mark.parametrize(
    ("name", "wrong", "now", "hint"),
    [
        ("http", "the method 'POST', not GET", "methods: [GET]", "add POST to the methods:"),
        ("http", "the method 'POST', not GET", "methods: [GET, POST]", ""),
        ("http", "the method 'POST', not GET", "paths: [/a]", ""),
        ("http", "the method TRACE, which the rule does not name", "paths: [/a]", "add TRACE to"),
        ("http", "the path '/a/b', not /a", "paths: [/a]", "add /a/b to the paths:"),
        ("http", "the path '/a/b', not /a", 'paths: [/a, "/a/*"]', ""),
        ("http", "the path '/a/b', not /a", "methods: [GET]", ""),
        ("dial", f"{LEADS_TO}10.0.0.8: private", "methods: [GET]", "private: true in that rule"),
        ("dial", f"{LEADS_TO}10.0.0.8: private", "private: true", ""),
    ],
)
def test_what_was_denied_there_is_judged_by_the_rule_as_it_is_now(
    make_set: MakeSet, name: str, wrong: str, now: str, hint: str
) -> None:
    child = CHILD.replace('"*.example.com", port: 80', f'"*.example.com", port: 80, {now}')
    found = judge(make_set, child).denial(denial("network", name, f"a.example.com:80 {wrong}"))
    assert (found.allowed, str(found.decided)) == (not hint, "child.yaml:8")
    assert (hint in found.hint, bool(found.hint)) == (True, bool(hint))
    assert found.why.startswith(f"{wrong}; ") != found.allowed


@pytest.mark.parametrize(
    "wrong",
    [
        "the method 'post', not in capitals",
        "the method CONNECT",
        "a dot segment in the path: '/a/../b'",
        f"the path '/{'a' * 79}'…, not /b",  # it was cut
        "the path '/%41', not /b",
        "Host 'evil.test' where a.example.com was asked for",
    ],
)
def test_what_no_rule_could_allow_stays_denied(make_set: MakeSet, wrong: str) -> None:
    """The rule has neither methods nor paths."""
    found = judge(make_set).denial(denial("network", "http", f"a.example.com:80 {wrong}"))
    assert (found.allowed, found.hint) == (False, "")
    assert found.why.startswith(f"{wrong}; ")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("the placeholder of secret token in the target", "it goes into Authorization of requests"),
        ("the placeholder of secret other in the target", ""),
        ("TRACE, which would show a secret to the sandbox", ""),
    ],
)
def test_where_a_secret_belongs(make_set: MakeSet, wrong: str, hint: str) -> None:
    uses = "secrets: [{name: token, header: Authorization, host: x.example.com, why: x}]"
    child = CHILD.replace("\nsyscalls:", f"\n{uses}\nsyscalls:")
    found = judge(make_set, child).denial(denial("network", "secret", f"a.example.com:80 {wrong}"))
    assert (found.allowed, bool(found.hint)) == (False, bool(hint))
    assert found.hint.startswith(hint)


@pytest.mark.parametrize(
    ("sets", "arguments", "allowed", "helps"),
    [
        ('"@network-io"', [2, 1, 6], True, False),  # allowed since
        ('"@network-io"', [2, 3, 1], False, False),  # raw
        ('"@ipc"', [10, 2, 0], False, True),
        ('"@ipc"', [], False, False),  # of several calls that differ in them
        ("{name: socket, why: x}", [2, 1, 6], False, True),  # by its name: none may be made
    ],
)
def test_sockets_depend_on_the_sets(
    make_set: MakeSet, sets: str, arguments: list[int], allowed: bool, helps: bool
) -> None:
    child = CHILD[: CHILD.index("egress:")] + f"syscalls: {{allow: [{sets}]}}\n"
    rule = f"syscalls.allow: socket{OTHER_ARGUMENTS}"
    body = denial("syscall", "socket", "socket(…)", rule, arguments=arguments)
    found = judge(make_set, child).denial(body)
    assert (found.allowed, "use: [network]" in found.hint) == (allowed, helps)
    if allowed:
        assert found.decided is not None
        assert found.decided.text == sets


def test_how_a_limit_is_raised(make_set: MakeSet) -> None:
    judging = judge(make_set)
    limit = judging.denial(denial("limit", "egress", rule="limits.egress"))
    mount = judging.denial(denial("limit", "disk", "/work", "files.write: /work"))
    assert limit.hint.startswith("a larger limits.egress, ")
    assert mount.hint.startswith("a larger size: of /work, ")


def test_a_name_that_looks_like_another_can_still_be_written(make_set: MakeSet) -> None:
    hint = judge(make_set).place(*parse_place("api.exmaple.com:443")).hint
    assert hint.startswith("did you mean 'api.example.com'? If not: egress: [{host: api.exmaple.")


def test_where_nobody_knows_the_lines(make_set: MakeSet) -> None:
    found = judge(make_set, lines=False)
    place = found.place(*parse_place("api.example.com:443"))
    assert place.decided == Said(
        path="egress[3]", text='{host: api.example.com, port: 443, why: "x"}'
    )
    assert str(place.decided) == "egress[3]"
    assert found.syscall("read").decided == Said(path="syscalls.allow", text='"@basic-io"')
    assert found.path("/work").allowed
    assert not found.denial(denial("limit", "egress", rule="limits.egress")).allowed


def test_a_record_of_an_older_version(make_set: MakeSet) -> None:
    profile = make_set().effective("base")
    canonical = json.loads(profile.canonical)
    del canonical["egress"], canonical["secrets"]
    found = Judge(canonical, profile.lines).place(*parse_place("api.example.com:443"))
    assert (found.allowed, found.why) == (False, "there is no egress")


def test_each_kind_of_denial_once() -> None:
    one, other = denial("network", "dns", "a"), denial("network", "dns", "b")
    assert distinct([one, other, {**one, "count": 4}]) == [(one, 5), (other, 1)]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/usr/bin/env", True), ("/srv/a/run", True), ("/work/x", False), ("/opt/b/x", True),
     ("/opt/x", False)],
)  # fmt: skip
def test_a_program_runs_where_it_is_shown_and_may(
    make_set: MakeSet, path: str, allowed: bool
) -> None:
    writes = "write: [{path: /opt/b, size: 1MiB, exec: true, why: x}], read: ["
    found = judge(make_set, CHILD.replace("read: [", writes)).program(path)
    assert found.allowed is allowed


def test_sockets_that_were_made_are_judged_by_their_arguments(make_set: MakeSet) -> None:
    wide, narrow = judge(make_set), judge(make_set, NARROW)
    inet, unix = (2, 1, 0), (1, 1, 0)
    assert (wide.made("socket", inet).allowed, narrow.made("socket", inet).allowed) == (True, False)
    assert narrow.made("socket", unix).allowed
    assert narrow.made("socket", inet[:1]).allowed  # of repeats only the family is told
    # The arguments that every profile rules alike were let through by the same rules.
    assert narrow.made("clone", (1 << 40,)).allowed
    assert not narrow.made("kcmp", ()).allowed


def test_the_rule_for_a_place(make_set: MakeSet) -> None:
    found = judge(make_set).rule(*parse_place("api.example.com:443"))
    assert found is not None
    assert found.name == "api.example.com:443"
    assert judge(make_set).rule(*parse_place("api.example.org:443")) is None
