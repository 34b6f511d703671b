"""The output file: appended to a whole line at a time, and taken up again where an earlier run left it.

A run that was killed leaves at most one line in part, the last, which is cut off: its request counts as not
done. One process at a time may write a file; it is locked.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from quire.errors import ConfigError
from quire_server.batch.lines import read_result


class Output:
    """An output file, open for appending. Use it as a context manager.

    Attributes:
        done: what the file settles already, and whether it failed (see `Done`).

    Raises:
        ConfigError: the file cannot be written, another process writes it, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done: dict[str | int, bool] = {}
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"The output {path} cannot be written: {error.strerror}.") from None
        try:
            self._lock()
            self._take_up()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def write(self, line: bytes) -> None:
        """Append a line, its newline included. An error leaves the file as it was.

        Raises:
            ConfigError: there is no room.
        """
        assert line.endswith(b"\n")
        before = os.fstat(self._file).st_size
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise ConfigError(f"The output {self._path} cannot be written: {error.strerror}.") from None

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise ConfigError(f"The output {self._path} is not a file: a batch needs one it can go on with.")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another process is writing {self._path}: wait for it, or stop it.") from None

    def _take_up(self) -> None:
        """Read what is there; cut off a last line that was written in part."""
        end = 0
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                done = read_result(line)
                if done is None and line.endswith(b"\n"):
                    raise ConfigError(
                        f"Line {number} of {self._path} is not a batch's result: "
                        "give another --output, or move the file away."
                    )
                if not line.endswith(b"\n"):
                    break
                assert done is not None
                self.done[done.key] = done.failed
                end += len(line)
        os.ftruncate(self._file, end)
