"""Which slot of the cache holds which tokens, and who may use it: ended sequences leave theirs to later ones."""

from array import array
from collections.abc import Sequence

LEAST = 16  # tokens that two prompts must share to be worth looking at
ITEM = 4  # bytes of a token id


class Slots:
    """All slots are the same; those not in use are given away again, the one unused for longest first.

    A prefix is found by comparing tokens, slot by slot: with some hundred slots that is microseconds, and nothing
    has to be kept in step.
    """

    def __init__(self, count: int) -> None:
        self.held = [bytearray() for _ in range(count)]  # the tokens of which keys and values are there
        self.salts = [""] * count
        self.free = dict.fromkeys(range(count))  # in the order in which they are given away

    def length(self, slot: int) -> int:
        return len(self.held[slot]) // ITEM

    def take(self, tokens: Sequence[int], salt: str) -> tuple[int, int, int]:
        """A slot for a sequence: (slot, shared, source). The keys and values of the first `shared` tokens are those
        of the slot `source`, to be copied where that is another one. At least one token is left to compute."""
        wanted = array("i", tokens[:-1]).tobytes()
        shared, source = max((self._shared(slot, wanted, salt), slot) for slot in range(len(self.held)))
        slot = next(iter(self.free))
        if shared < LEAST:
            shared, source = 0, slot
        elif source in self.free:
            if 2 * shared >= self.length(source):  # little is lost by going on in place
                slot = source
            else:  # used just now
                self.free[source] = self.free.pop(source)
                slot = next(iter(self.free))
        del self.free[slot]
        self.held[slot][:], self.salts[slot] = wanted[: shared * ITEM], salt
        return slot, shared, source

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Those tokens' keys and values are there now."""
        self.held[slot] += array("i", tokens).tobytes()

    def release(self, slot: int, keep: bool = True) -> None:
        if not keep:
            self.held[slot].clear()
        self.free[slot] = None

    def _shared(self, slot: int, wanted: bytes, salt: str) -> int:
        """Tokens that the slot's and `wanted` begin with alike; only whether it is enough matters below LEAST."""
        held, least = self.held[slot], LEAST * ITEM
        if self.salts[slot] != salt or len(wanted) < least or not held.startswith(wanted[:least]):
            return 0
        low, high = LEAST, min(len(held), len(wanted)) // ITEM
        while low < high:  # the longest that is equal
            middle = (low + high + 1) // 2
            if held[: middle * ITEM] == wanted[: middle * ITEM]:
                low = middle
            else:
                high = middle - 1
        return low
