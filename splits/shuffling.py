"""Our own shuffling, so that a split does not depend on a library's random numbers or version."""

import hashlib


def shuffle_key(seed: int, purpose: str, text: str) -> int:
    """A number below 2**64 to sort by: as good as random, yet the same on every machine and for ever.

    >>> sorted("abc", key=lambda text: shuffle_key(0, "example", text))
    ['c', 'b', 'a']
    """
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
