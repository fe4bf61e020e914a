"""Published files on this machine: found where other libraries keep them, or fetched once.

Environment variables:
    CNNJAX_CACHE      where files are kept; ~/.cache/cnnjax/weights by default
    CNNJAX_OFFLINE    1: fetch nothing. HF_HUB_OFFLINE=1 does the same
    CNNJAX_MIRROR     an address that has the same files, for machines without internet
"""

import http.client
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cnnjax.weights.layout import WeightsError
from cnnjax.weights.metadata import Record
from cnnjax.weights.read import digest

HUB = "https://huggingface.co/"
CHUNK = 1 << 20
TIMEOUT = 30  # seconds without an answer
# What a connection ends with. An OSError of any other class is one of the disk.
LOST = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def cache() -> Path:
    """Where fetched files are kept."""
    return Path(os.environ.get("CNNJAX_CACHE") or "~/.cache/cnnjax/weights").expanduser()


def offline() -> bool:
    """Whether nothing may be fetched."""
    values = (os.environ.get(name, "") for name in ("CNNJAX_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() in ("1", "true", "yes", "on") for value in values)


def fetchable(record: Record) -> bool:
    """Whether the file has an address, and not just a page that leads to it."""
    return record.where.endswith(("/", ".tar.gz")) or record.where.startswith(HUB)


def local(record: Record, *, verify: bool = True) -> Path | None:
    """The file, if it is here: in our cache, or where Keras, torch or the hub's library keep it.

    A file in another library's place is used only if its hash is the published one. Without
    `verify` its name is enough, which takes no time.
    """
    home = os.environ
    kept = cache() / place(record)
    if kept.exists():
        return kept
    keras = Path(home.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    torch = Path(home.get("TORCH_HOME") or "~/.cache/torch").expanduser() / "hub" / "checkpoints"
    theirs = {"keras": [keras], "torchvision": [torch], "timm": [torch], "facenet": [torch]}
    for folder in theirs.get(record.source, []):
        path = folder / record.file
        if path.is_file() and record.hash and (not verify or matches(path, record.hash)):
            return path
    if record.where.startswith(HUB) and (found := _in_hub_cache(record)):
        return Path(found)
    return None


def place(record: Record) -> Path:
    """Where our cache has a file: its source, its model and tag, its published name."""
    model = f"{record.model}.{record.tag}" if record.tag else record.model
    return Path(record.source) / model / record.file


def matches(path: Path, hash: str) -> bool:
    """Whether a file has a published hash, "sha256:…", of which some digits may be missing."""
    kind, _, digits = hash.partition(":")
    return digest(path, kind).startswith(digits)


def fetch(record: Record) -> Path:
    """The path of a published file, which is fetched if it is not here yet.

    Raises:
        WeightsError: it cannot be had; the message says why and what to do.
    """
    if path := local(record):
        return path
    what = f"{record.source}'s {record.file}"
    if offline():
        raise WeightsError(
            f"{what} is not on this machine, and CNNJAX_OFFLINE or HF_HUB_OFFLINE forbids to "
            f"fetch it: put it at {cache() / place(record)}"
        )
    mirror = os.environ.get("CNNJAX_MIRROR", "")
    if mirror and "://" not in mirror:
        raise WeightsError(f"CNNJAX_MIRROR={mirror} is no address: it begins with https://")
    if not mirror and not fetchable(record):
        raise WeightsError(f"{what} has no address: download it from {record.where} and name it")
    path = cache() / place(record)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(path.name + ".lock")):
            if path.exists():  # another process has fetched it meanwhile
                return path
            if record.where.startswith(HUB) and not mirror:
                return _from_hub(record, what)
            address = address_of(record, mirror)
            partial = path.with_name(address.rpartition("/")[2] + ".partial")
            _download(address, partial, path, what)
            _verify(partial, record, what)
            if address.endswith(".tar.gz"):
                _unpack(partial, path, what)
            else:
                partial.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{what} cannot be kept in {path.parent}: {reason}") from error
    return path


def address_of(record: Record, mirror: str = "") -> str:
    """The URL of a file, or of the archive that holds it.

    A mirror has plain files and archives by their published names, and a file of the hub in a
    folder with the name of its repository.
    """
    archive = record.where.endswith(".tar.gz")
    if not mirror:
        return record.where if archive else record.where + record.file
    folder = record.where.rpartition("/")[2] + "/" if record.where.startswith(HUB) else ""
    file = record.where.rpartition("/")[2] if archive else record.file
    return f"{mirror.rstrip('/')}/{folder}{file}"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock, so that of several processes one fetches and the others wait."""
    try:
        from filelock import FileLock
    except ImportError as error:
        raise _needs("filelock") from error
    with FileLock(path):
        yield


def _needs(library: str) -> WeightsError:
    return WeightsError(f"fetching weights needs {library}: pip install 'cnnjax[weights]'")


def _download(address: str, partial: Path, path: Path, what: str) -> None:
    """Fetches `partial`, or the rest of it where an earlier download was interrupted."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if answer.status != 206:  # the server sends all of it
                have = 0
            length = answer.headers.get("Content-Length")
            size = have + int(length) if length else None
            _require_space(partial, size and size - have, what)
            with open(partial, "ab" if have else "wb") as file, _bar(what, size, have) as bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            return
        if error.code == 404:
            raise WeightsError(f"{what} was not found at {address}") from error
        raise WeightsError(f"{what}: {address} answered {error.code} {error.reason}") from error
    except LOST as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"{what} cannot be fetched from {address} ({reason}): without a network, put it at "
            f"{path}"
        ) from error
    got = partial.stat().st_size
    if size is not None and got < size:
        raise WeightsError(
            f"{what} was interrupted after {got:,} of {size:,} bytes: the next call continues"
        )


def _require_space(partial: Path, size: int | None, what: str) -> None:
    free = shutil.disk_usage(partial.parent).free
    if size and size > free:
        raise WeightsError(
            f"{what} needs {size:,} bytes, and {partial.parent} has {free:,}: "
            "CNNJAX_CACHE names another folder"
        )


def _bar(what: str, size: int | None, have: int) -> Any:
    """A progress bar on a terminal; plain files get none."""
    from tqdm.auto import tqdm

    quiet = None if sys.stderr.isatty() or "ipykernel" in sys.modules else True
    options: dict[str, Any] = dict(unit="B", unit_scale=True, unit_divisor=1024, disable=quiet)
    return tqdm(desc=what, total=size, initial=have, **options)


def _verify(partial: Path, record: Record, what: str) -> None:
    if record.hash and not matches(partial, record.hash):
        kind = record.hash.partition(":")[0]
        found = digest(partial, kind)
        partial.unlink()
        raise WeightsError(
            f"{what} has the wrong hash ({kind} {found[:16]}…, published {record.hash}) and was "
            "removed"
        )


def _unpack(archive: Path, path: Path, what: str) -> None:
    """Takes the one file that is wanted out of an archive, then removes the archive."""
    part = path.with_name(path.name + ".unpacking")
    try:
        with tarfile.open(archive) as members:
            found = [member for member in members if Path(member.name).name == path.name]
            file = members.extractfile(found[0]) if found else None
            if file is None:
                raise WeightsError(f"{what} is not in the archive {archive.name}")
            with file, open(part, "wb") as out:
                shutil.copyfileobj(file, out, CHUNK)
    except (tarfile.TarError, EOFError) as error:
        archive.unlink()
        raise WeightsError(f"the archive of {what} is damaged and was removed") from error
    part.replace(path)
    archive.unlink()


def _repository(record: Record) -> str:
    return record.where.removeprefix(HUB)


def _in_hub_cache(record: Record) -> str | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(_repository(record), record.file)
    return found if isinstance(found, str) else None


def _from_hub(record: Record, what: str) -> Path:
    """By the hub's own library, which resumes, verifies and keeps the file in its own cache."""
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise _needs("huggingface_hub") from error
    try:
        return Path(hf_hub_download(_repository(record), record.file))
    except errors.LocalEntryNotFoundError as error:  # which is also an EntryNotFoundError
        response = getattr(error.__cause__, "response", None)
        why = "which does not answer: without a network, put"
        if response is not None:
            why = f"which answers {response.status_code}: try again later, or put"
        raise WeightsError(
            f"{what} cannot be fetched from {record.where}, {why} it at {cache() / place(record)}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError) as error:
        raise WeightsError(f"{what} was not found at {record.where}") from error
    except Exception as error:  # several libraries' own classes
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise WeightsError(f"{what} cannot be fetched from {record.where} ({reason})") from error
