"""The weights digest of the live candidate, worked out in a thread while the suites are scored.

Hashing releases the interpreter's lock. Whoever starts one must `stop` it before the buffer is
written again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping

from torch import Tensor

from optim.merge import weights_digest
from workers.engine.layout import Layout

#: pause between two calls of `tick`
TICK_SECONDS = 0.1


class BackgroundDigest:
    """The weights digest, worked out beside the scoring: hashing holds no lock.

    `known` has the SHA-256 of tensors that have not changed since an earlier digest; it gets those
    of the others, each as soon as it is known.
    """

    def __init__(
        self, layout: Layout, stored: Tensor, known: MutableMapping[str, str], *, threads: int = 1
    ) -> None:
        self._stopped, self._found = threading.Event(), ""
        self._error: Exception | None = None

        def work() -> None:
            try:
                views = layout.views(stored)
                self._found = weights_digest(
                    views, stop=self._stopped.is_set, known=known, threads=threads
                )
            except InterruptedError:
                pass
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="digest", daemon=True)
        self._thread.start()

    def result(self, tick: Callable[[], None]) -> str:
        """The digest, once it is known; `tick` is called while waiting."""
        while self._thread.is_alive():
            tick()
            self._thread.join(TICK_SECONDS)
        if self._error is not None:
            raise self._error
        return self._found

    def stop(self) -> None:
        """Return only when the buffer is no longer read."""
        self._stopped.set()
        self._thread.join()
