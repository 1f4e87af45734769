"""Credentials that nobody has: made of a seed, so that no file of ours holds what looks real."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable

ALNUM = string.ascii_letters + string.digits
URL = ALNUM + "_-"
HEX = "0123456789abcdef"
BASE32 = string.ascii_uppercase + "234567"
BECH = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"

Sample = tuple[str, str]
"""The text around and with the secret, and the secret: what must not be left."""


def literal_secrets(count: int, seed: int = 1001) -> dict[str, bytes]:
    """Make values as people and generators make them, multi-line and odd ones among them."""
    rng = random.Random(seed)
    alphabets = [
        ALNUM,
        URL,
        string.ascii_letters + " '\"\\$`!&<>/?#%+=~",
        string.punctuation + ALNUM,
    ]
    made = {}
    for number in range(count):
        alphabet = alphabets[number % len(alphabets)]
        value = "".join(rng.choice(alphabet) for _ in range(rng.randint(12, 40))).strip()
        value = value.ljust(12, "x")
        if number % 10 == 7:
            value += "\n" + "".join(rng.choice(ALNUM) for _ in range(24))
        if number % 10 == 9:
            value += "äöü€"
        made[f"planted-{number}"] = value.encode()
    return made


def rule_samples(rng: random.Random) -> dict[str, Sample]:
    """Make one sample for each rule that looks at text."""

    def some(alphabet: str, length: int) -> str:
        return "".join(rng.choice(alphabet) for _ in range(length))

    def whole(prefix: str, alphabet: str, length: int, end: str = "") -> Sample:
        text = prefix + some(alphabet, length) + end
        return text, text

    def inside(before: str, secret: str, after: str = "") -> Sample:
        return before + secret + after, secret

    password = some(ALNUM, 9) + "7aZ"
    tail = some(ALNUM, 24)
    return {
        "aws-access-key": whole("AKIA", BASE32, 16),
        "aws-secret-key": inside("aws_secret_access_key = ", some(ALNUM + "/+", 39) + "k"),
        "google-api-key": whole("AIza", URL, 35),
        "google-oauth-token": whole("ya29.", URL, 120),
        "google-client-secret": whole("GOCSPX-", URL, 28),
        "azure-storage-key": inside("AccountKey=", some(ALNUM + "/+", 86) + "=="),
        "azure-sas": inside("?sv=2022&sig=", some(ALNUM, 43) + "%3D", "&se=1"),
        "azure-client-secret": inside(some(ALNUM, 3) + "8", "Q~" + some(ALNUM, 34)),
        "digitalocean-token": whole("dop_v1_", HEX, 64),
        "terraform-token": inside(some(ALNUM, 14), ".atlasv1." + some(URL, 67)),
        "vault-token": whole("hvs.", URL, 90),
        "github-token": whole("ghp_", ALNUM, 36),
        "github-fine-grained-token": whole("github_pat_", ALNUM, 82),
        "gitlab-token": whole("glpat-", URL, 20),
        "bitbucket-password": whole("ATBB", ALNUM, 32),
        "atlassian-token": whole("ATATT3", URL, 180),
        "npm-token": whole("npm_", ALNUM, 36),
        "python-index-token": whole("pypi-AgE", URL, 150),
        "ruby-index-token": whole("rubygems_", HEX, 48),
        "image-hub-token": whole("dckr_pat_", URL, 27),
        "slack-token": whole("xoxb-", string.digits, 12, "-" + some(ALNUM, 24)),
        "slack-app-token": whole("xapp-1-", BASE32, 11, "-" + some(HEX, 64)),
        "slack-webhook": inside("/services/", f"T{some(BASE32, 9)}/B{some(BASE32, 9)}/{tail}"),
        "discord-token": whole("M", ALNUM, 23, f".{some(ALNUM, 6)}.{some(ALNUM, 38)}"),
        "discord-webhook": inside(f"/api/webhooks/{some(string.digits, 18)}/", some(ALNUM, 68)),
        "telegram-token": whole("", "123456789", 9, ":AA" + some(ALNUM, 33)),
        "sendgrid-key": whole("SG.", URL, 22, "." + some(ALNUM, 43)),
        "mailgun-key": whole("key-", HEX, 32),
        "twilio-key": whole("SK", HEX, 32),
        "stripe-key": whole("sk_live_", ALNUM, 24),
        "webhook-secret": whole("whsec_", ALNUM, 32),
        "square-token": whole("sq0csp-", URL, 43),
        "braintree-token": whole("access_token$production$", HEX, 16, "$" + some(HEX, 32)),
        "shopify-token": whole("shpat_", HEX, 32),
        "anthropic-key": whole("sk-ant-api03-", URL, 93),
        "openai-key": whole("sk-proj-", URL, 120),
        "model-hub-token": whole("hf_", string.ascii_letters, 34),
        "age-key": whole("AGE-SECRET-KEY-1", BECH, 58),
        "password-hash": whole("$6$", ALNUM, 12, "$" + some(ALNUM + "./", 86)),
        "jwt": jwt(rng), "private-key": private_key(rng),
        "authorization": inside("Authorization: Basic ", some(ALNUM, 30) + "=="),
        "netrc": inside("machine api.github.com login robot password ", password),
        "secret-key": whole("sk-", ALNUM, 46, "1a2"),
        "bearer": inside("-H 'auth: Bearer ", some(ALNUM, 40) + "4711", "'"),
        "url-password": inside("postgres://robot:", password, "@db.example.com/x"),
        "quoted-secret": inside('"client_secret": "', password, '"'),
        "quoted-secret-long": inside('"client_secret": "', some(ALNUM, 240), '"'),
        "header-secret": inside("X-Api-Key: ", password + some(ALNUM, 10)),
        "environment-secret": inside("DB_PASSWORD=", some(string.ascii_lowercase, 9) + "ab", "\n"),
        "assigned-secret": inside("password: ", password),
        "iban": inside("to ", "DE89 3704 0044 0532 0130 00"),
        "us-ssn": inside("of ", "123-45-6789"), "card": inside("by ", "4242 4242 4242 4242"),
        "e-mail": inside("by ", f"{some(string.ascii_lowercase, 8)}@mail.example.com"),
    }  # fmt: skip


def private_key(rng: random.Random, lines: int = 26) -> Sample:
    """Make what looks like a private key in PEM."""
    body = "\n".join(base64.b64encode(rng.randbytes(48)).decode() for _ in range(lines))
    kind = rng.choice(["", "RSA ", "EC ", "OPENSSH "])
    text = f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"
    return text, text


def jwt(rng: random.Random) -> Sample:
    """Make what looks like a signed token."""
    header = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"JWT"}').decode().rstrip("=")
    claims = base64.urlsafe_b64encode(b'{"sub":"' + rng.randbytes(600).hex().encode()).decode()
    signature = base64.urlsafe_b64encode(rng.randbytes(64)).decode().rstrip("=")
    text = f"{header}.{claims.rstrip('=')}.{signature}"
    return text, text


Spelling = Callable[[bytes], bytes]
