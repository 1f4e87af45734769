"""The console in a real browser, over a real daemon: what it shows, how soon, and to whom.

Each page is written as a picture below the test's folder, `console-*.png`, to be looked at.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import select
import signal
import socket
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from supervisor.api import console
from supervisor.client import Supervisor
from supervisor.console.server import CONNECTIONS_MAX, POLICY
from tests.support.browser import Browser, chromium
from tests.support.daemon import Daemon, running_daemon
from tests.support.payloads import CONTROLS, CORPUS, FIRING, LONG, PARTS, TAGS
from tests.support.users import NOBODY, become, callers, run_as

OUTPUT_BYTES = 10_000_000
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SPY = """
window.hits = []; window.violations = [];
window.fired = (n) => window.hits.push(n);
window.alert = window.confirm = window.prompt = (x) => window.hits.push(x);
document.addEventListener("securitypolicyviolation",
  (e) => window.violations.push(e.violatedDirective));
"""
FOREIGN = """
return [...document.querySelectorAll("*")].filter((e) =>
  ["IFRAME", "OBJECT", "EMBED", "IMG", "BASE", "VIDEO", "AUDIO", "MARQUEE", "DETAILS", "STYLE",
   "TEMPLATE", "MATH", "PLAINTEXT"].includes(e.tagName.toUpperCase())
  || (e.tagName === "SCRIPT" && !e.src.startsWith(location.origin + "/static/"))
  || (e.href && typeof e.href === "string" && !e.href.startsWith(location.origin + "/"))
  || [...e.attributes].some((a) => /^(on.*|style|autofocus)$/.test(a.name))
).map((e) => e.outerHTML.slice(0, 200));
"""
TELL = """
import sys
for stream in (sys.stdout, sys.stderr):
    for number, text in enumerate(sys.argv[1:]):
        stream.write(f"{number}: {text}\\n")
    stream.flush()
for number, text in enumerate(sys.argv[1:]):
    open("/work/" + f"{number:03} {text}".replace("/", "|")[:200].rstrip(), "w").close()
