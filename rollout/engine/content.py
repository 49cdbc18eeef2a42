"""A hash of the content of a model's files: the only thing in which two checkpoints of one shape differ.

Files are read several at a time with BLAKE3, about as fast as the disk gives them, and what was found is kept in the
user's cache folder, so that a checkpoint is read once. A hub model is known by its commit and is not read.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from blake3 import blake3

from rollout.config import ModelConfig
from rollout.engine import models
from rollout.files import user_path

log = logging.getLogger(__name__)

MODEL = "model.content"
TOKENIZER = "model.tokenizer_content"

_NOT_OF_A_MODEL = (
    *(".*", "*.md", "LICENSE*", "NOTICE*", "*.log", "*.png", "*.jpg", "events.out.tfevents.*", "runs"),
    *("optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "training_args.*", "zero_to_fp32.py"),
)
"""Files that trainers and authors leave beside a model: they change no sample."""

_BLOCK = 1 << 20
_AT_A_TIME = 4  # files; one alone is read no faster than one core hashes
_RACY_NS = 2_000_000_000  # a file as new as this may change again without a new time stamp

Report = Callable[[int, int], None]
"""Called with the number of bytes read so far, and the number to read."""


@dataclass(frozen=True)
class Stamp:
    """A file's content cannot change without these. `ctime_ns` tells files apart whose times were set by hand."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of the file itself, if `path` is a link."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


class Stopped(Exception):
    """Raised when nobody waits for the hash any more."""


def content_of(model: ModelConfig, report: Report | None = None, stop: threading.Event | None = None) -> dict[str, str]:
    """What is known of the model (MODEL) and, where it has its own, the tokenizer (TOKENIZER): `blake3:HASH` of a
    folder, `commit:SHA` of a hub model, the name of the embedded one.

    A hub model that is not on this machine yet is missing. Raises Stopped once `stop` is set.
    """
    found = {MODEL: _identity(model.path, model.revision, report, stop)}
    if model.tokenizer is not None:
        found[TOKENIZER] = _identity(model.tokenizer, None, report, stop)
    return {key: value for key, value in found.items() if value is not None}


@contextmanager
def content_beside(model: ModelConfig) -> Iterator[Callable[[], dict[str, str]]]:
    """Begin to hash in threads; the function yielded waits for what `content_of` finds. Stops when the body ends."""
    stop = threading.Event()
    with ThreadPoolExecutor(1, "content") as pool:
        try:
            future = pool.submit(content_of, model, None, stop)
            yield future.result
        finally:
            stop.set()


def stamps(path: str) -> list[tuple[str, Stamp]]:
    """Name and stamp of each file of a model in a local folder; empty for any other model."""
    folder = user_path(path)
    return (
        [(file.name, Stamp.of(file)) for file in files_of(folder)] if models.is_local(path) and folder.is_dir() else []
    )


def folder_content(folder: Path, report: Report | None = None, stop: threading.Event | None = None) -> str:
    """`blake3:HASH` over the names and contents of a model's files in `folder`, wherever it is.

    Raises OSError for a file that cannot be read, and Stopped once `stop` is set.
    """
    files = files_of(folder)
    hashes = _file_hashes(folder, files, report or (lambda _done, _total: None), stop or threading.Event())
    total = blake3()
    for file, text in zip(files, hashes, strict=True):
        total.update(f"{file.name}:{text}\n".encode())
    return f"blake3:{total.hexdigest(length=16)}"


def _identity(path: str, revision: str | None, report: Report | None, stop: threading.Event | None) -> str | None:
    if path.startswith("embedded:"):
        return path
    folder = models.local_folder(path, revision)
    if folder is None:
        return None
    return folder_content(folder, report, stop) if models.is_local(path) else f"commit:{folder.name}"


def files_of(folder: Path) -> list[Path]:
    """The files in `folder` that belong to the model, by name."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in _NOT_OF_A_MODEL)
    ]


def _file_hashes(folder: Path, files: list[Path], report: Report, stop: threading.Event) -> list[str]:
    """The hash of each file, from the cache if its stamp has not changed."""
    cache = _cache_file(folder)
    before, known = _read_cache(cache), dict[str, tuple[Stamp, str]]()
    found = {file.name: Stamp.of(file) for file in files}
    for name, stamp in found.items():
        if (entry := before.get(name)) is not None and entry[0] == stamp:
            known[name] = entry
    unread = [file for file in files if file.name not in known]
    if unread:
        texts = _hash_all(unread, sum(found[file.name].size for file in unread), report, stop)
        newest = time.time_ns() - _RACY_NS
        known |= {file.name: (found[file.name], text) for file, text in zip(unread, texts, strict=True)}
        settled = {name: entry for name, entry in known.items() if max(entry[0].mtime_ns, entry[0].ctime_ns) < newest}
        _write_cache(cache, settled)
    return [known[file.name][1] for file in files]


def _hash_all(files: list[Path], total: int, report: Report, stop: threading.Event) -> list[str]:
    done, lock = 0, threading.Lock()

    def hash_one(path: Path) -> str:
        nonlocal done
        digest, buffer = blake3(), memoryview(bytearray(_BLOCK))
        with path.open("rb", buffering=0) as file:
            while length := file.readinto(buffer):
                if stop.is_set():
                    raise Stopped
                digest.update(buffer[:length])
                with lock:
                    done += length
                    report(done, total)
        return digest.hexdigest(length=16)

    with ThreadPoolExecutor(_AT_A_TIME, "hash") as pool:
        return list(pool.map(hash_one, files))


def _cache_file(folder: Path) -> Path:
    name = blake3(os.fsencode(folder.resolve())).hexdigest(length=16)
    return models.cache_folder() / "content" / f"{name}.json"


def _read_cache(path: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: (Stamp(*map(int, stamp)), str(text)) for name, (stamp, text) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(path: Path, entries: dict[str, tuple[Stamp, str]]) -> None:
    """A cache that cannot be written costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")  # other processes may write it at the same time
        partial.write_text(
            json.dumps({name: [[*vars(stamp).values()], text] for name, (stamp, text) in entries.items()})
        )
        partial.replace(path)
    except OSError as error:
        log.info("%s: %s; the model will be hashed again next time", path, error)
