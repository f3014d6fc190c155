"""Who sees which release: units hashed into buckets, so that a raised weight only adds to those who see the new one."""

import hashlib

BUCKETS = 10_000


def bucket(salt: str, unit: str) -> int:
    """0 … 9,999, the same in every process; another salt deals all units anew.

    A release of weight w (in buckets) has the buckets below w: raising w takes nobody away from it.
    """
    data = f"{salt}\0{unit}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % BUCKETS


def buckets(percent: float) -> int:
    """A weight in percent as buckets."""
    return round(percent / 100 * BUCKETS)


def unit(session: str, user: str, request_id: str) -> str:
    """What stickiness hangs on: the session, else the user, else nothing, and each request is dealt on its own.

    An API key or an address would not do: the many users of one application share them, and would all move at once.
    """
    return f"session:{session}" if session else f"user:{user}" if user else request_id
