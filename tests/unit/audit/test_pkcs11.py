"""A key in a real token (SoftHSM) signs as a key in a file does, or says why it does not."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.audit import notes
from supervisor.audit.pkcs11 import TokenSigner
from supervisor.audit.rotation import follow, rotate
from supervisor.errors import HostError
from tests.unit.audit.keys import ORIGIN

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN, PIN, KEY = "log-token", "correct-horse", "log-key"
ED25519, ED448, P256 = "1.3.101.112", "1.3.101.113", "1.2.840.10045.3.1.7"
INSTALL = "make setup installs softhsm2 and python-pkcs11"


@pytest.fixture(scope="module")
def p11(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give python-pkcs11, and a token with a key. A process reads SoftHSM's configuration once."""
    pkcs11 = pytest.importorskip("pkcs11", reason=INSTALL)
    if not Path(MODULE).exists():
        pytest.skip(INSTALL)
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(config)
    try:
        subprocess.run(
            [
                "softhsm2-util", "--init-token", "--free", "--label", TOKEN,
                "--pin", PIN, "--so-pin", "so-pin",
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        make(pkcs11, KEY)
        yield pkcs11
    finally:
        pkcs11.unload(MODULE)
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def opened(p11: Any) -> Iterator[Callable[..., TokenSigner]]:
    signers = []

    def opener(label: str = KEY, pin: Callable[[], str] = lambda: PIN) -> TokenSigner:
        signer = TokenSigner(module=MODULE, token=TOKEN, label=label, origin=ORIGIN, pin=pin)
        signers.append(signer)
        return signer

    yield opener
    for signer in signers:
        signer.close()


def make(p11: Any, label: str, *, curve: str = ED25519, private: str = "", **capable: bool) -> None:
    """Make a key pair; `private` is another label for that half."""
    ec = importlib.import_module("pkcs11.util.ec")
    edwards = curve in (ED25519, ED448)
    attribute = p11.Attribute
    with p11.lib(MODULE).get_token(token_label=TOKEN).open(rw=True, user_pin=PIN) as session:
        parameters = session.create_domain_parameters(
            p11.KeyType.EC_EDWARDS if edwards else p11.KeyType.EC,
            {attribute.EC_PARAMS: ec.encode_named_curve_parameters(curve)},
            local=True,
        )
        parameters.generate_keypair(
            mechanism=p11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN if edwards else None,
            store=True,
            public_template={attribute.LABEL: label},
            private_template={
                attribute.LABEL: private or label,
                **{attribute[name]: value for name, value in capable.items()},
            },
        )


def refused(open_: Callable[[], object], reason: str, said: str) -> HostError:
    with pytest.raises(HostError, match=said) as caught:
        open_()
    assert caught.value.reason == reason
    assert PIN not in f"{caught.value.message} {caught.value.hint}"
    return caught.value


def test_it_signs_notes(opened: Callable[..., TokenSigner]) -> None:
    signer = opened()
    assert signer.key == notes.VerifierKey.parse(str(signer.key))
    note = notes.Note.parse(notes.sign(f"{ORIGIN}\n5\n", [signer]).encode())
    assert note.verified([signer.key]) == (signer.key,)
    assert opened().key == signer.key


def test_a_log_is_handed_over_from_one_key_in_a_token_to_another(
    p11: Any, opened: Callable[..., TokenSigner]
) -> None:
    make(p11, "next")
    old, new = opened(), opened("next")
    chain = follow(old.key, [(5, rotate(old, new, 5))])
    assert chain.keys == (old.key, new.key)
    old.close()  # which logs the whole process out
    assert new.sign(b"a") == new.sign(b"a")


def test_a_token_that_was_gone_is_opened_again(
    p11: Any, opened: Callable[..., TokenSigner]
) -> None:
    asked = []

    def pin() -> str:
        asked.append(1)
        return PIN

    signer = opened(pin=pin)
    first = signer.sign(b"a")
    assert len(asked) == 1
    p11.lib(MODULE).reinitialize()
    assert signer.sign(b"a") == first
    assert len(asked) == 2


def test_a_token_that_stays_away(
    p11: Any, opened: Callable[..., TokenSigner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = opened()
    first = signer.sign(b"a")
    empty = tmp_path / "empty.conf"
    (tmp_path / "tokens").mkdir()
    empty.write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    with monkeypatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(empty))
        p11.lib(MODULE).reinitialize()
        refused(lambda: signer.sign(b"a"), "KEY_UNAVAILABLE", TOKEN)
        refused(lambda: signer.sign(b"a"), "KEY_UNAVAILABLE", "NoSuchToken")
    p11.lib(MODULE).reinitialize()
    assert signer.sign(b"a") == first


def test_a_wrong_pin_is_tried_once(p11: Any, opened: Callable[..., TokenSigner]) -> None:
    pins = [PIN]
    signer = opened(pin=lambda: pins[-1])
    p11.lib(MODULE).reinitialize()
    pins.append("wrong")
    refused(lambda: signer.sign(b"a"), "KEY_UNAVAILABLE", "PinIncorrect.*not tried again")
    pins.append(PIN)
    refused(lambda: signer.sign(b"a"), "KEY_UNAVAILABLE", "PinIncorrect.*not tried again")
    refused(lambda: opened(pin=lambda: "wrong"), "KEY_UNAVAILABLE", "PinIncorrect")
    assert opened().sign(b"a")


def test_what_is_not_there(p11: Any, opened: Callable[..., TokenSigner]) -> None:
    def at(token: str = TOKEN, module: str = MODULE) -> TokenSigner:
        return TokenSigner(module=module, token=token, label=KEY, origin=ORIGIN, pin=lambda: PIN)

    refused(lambda: opened("none"), "KEY_INVALID", "no Ed25519 private key")
    refused(lambda: at("none"), "KEY_UNAVAILABLE", "NoSuchToken")
    refused(lambda: at(module="/none.so"), "KEY_UNAVAILABLE", "/none.so")
    assert opened().sign(b"a")


def test_what_is_no_key_of_a_log(p11: Any, opened: Callable[..., TokenSigner]) -> None:
    make(p11, "p256", curve=P256)
    refused(lambda: opened("p256"), "KEY_INVALID", "no Ed25519 private key")
    make(p11, "ed448", curve=ED448)
    refused(lambda: opened("ed448"), "KEY_INVALID", "as no Ed25519 key has")
    make(p11, "twice")
    make(p11, "twice")
    refused(lambda: opened("twice"), "KEY_INVALID", "more than one")
    make(p11, "mute", SIGN=False)
    refused(lambda: opened("mute"), "KEY_INVALID", "may not sign")
    make(p11, "half", private="other-half")
    refused(lambda: opened("half"), "KEY_INVALID", "no Ed25519 private key")


def test_halves_that_do_not_belong_together(p11: Any, opened: Callable[..., TokenSigner]) -> None:
    make(p11, "ours", private="theirs-private")
    make(p11, "theirs", private="ours")
    refused(lambda: opened("ours"), "KEY_INVALID", "not of the public key beside it")


def test_many_threads_sign(opened: Callable[..., TokenSigner]) -> None:
    signers = [opened(), opened()]
    wanted = {bytes([number]): signers[0].sign(bytes([number])) for number in range(50)}
    wrong: list[bytes] = []

    def sign(signer: TokenSigner) -> None:
        wrong.extend(m for m, signature in wanted.items() if signer.sign(m) != signature)

    threads = [threading.Thread(target=sign, args=(signer,)) for signer in signers * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(HostError, match="python-pkcs11") as caught:
        TokenSigner(module=MODULE, token=TOKEN, label=KEY, origin=ORIGIN, pin=lambda: PIN)
    assert caught.value.reason == "PKCS11_MISSING"
    assert "stockade[pkcs11]" in caught.value.hint


def test_the_extra_is_loaded_by_who_needs_it_alone() -> None:
    code = "import sys, supervisor.audit.pkcs11; print('pkcs11' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