"""
LOOK_UP = """
import socket, sys
server = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
for text in sys.argv[1:]:
    name = b"".join(bytes([len(label)]) + label for label in (text.encode(), b"example", b"com"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        question = name + bytes([0, 0, 1, 0, 1])
        asker.sendto(bytes([18, 52, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + question, (server, 53))
        asker.recv(512)
"""
WRITE = f"import sys; sys.stdout.write(''.join('%09d\\n' % n for n in range({OUTPUT_BYTES // 10})))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """A daemon with a console, and a browser that has entered."""

    daemon: Daemon
    browser: Browser
    base: str
    pictures: Path

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def link(self) -> str:
        done = self.daemon.command("console")
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def show(self, path: str, name: str = "") -> None:
        """Open a page, and draw it where it has a name."""
        self.browser.get(self.base + path)
        if name:
            self.browser.shot(self.pictures / f"console-{name}.png")

    def enter(self) -> None:
        """Begin a new session."""
        self.browser.get(self.link())
        self.browser.wait(lambda driver: driver.current_url == f"{self.base}/")

    def secret(self) -> str:
        """Give the browser's session."""
        return str(self.browser.driver.get_cookie("stockade_console")["value"])

    def quiet(self) -> None:
        """Make sure that nothing of a page was more than text."""
        assert self.browser.run("return window.hits") == []
        assert self.browser.run("return window.violations") == []
        assert self.browser.run(FOREIGN) == []
        assert self.browser.problems() == []


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    config = {"console": {"listen": "127.0.0.1:0"}, **callers(audit="none")}
    with (
        running_daemon(config=config, isolated=False) as daemon,
        chromium(folder / "profile") as browser,
    ):
        browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SPY})
        base = daemon.command("console").stdout.decode().partition("/enter#")[0]
        made = Console(daemon=daemon, browser=browser, base=base, pictures=folder)
        made.enter()
        yield made


def ask(
    port: int, path: str, method: str = "GET", body: str = "", **headers: str
) -> tuple[int, str, dict[str, str]]:
    """Send a request as no browser would."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(
            method, path, body=body or None, headers={**named, **(FORM if body else {})}
        )
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return answer.status, text, dict(answer.getheaders())


def test_a_live_call_is_shown_without_a_reload(entered: Console) -> None:
    entered.show("/")
    entered.browser.run("window.kept = true")
    with entered.daemon.client.execute(
        ["sh", "-c", "read x; echo done"], profile="base", agent="crawler", stdin_open=True
    ) as execution:
        entered.browser.wait(lambda _: execution.call_id in entered.browser.text("#live"))
        entered.browser.shot(entered.pictures / "console-live.png")
        assert "crawler" in entered.browser.text("#live")
        execution.close_stdin()
        execution.wait()
    entered.browser.wait(lambda _: execution.call_id not in entered.browser.text("#live"))
    assert entered.browser.text("#none") == "Nothing runs now."
    assert entered.browser.run("return window.kept")
    entered.quiet()


def test_the_story_of_a_call(entered: Console) -> None:
    script = "echo hello; echo oops >&2; unshare -U true; cp in.csv out.csv; exit 3"
    call = entered.daemon.client.run(
        ["sh", "-c", script], profile="base", files={"in.csv": b"1,2\n"}, outputs=["*.csv"],
        agent="writer", session="s-1",
    )  # fmt: skip
    entered.show(f"/calls/{call.call_id}", "call")
    text = entered.browser.text()
    for what in (
        "exited with 3", "writer", "s-1", "unshare(CLONE_NEWUSER) x1", "/usr/bin/cp", "out.csv",
        f"stockade audit proof -o call.tlog-proof {call.call_id}", "owner (unix, uid 0",
    ):  # fmt: skip
        assert what in text, what
    assert entered.browser.driver.find_elements(By.CSS_SELECTOR, "svg.phases rect")
    entered.show(f"/calls/{call.call_id}/output", "output")
    rows = [line.split("\t") for line in entered.browser.text("table.output tbody").splitlines()]
    assert [row[1] for row in rows if len(row) > 1][:2] == ["stdout", "stderr"]
    assert "hello" in entered.browser.text()
    assert "oops" in entered.browser.text()
    entered.show("/denials", "denials")
    assert "base" in entered.browser.text("tbody th")
    entered.show("/sinks", "sinks")
    assert "no sinks" in entered.browser.text()
    entered.show("/calls?agent=writer&denied=unshare", "calls")
    assert call.call_id in entered.browser.text("#calls")
    entered.show("/calls?agent=nobody")
    assert "No calls like that." in entered.browser.text()
    entered.quiet()


def test_nothing_of_a_sandbox_is_more_than_text(entered: Console) -> None:
    """As output, arguments, file names, agent and session of a real call."""
    client = entered.daemon.client
    texts = [*CORPUS, *CONTROLS, LONG]
    call = client.run(["python3", "-c", TELL, *texts], profile="python", outputs=["*"])
    entered.show(f"/calls/{call.call_id}", "hostile-call")
    entered.quiet()
    shown = entered.browser.content()
    missing = [n for n, text in enumerate(TAGS) if f"{n:03} {text}".replace("/", "|") not in shown]
    assert call.outcome.code == 0, call.stderr  # type: ignore[union-attr]
    assert not [n for n in missing if "'" not in TAGS[n]]
    entered.show(f"/calls/{call.call_id}/output", "hostile-output")
    entered.quiet()
    shown = entered.browser.content("table.output")
    for number, text in enumerate([*CORPUS, *CONTROLS.values(), LONG]):
        assert shown.count(f"{number}: {text}\n") >= 2, text
    assert not [text for text in CONTROLS if text in shown]
    for text in (*TAGS[::9], *CONTROLS):
        client.run(["echo", text], profile="base", agent=text, session=text)
    entered.show("/calls", "hostile-calls")
    entered.quiet()
    shown = entered.browser.content("#calls")
    for text in (*TAGS[::9], *CONTROLS.values()):
        assert text in shown
    entered.show(f"/calls?{urllib.parse.urlencode({'agent': TAGS[0], 'session': PARTS[0]})}")
    entered.quiet()


def test_names_of_hosts_are_text(entered: Console) -> None:
    names = [text for text in (*TAGS, *PARTS) if len(text.encode()) <= 63 and "." not in text]
    call = entered.daemon.client.run(["python3", "-c", LOOK_UP, *names], profile="github")
    assert call.outcome.code == 0, call.stderr  # type: ignore[union-attr]
    assert call.denials
    entered.show(f"/calls/{call.call_id}", "hostile-hosts")
    entered.quiet()
    told = entered.browser.content()
    assert "onload=" in told.partition("Denied")[2]


def test_a_live_call_is_text_as_well(entered: Console) -> None:
    entered.show("/")
    with entered.daemon.client.execute(
        ["sh", "-c", "read x", *FIRING], profile="base", agent=TAGS[11], stdin_open=True
    ) as execution:
        entered.browser.wait(lambda _: execution.call_id in entered.browser.text("#live"))
        assert TAGS[11] in entered.browser.content("#live")
        assert FIRING[0] in entered.browser.content("#live")
        entered.quiet()
        execution.close_stdin()
        execution.wait()


def test_the_same_texts_fire_in_a_page_that_escapes_nothing(entered: Console) -> None:
    """And are held by the policy alone in one that has it."""
    page = ("<!doctype html><body>" + "".join(f"<p>{text}</p>" for text in FIRING)).encode()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if "held" in self.path:
                self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            return

    def count(what: str) -> int:
        return int(entered.browser.run(f"return window.{what}.length"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        entered.browser.get(f"{base}/fires")
        entered.browser.wait(lambda _: count("hits") == len(FIRING))
        entered.browser.get(f"{base}/held")
        entered.browser.wait(lambda _: count("violations") >= len(FIRING))
        assert entered.browser.run("return window.hits") == []
        server.shutdown()
    entered.browser.problems()


def test_ten_megabytes_are_shown_in_parts(entered: Console) -> None:
    call = entered.daemon.client.run(["python3", "-c", WRITE], profile="python")
    entered.show(f"/calls/{call.call_id}/output", "large")
    browser = entered.browser
    assert len(browser.content("table.output")) < 2 * 65536
    assert "000000000" in browser.text("table.output")
    last = -(-OUTPUT_BYTES // 65536)
    browser.click("a[rel=next]")
    browser.wait(lambda _: f"Part 2 of about {last}" in browser.text(".paging"))
    browser.driver.find_element(By.ID, "part").send_keys(str(last))
    browser.click("form:has(#part) button")
    browser.wait(lambda _: f"Part {last} of" in browser.text(".paging"))
    assert f"{OUTPUT_BYTES // 10 - 1:09d}" in browser.text("table.output")
    assert not browser.driver.find_elements(By.CSS_SELECTOR, "a[rel=next]")
    path = f"/calls/{call.call_id}/download/stdout"
    status, text, _ = ask(entered.port, path, Cookie=f"stockade_console={entered.secret()}")
    assert (status, len(text)) == (200, OUTPUT_BYTES)
    entered.quiet()


def test_nobody_else_sees_anything(entered: Console, tmp_path: Path) -> None:
    client: Supervisor = entered.daemon.client
    call = client.run(["echo", "secret"], profile="base", agent="owners")
    paths = ("/", "/calls", f"/calls/{call.call_id}", f"/calls/{call.call_id}/output")
    # Another user's browser, with the owner's very cookie.
    for path in paths:
        done = curl(entered, path, "-b", f"stockade_console={entered.secret()}")
        assert "owners" not in done
        assert done.endswith("401")
    # Another caller, in its own session: it may see its own calls, and read no record.
    done_ = run_as(entered.daemon, NOBODY, "console")
    token = done_.stdout.decode().strip().partition("#")[2]
    # A link for another user's browser does not open in this one.
    status, _, _ = ask(entered.port, "/enter", "POST", f"token={token}", Origin=entered.base)
    assert status == 401
    jar = str(tmp_path.parent / "jar")
    origin = f"Origin: {entered.base}"
    assert curl(entered, "/enter", "-c", "-", "-d", f"token={token}", "-H", origin, jar=jar)
    assert curl(entered, "/", jar=jar).endswith("200")
    assert "owners" not in curl(entered, "/", jar=jar)
    assert curl(entered, "/calls", jar=jar).endswith("403")
    assert curl(entered, f"/calls/{call.call_id}", jar=jar).endswith("403")
    assert curl(entered, "/", "-H", "Host: evil.example.com", jar=jar).endswith("421")


def curl(entered: Console, path: str, *options: str, jar: str = "") -> str:
    """Ask as nobody; give the page, with the status behind it. The session is kept in `jar`."""
    command = [*become(NOBODY), "curl", "-s", "-w", "%{http_code}", *options]
    if jar and "-c" in command:
        command[command.index("-c") + 1] = "-"
    elif jar:
        command += ["-b", f"stockade_console={Path(jar).read_text()}"]
    done = subprocess.run(
        [*command, entered.base + path], check=True, capture_output=True, text=True, timeout=30
    )
    if jar and "-c" in command:
        (line,) = [one for one in done.stdout.splitlines() if "stockade_console" in one]
        Path(jar).write_text(line.split("\t")[-1])
    return done.stdout


def test_a_session_that_was_left_is_none(entered: Console) -> None:
    cookie = f"stockade_console={entered.secret()}"
    assert ask(entered.port, "/", Cookie=cookie)[0] == 200
    entered.show("/")
    entered.browser.click(".who button")
    entered.browser.wait(lambda driver: driver.current_url == f"{entered.base}/enter")
    assert ask(entered.port, "/", Cookie=cookie)[0] == 401
    entered.show("/calls", "enter")
    assert "stockade console" in entered.browser.text()
    entered.enter()


def test_a_link_is_good_once_and_leaves_the_address(entered: Console) -> None:
    link = entered.link()
    entered.browser.get("about:blank")
    entered.browser.get(link)
    entered.browser.wait(lambda driver: driver.current_url == f"{entered.base}/")
    entered.browser.get("about:blank")
    entered.browser.get(link)
    entered.browser.wait(lambda _: "no such session" in entered.browser.text())
    assert "#" not in str(entered.browser.driver.current_url)
    entered.browser.problems()


def test_pages_work_without_scripts(entered: Console) -> None:
    driver = entered.browser.driver
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        token = entered.link().partition("#")[2]
        entered.show("/enter")
        driver.find_element(By.ID, "token").send_keys(token)
        entered.browser.click("#enter button")
        entered.browser.wait(lambda driver: driver.current_url == f"{entered.base}/")
        assert driver.find_element(By.CSS_SELECTOR, "h1").text.startswith("Live calls")
        assert 'http-equiv="refresh"' in driver.page_source
        entered.browser.click('nav a[href="/calls"]')
        assert driver.find_element(By.ID, "calls")
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_in_the_dark(entered: Console) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    entered.browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        call = next(entered.daemon.client.records(limit=1, outcome="not_ok"))
        entered.show(f"/calls/{call.call_id}", "dark")
        ground = entered.browser.run("return getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(15, 19, 24)"
    finally:
        entered.browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_calls_go_on_whatever_a_browser_does(entered: Console) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(2 * CONNECTIONS_MAX):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", entered.port)))
            with contextlib.suppress(OSError):  # there is no place for all
                held.send(b"GET / HTTP/1.1\r\nHost: " + b"x" * number)
        assert entered.daemon.client.run(["echo", "on"], profile="base").stdout == b"on\n"
    entered.browser.wait(lambda _: _answers(entered))


def test_the_process_has_no_rights_and_is_started_again(entered: Console) -> None:
    (pid,) = processes(entered.daemon)
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{console.UID}\t{console.UID}\t{console.UID}\t{console.UID}\n" in status
    assert "NoNewPrivs:\t1\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    ours, its = (Path(f"/proc/{one}/ns/net").readlink() for one in (entered.daemon.pid, pid))
    assert its != ours
    os.kill(pid, signal.SIGKILL)
    assert entered.daemon.client.run(["true"], profile="base").outcome.code == 0  # type: ignore[union-attr]
    entered.browser.wait(lambda _: processes(entered.daemon) not in ([], [pid]))
    entered.show("/")  # in the same session
    assert "Live calls" in entered.browser.text()


def test_what_a_session_reads_is_on_record(entered: Console) -> None:
    entered.show("/calls")
    events = list(entered.daemon.client.events(kind="console_entered"))
    assert {event.body()["body"]["uid"] for event in events} >= {0}  # type: ignore[index,call-overload]
    reads = [event.body()["body"] for event in entered.daemon.client.events(kind="read")]
    transports = {(read["caller"]["name"], read["caller"]["transport"]) for read in reads}  # type: ignore[index,call-overload]
    assert ("owner", "console") in transports


def _answers(entered: Console) -> bool:
    try:
        return ask(entered.port, "/enter")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def processes(daemon: Daemon) -> list[int]:
    """Give the daemon's processes that are the console's."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if f"Uid:\t{console.UID}\t" in Path(f"/proc/{pid}/status").read_text()
    ]


def test_the_process_ends_with_a_daemon_that_is_killed() -> None:
    with running_daemon(config={"console": {"listen": "127.0.0.1:0"}}) as daemon:
        while not (found := processes(daemon)):
            assert daemon.alive
        pidfd = os.pidfd_open(found[0])
        daemon.kill()
        with contextlib.closing(os.fdopen(pidfd, "rb", buffering=0)) as process:
            assert select.select([process], [], [], 10)[0]
        daemon.start()  # takes over what the first has left, and clears it
