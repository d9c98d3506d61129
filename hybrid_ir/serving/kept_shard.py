"""A shard that is open while its files may be truncated, overwritten or removed under it.

In: an index, its manifest and the number of a shard. Out: the shard, or `ShardDown` with what is wrong with its files.

A shard's files are mapped into memory. Of one that is truncated, the bytes behind its new end read as zeros up to the
end of a page, which would be wrong scores, and what lies behind that page ends the process. So before each use the
files are looked at, which costs a microsecond each. What has changed is not used: it is opened again, with all checks,
and so comes back by itself when it is mended. A file that is removed stays readable to who has it open.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from hybrid_ir.index import Manifest, NearestLists, Shard, check_files, local_files, open_shard
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.types import InputError

log = logging.getLogger("ray.serve")
REOPEN_S = 5
"""A shard that cannot be opened is tried again after so long: to look at all of its files takes time."""


class KeptShard:
    """Opened, watched, and opened again. Thread-safe."""

    def __init__(
        self,
        index: str,
        manifest: Manifest,
        number: int,
        *,
        may_be_down: bool = False,
        nearest: NearestLists | None = None,
    ) -> None:
        """`nearest` is that of this index' other shards in this process.

        Raises InputError for files that are missing or damaged, unless it `may_be_down` to begin with.
        """
        self._index, self._manifest, self._number = index, manifest, number
        self._nearest = nearest or NearestLists()
        self._lock = threading.Lock()
        self._shard: Shard | None = None
        self._files: dict[int, os.stat_result] = {}
        self._tried = time.monotonic()
        self._why = ""
        try:
            self._open()
        except InputError as error:
            if not may_be_down:
                raise
            self._lose(str(error))

    @property
    def down(self) -> bool:
        """Whether it cannot be used as it is."""
        with self._lock:
            return self._shard is None or self._changed()

    def get(self, *, reopen: bool = True) -> Shard:
        """The shard, whose files are as they were when they were checked. Raises ShardDown.

        To open it again takes as long as to read all of its files; with `reopen` false that is left to another call.
        """
        with self._lock:
            if self._shard is not None:
                if not self._changed():
                    return self._shard
                self._lose("its files have changed since they were opened")
                self._tried = float("-inf")
            again = reopen and time.monotonic() - self._tried >= REOPEN_S
            if again:
                self._tried = time.monotonic()
        if again:
            try:
                self._open()
            except InputError as error:
                with self._lock:
                    self._lose(str(error))
        with self._lock:
            if self._shard is None:
                raise ShardDown(self._why)
            return self._shard

    def close(self) -> None:
        """Let go of the files. Who still searches keeps what is mapped."""
        with self._lock:
            self._lose("it is closed")
            self._tried = float("inf")

    def _open(self) -> None:
        entry = self._manifest.shards[self._number]
        folder = local_files(self._index, entry.files)
        files: dict[int, os.stat_result] = {}
        try:
            # Before the shard is opened: what changes in between is seen too.
            for name in entry.files:
                file = os.open(folder / name, os.O_RDONLY)
                files[file] = os.fstat(file)
            shard = open_shard(self._index, self._manifest, self._number, nearest=self._nearest)
        except BaseException as error:
            for file in files:
                os.close(file)
            if isinstance(error, OSError):
                check_files(self._index, entry.files, checksums=False)  # says it better
                raise InputError(f"{error.filename} cannot be opened ({error.strerror}); put it there again") from error
            raise
        with self._lock:
            self._shard, self._files, self._why = shard, files, ""

    def _changed(self) -> bool:
        return any(
            (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)
            for file, then in self._files.items()
            for now in (os.fstat(file),)
        )

    def _lose(self, why: str) -> None:
        """Whoever calls it holds the lock."""
        if why != self._why:
            log.warning("shard %s of %s is not served: %s", self._manifest.shards[self._number].name, self._index, why)
        self._shard, self._why = None, why
        for file in self._files:
            os.close(file)
        self._files = {}
