"""Files that are whole or not there at all, and what to say when one cannot be written. Torch-free."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lora_core.errors import UserError

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_FULL_ON_WINDOWS = 112


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, there already, that takes its place at the end; on an error it disappears.

    It may be read by whom other new files may be read by: a web UI may run as somebody else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(usual_mode)  # some libraries make files that only their owner may read
        to_disk(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    to_disk(path.parent)


def replacing_together(writers: Mapping[Path, Callable[[Path], None]]) -> None:
    """Write several files of which afterwards all are there, or none: on an error those that were there before stay.

    Each writer fills a temporary file beside its path.
    """
    temporaries = {path: path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in writers}
    try:
        for path, write in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporaries[path])
            to_disk(temporaries[path])
        _put_in_place(temporaries)
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    for folder in {path.parent for path in writers}:
        to_disk(folder)


def _put_in_place(temporaries: Mapping[Path, Path]) -> None:
    """Rename all; when one can't be, put back what had been renamed before it."""
    before: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path, temporary in temporaries.items():
            if path.exists():
                aside = path.with_name(f"{path.name}.{os.getpid()}.old")
                path.replace(aside)
                before[path] = aside
            temporary.replace(path)
            placed.append(path)
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        for path, aside in before.items():
            aside.replace(path)
        raise
    for aside in before.values():
        with contextlib.suppress(OSError):
            aside.unlink()


def to_disk(path: Path) -> None:
    """Waits until the file, or a folder's list of names, is on the disk. Windows has no such wait for folders."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def write_error(error: Exception, path: Path, needed: int) -> UserError:
    """What to tell the person: the disk is full, or the reason the system gives. ``needed`` is in bytes.

    The safetensors library reports the system's error as text ("No space left on device (os error 28)").
    """
    code = getattr(error, "errno", None)
    named = re.search(r"os error (\d+)\)", str(error))
    if code in _FULL or (named and int(named[1]) in (*_FULL, _FULL_ON_WINDOWS)):
        return UserError("file.disk_full", path=path, needed=_mb(needed), free=_mb(free_space(path.parent)))
    return UserError("file.cannot_write", path=path, reason=getattr(error, "strerror", None) or str(error))


def free_space(folder: Path) -> int:
    """Bytes free where a folder is, or will be made."""
    return next((shutil.disk_usage(p).free for p in (folder, *folder.absolute().parents) if p.exists()), 0)


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
