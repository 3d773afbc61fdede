"""The next container of the package that was run last, started in advance: a job that comes finds it ready.

Each container still has one job, and folders, log and limits of its own; only its start is paid before. Whatever is
wrong with one that waits, it is thrown away, and the job starts a container as if there had been none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType

import psutil

from isocenter.maps.cgroup import memory_left
from isocenter.maps.memory_watch import memory_of_tree
from isocenter.maps.package import Package
from isocenter.maps.sandbox import Folders, Report, Wish, limits_of, run_package, standby_engine
from isocenter.maps.standby import Standby
from isocenter.maps.unpacked import in_use, unpacked
from isocenter.settings import Settings
from isocenter.surprise import where
from isocenter.worker.run_folder import run_folder, store_of
from isocenter_operators.errors import Cancelled, IsocenterError

__all__ = ["Spare", "Spares"]

log = logging.getLogger("isocenter.worker")

_LOOK_S = 0.1
_READY_WITHIN_S = 120.0  # of its start: one that starts is ahead of one that would, unless it hangs
_OF_ATTEMPT = 1 / 20  # so much of the longest attempt a job waits at most; its own run may take nine tenths


class Spare:
    """A container that waits; whoever has taken it uses it as a context, and it is gone after the block."""

    folders: Folders  # once it is ready

    def __init__(self, settings: Settings, package: Package, wish: Wish) -> None:
        self._settings, self._package, self._wish = settings, package, wish
        self._memory = limits_of(package, wish).memory
        self._standby = Standby(settings.maps.warm_s, self._has_room)
        self._held = ExitStack()
        self._root: tuple[int, ...] = ()
        self._report: Report | None = None
        self._unwanted = threading.Event()
        self._over = threading.Event()
        self._started = time.monotonic()
        # This one's for as long as the container lives, which ends with the thread that has started it.
        self._thread = threading.Thread(target=self._work, name="spare", daemon=True)
        self._thread.start()

    @property
    def waits(self) -> bool:
        return self._standby.state in ("starting", "ready")

    def is_of(self, package: Package, wish: Wish) -> bool:
        return (package.digest, wish) == (self._package.digest, self._wish)

    def ready(self, checkpoint: Callable[[], None] | None) -> bool:
        """Claim it, and wait until it is ready. False where it is not, or its package's files are others by now."""
        if not self._standby.claim():
            return False
        state, longest_s = self._standby.state, _OF_ATTEMPT * self._settings.worker.longest_attempt_s
        give_up = min(self._started + _READY_WITHIN_S, time.monotonic() + longest_s)
        while state == "starting" and time.monotonic() < give_up:
            state = self._standby.wait(state, _LOOK_S)
            if checkpoint is not None:
                checkpoint()
        if state != "ready" or any(self.folders.write.iterdir()):
            return False
        package = unpacked(self._package, self.folders.cache)
        return _identity(package) == self._root

    def run(self, checkpoint: Callable[[], None] | None) -> Report | None:
        """Let it begin, and wait for its end. None where it did not end by itself. checkpoint: as of `Command`."""
        if not self._standby.begin():
            return None
        while not self._over.wait(_LOOK_S):
            if checkpoint is not None:
                checkpoint()
        return self._report

    def close(self) -> None:
        """End it, and remove its folders."""
        self._unwanted.set()
        self._standby.end()
        self._thread.join()
        self._held.close()

    def __enter__(self) -> Folders:
        return self.folders

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        name = self._package.digest
        try:
            self._report = self._waited()
        except Cancelled:
            pass  # by whoever had taken it, and knows
        except (IsocenterError, OSError) as error:
            log.warning("no container of %s could be started in advance: %s", name, error)
        except Exception as error:  # noqa: BLE001 - told: a job needs none of this
            log.warning(
                "no container of %s could be started in advance: an unexpected %s", name, where(error)
            )
        finally:
            if self._standby.end():  # nobody has taken it, and nobody can any more
                self._held.close()
            self._over.set()

    def _waited(self) -> Report | None:
        """How the run in it went; None where there is to be none."""
        engine = standby_engine(self._package, self._wish)
        if engine is None:
            return None
        cache = store_of(self._settings).cache.resolve()
        with in_use(self._package, cache):
            package = unpacked(self._package, cache)
            if _memory_free() < self._memory:
                return None
            self._root = _identity(package)
            self.folders = self._held.enter_context(run_folder(self._settings))
            wish = replace(self._wish, engine=engine)
            return run_package(package, self.folders, wish, checkpoint=self._go_on, standby=self._standby)

    def _has_room(self, process: int) -> bool:
        """Whether there still is as much memory as it may take, with what it holds: others are not to lack it."""
        free = _memory_free()
        return free >= self._memory or free + memory_of_tree(process) >= self._memory

    def _go_on(self) -> None:
        if self._unwanted.is_set():
            raise Cancelled("nobody wants this run any more")


class Spares:
    """At most one for a worker. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changing = threading.Lock()
        self._spare: Spare | None = None
        self._runs = 0

    @contextmanager
    def run(self) -> Iterator[None]:
        """A package is run, for the block: nothing is started in advance meanwhile, which would slow it."""
        with self._changing:
            self._runs += 1
        try:
            yield
        finally:
            with self._changing:
                self._runs -= 1

    def take(self, package: Package, wish: Wish, checkpoint: Callable[[], None] | None) -> Spare | None:
        """The one of this package, which is the caller's then; None where there is none that is of use.

        It is ended where it is of another package, whose job may be a long time coming.
        """
        with self._changing:
            spare, self._spare = self._spare, None
        if spare is None:
            return None
        with ExitStack() as held:
            held.callback(spare.close)
            if spare.is_of(package, wish) and spare.ready(checkpoint):
                held.pop_all()
                return spare
        return None

    def prepare(self, package: Package, wish: Wish) -> None:
        """Start the next one of this package, where it can wait, one is to be kept, and there is memory for it."""
        if self._settings.maps.warm_s == 0:
            return
        with self._changing:
            if self._runs == 0 and (self._spare is None or not self._spare.waits):
                try:
                    self._spare = Spare(self._settings, package, wish)
                except (
                    RuntimeError
                ) as error:  # no more threads: the job that is done is none the worse for it
                    log.warning("no container of %s could be started in advance: %s", package.digest, error)

    def close(self) -> None:
        """End the one that there is."""
        with self._changing:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()


def _identity(package: Package) -> tuple[int, ...]:
    """Of the folder that it is unpacked in, which may have been removed, and another one be there."""
    assert package.unpacked is not None
    found = package.unpacked.folder.stat()
    return (found.st_dev, found.st_ino, found.st_ctime_ns)


def _memory_free() -> int:
    """Bytes that the machine, and the container that this worker may be in, have to spare."""
    free: int = psutil.virtual_memory().available
    left = memory_left()
    return free if left is None else min(free, left)
