"""Hashes of passwords and tokens, by the standard library alone."""

import base64
import functools
import hashlib
import hmac
import secrets

#: scrypt with these takes 32 MiB and about 0.1 s.
N, R, P = 2**15, 8, 1
_MEMORY = 64 * 1024 * 1024


def hash_password(password: str) -> str:
    """The hash that stands in the settings."""
    salt = secrets.token_bytes(16)
    return f"scrypt${N}${R}${P}${_text(salt)}${_text(_scrypt(password, salt, N, R, P))}"


def fits(password: str, hashed: str) -> bool:
    """Whether it is the password of the hash."""
    try:
        _, n, r, p, salt, expected = hashed.split("$")
        found = _scrypt(password, base64.b64decode(salt), int(n), int(r), int(p))
        return hmac.compare_digest(found, base64.b64decode(expected))
    except ValueError:  # parameters that this machine's scrypt does not take
        return False


@functools.cache
def nobodys_hash() -> str:
    """A hash that no password fits, so that an unknown name takes as long as a known one."""
    return hash_password(secrets.token_urlsafe())


def new_token() -> tuple[str, str]:
    """A token for a program, and the hash that stands in the settings."""
    token = f"boilerd_{secrets.token_urlsafe(32)}"
    return token, hash_token(token)


def hash_token(token: str) -> str:
    """Its hash; a token is random enough to need no slow one."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    raw = password.encode("utf-8", "surrogateescape")
    return hashlib.scrypt(raw, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
