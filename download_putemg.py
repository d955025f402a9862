"""Download putEMG recordings from the public share, or from a mirror, and verify them.

Input:  the network; nothing else.
Output: OUTDIR/Data-HDF5/RECORD.hdf5 and, for other media, OUTDIR/Data-CSV, Depth, Video-1080p, Video-576p.
        OUTDIR/.verified.json records which files were verified, so that another run is quick.

  python download_putemg.py data/raw --dry-run             # what would be fetched, files and bytes
  python download_putemg.py data/raw                       # all 264 gesture recordings, about 11 GB
  python download_putemg.py data/raw --subjects 03 04      # two people only, about 0.5 GB
  python download_putemg.py data/raw --verify-only         # fetch nothing, check every byte again
  python download_putemg.py data/raw --media data-csv --unpack --remove

A file gets its final name only after three checks: its length, its MD5 (if the share publishes an MD5SUMS file that
lists it; the run says where it does not) and its internal structure. After a stop or a kill, the same command continues
where it was. A file that cannot be downloaded is reported and the others are still fetched. The exit code is 1 as long
as anything is missing.

The share can be reached at two built-in addresses, which are tried in order. --base-url names a mirror instead: a
folder on a web server that contains records.txt and Data-HDF5/RECORD.hdf5. The layout of the HDF5 files is known. The
file names of the other media (RECORD.zip in Data-CSV and Depth, RECORD.mp4 in the Video folders) are second-hand, so if
the share lists its folders, the names listed there are used. A zip archive is unpacked into a folder of the same name.
--timeout is how long a transfer may stall, or stay below 1 KiB/s, before it is tried again.

putEMG: Kaczmarek, Mankowski, Tomczynski, Sensors 2019, 19(16):3548; licence CC BY-NC 4.0.
Time: as long as your connection needs for 11 GB (15 minutes at 100 Mbit/s); a second run takes seconds.
"""

import semg.common.interrupts  # noqa: F401  first: what follows takes seconds

import argparse
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.common.files import folder_lock, temporary_name
from semg.data.putemg import EXPERIMENTS
from semg.download.putemg_share import MEDIA, Medium, Wanted, names_of, of_subjects, read_md5sums, read_records
from semg.download.webdav import Listed

if TYPE_CHECKING:  # modules with HTTP and HDF5 are imported where they are needed: --help must not wait for them
    from semg.download.http_client import Client
    from semg.download.verification import Memory

T = TypeVar("T")

SHARE = "https://chmura.put.poznan.pl"
TOKEN = "45NY5snj0U4tgQz"  # noqa: S105  part of the public share's address, not a secret


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    p = cli.parser(__doc__)
    p.add_argument("outdir", nargs="?", type=Path, default=Path("data/raw"), metavar="OUTDIR", help="folder to write")
    cli.of_others(p, "--out", "OUTDIR, without a flag")
    what = p.add_argument_group("what to fetch")
    what.add_argument("--experiment", nargs="+", choices=EXPERIMENTS, help="kinds of recordings; default: emg_gestures")
    what.add_argument("--media", nargs="+", choices=tuple(MEDIA), help="kinds of files; default: data-hdf5")
    what.add_argument("--subjects", nargs="+", type=cli.subjects, metavar="NN", help="people; default: all")
    what.add_argument(
        "--base-url", type=web_address, metavar="URL", help="root address of a mirror, instead of the share"
    )
    how = p.add_argument_group("how")
    how.add_argument("--jobs", type=cli.whole(1, 32), default=4, help="files to fetch at once")
    cli.of_others(how, "--workers", "--jobs")
    how.add_argument("--retries", type=cli.whole(0, 100), default=5, help="how often a failed transfer is tried again")
    how.add_argument(
        "--retry-wait",
        type=cli.number(0, 120),
        default=1.0,
        metavar="SECONDS",
        help="wait before the first new attempt; doubled for each further one, unless the server sets a time",
    )
    how.add_argument(
        "--timeout",
        type=cli.number(0, 3600, above=True),
        default=60.0,
        metavar="SECONDS",
        help="try again after a stall this long, see above",
    )
    how.add_argument("--dry-run", action="store_true", help="list what would be fetched, write nothing")
    how.add_argument("--verify-only", action="store_true", help="read and check all files again, fetch none")
    how.add_argument("--unpack", action="store_true", help="unpack zip archives (data-csv, depth)")
    how.add_argument("--remove", action="store_true", help="with --unpack: delete each archive once unpacked")
    return p


def web_address(text: str) -> str:
    """The root address of a mirror, with a slash at its end."""
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong or parts.query or parts.fragment or parts.username is not None or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected an address such as https://host/folder, found {text!r}")
    return text.rstrip("/") + "/"


def check_flags(args: argparse.Namespace) -> None:
    """Fill in defaults; UsageError for flags that cannot be combined."""
    args.experiment = list(dict.fromkeys(args.experiment or ["emg_gestures"]))
    args.media = list(dict.fromkeys(args.media or ["data-hdf5"]))
    if args.remove and not args.unpack:
        raise UsageError("--remove: expected --unpack with it; archives are deleted only once unpacked")
    if args.unpack and not any(MEDIA[medium].ending == ".zip" for medium in args.media):
        raise UsageError("--unpack: expected --media data-csv or depth, which are archives, found neither")
    if args.verify_only and (args.dry_run or args.unpack):
        raise UsageError("--verify-only: expected neither --dry-run nor --unpack with it")


# --- what the share has ------------------------------------------------------------------------------------


def plan(args: argparse.Namespace, console: cli.Console, memory: "Memory") -> "tuple[Client, list[Wanted], int]":
    """The files wanted, as the share lists them, and the number of names that were refused.

    With --verify-only, files can be verified without the share too: against what .verified.json records of them.
    """
    from semg.download.http_client import Client, Server

    try:
        client, records, refused = reach(args, console)
    except DataError as error:
        known = [file for file in memory.files() if is_asked_for(file, args)]
        if not args.verify_only or not known:
            raise
        console.warn(f"{error}; verifying the files fetched before, by what is remembered of them")
        return Client(Server(""), timeout=args.timeout, retries=0, wait=0), known, 0
    records = of_subjects(records, args.subjects)
    return client, [file for name in args.media for file in files_of(client, MEDIA[name], records, console)], refused


def is_asked_for(file: Wanted, args: argparse.Namespace) -> bool:
    """Whether the flags select this file."""
    folder, _, name = file.name.partition("/")
    people = args.subjects or [""]
    chosen = tuple(f"{experiment}-{subject}" for experiment in args.experiment for subject in people)
    return folder in {MEDIA[medium].folder for medium in args.media} and name.startswith(chosen)


def reach(args: argparse.Namespace, console: cli.Console) -> "tuple[Client, list[str], int]":
    """The first server that answers with record names: (client, names, number of names refused)."""
    from semg.download.http_client import Client, Server

    ways = [Server(f"{SHARE}/public.php/dav/files/{TOKEN}/", lists=True)]
    ways.append(Server(f"{SHARE}/public.php/webdav/", user=TOKEN, lists=True))
    failures = []
    for server in [Server(args.base_url)] if args.base_url else ways:
        client = Client(server, timeout=args.timeout, retries=args.retries, wait=args.retry_wait, say=console.say)
        try:
            records, refused = read_records(client.text("records.txt"), args.experiment)
        except DataError as error:
            failures.append(f"{server.root}records.txt: {error}")
            continue
        console.say(f"from {server.root}")
        for line in refused[:5]:
            console.warn(f"records.txt: expected a record name, found {line[:100]!r}; refused")
        n_refused = sum(any(name in line for name in args.experiment) for line in refused)
        return client, records, n_refused
    raise DataError(f"{'; '.join(failures)}; check the connection or name a mirror by --base-url")


def files_of(client: "Client", medium: Medium, records: list[str], console: cli.Console) -> list[Wanted]:
    """The files of one medium, with the sizes that the share lists and the MD5 sums that it publishes."""
    listing = client.listing(medium.folder) if client.server.lists else None
    sums = md5_sums(client, medium.folder, console) if listing is None or "MD5SUMS" in listing else {}
    files = []
    for record in records:
        for file in names_of(record, medium, listing):
            listed = (listing or {}).get(file, Listed())
            files.append(Wanted(f"{medium.folder}/{file}", listed.size or None, sums.get(file), listed.version))
    known = sum(file.md5 is not None for file in files)
    if known < len(files):
        which = "the others are" if known else "all are"
        console.say(
            f"{medium.folder}: MD5 sums of {known} of {cli.counted(len(files), 'file')}; {which} checked without one"
        )
    return files


def md5_sums(client: "Client", folder: str, console: cli.Console) -> dict[str, str]:
    """File name -> MD5 from the folder's MD5SUMS. Empty, with a message, if there is none or it is unusable."""
    from semg.download.http_client import NotFoundError

    try:
        text = client.text(f"{folder}/MD5SUMS")
    except NotFoundError:
        console.say(f"{folder}: the share publishes no MD5SUMS")
        return {}
    except DataError as error:
        console.warn(f"{folder}/MD5SUMS: {error}")
        return {}
    sums, wrong = read_md5sums(text, folder)
    if wrong:
        console.warn(f"{folder}/MD5SUMS: expected lines 'MD5  NAME', found {wrong} others; not used")
    return sums


def sweep(root: Path) -> None:
    """Remove temporary files and folders that a killed run left; the caller holds the folder's lock."""
    temporary_name(root / ".verified.json").unlink(missing_ok=True)
    for medium in MEDIA.values():
        for path in (root / medium.folder).glob(".emg_*.tmp"):
            rmtree(path) if path.is_dir() else path.unlink()


# --- the run -----------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """How many files were there, fetched, unpacked, failed and so on."""

    there: int = 0
    fetched: int = 0
    unpacked: int = 0
    failed: list[str] = field(default_factory=list)
    not_tried: int = 0
    refused: int = 0

    @property
    def missing(self) -> int:
        """How many of the files asked for are not there and verified."""
        return len(self.failed) + self.not_tried + self.refused


class Fetcher:
    """Downloads files to OUTDIR; `ensure` is called once per file, from several threads at once."""

    def __init__(self, args: argparse.Namespace, console: cli.Console, client: "Client", memory: "Memory") -> None:
        self.args, self.console, self.client, self.memory = args, console, client, memory
        self.tally = Tally()
        self._progress = threading.Lock()

    def run(self, files: list[Wanted]) -> None:
        """Ensure that all of `files` are there; the tally counts the outcomes."""
        total = sum(file.size or 0 for file in self.absent(files)) + sum(map(self._to_read, files))
        with self.console.progress(total=total or None, unit="B", unit_scale=True, unit_divisor=1000) as self._bar:
            in_parallel(self.client, self.args.jobs, self.ensure, files, self._done)

    def _to_read(self, file: Wanted) -> int:
        """Bytes of a file on disk that are read to verify it; 0 if that is not needed."""
        known = not self.args.verify_only and (self.memory.md5(file) is not None or self._is_unpacked(file))
        path = self.args.outdir / file.name
        return path.stat().st_size if path.is_file() and not known else 0

    def ensure(self, file: Wanted) -> tuple[bool, bool]:
        """Ensure that one file is there, verified, and unpacked if asked for: (was it fetched, was it unpacked)."""
        from semg.download.file_transfer import full_disk
        from semg.download.http_client import DiskFullError

        try:
            return self._have(file)
        except (OSError, DiskFullError) as error:
            full = full_disk(error, self.args.outdir) if isinstance(error, OSError) else error
            if full is None:
                raise
            self.client.stop()  # before this thread takes the next file, which would fail in the same way
            raise full from None

    def _have(self, file: Wanted) -> tuple[bool, bool]:
        from semg.download.file_transfer import fetch
        from semg.download.http_client import StoppedError
        from semg.download.partial_file import clear_part
        from semg.download.verification import verify

        if self.client.stopped:
            raise StoppedError
        target = self.args.outdir / file.name
        to_read = self._to_read(file)
        if self._is_unpacked(file) and not (self.args.verify_only and target.exists()):
            if self.args.remove:
                target.unlink(missing_ok=True)
            return False, False
        md5 = self._md5_on_disk(file, target)
        self._report(to_read)
        fetched = md5 is None
        if md5 is None:
            md5 = fetch(
                self.client,
                file.name,
                target,
                file.size,
                lambda path: verify(path, file),
                self._report,
                any_length=file.md5 is not None,
            )
        elif not self.args.verify_only:
            clear_part(target)
        if not self.args.verify_only:  # --verify-only must also work in a read-only folder
            self.memory.verified(file, md5)
        unpack = bool(self.args.unpack and file.is_archive)
        if unpack:
            self._unpack(file.name, target)
        return fetched, unpack

    def _is_unpacked(self, file: Wanted) -> bool:
        return file.is_archive and self.memory.is_unpacked(file)

    def _md5_on_disk(self, file: Wanted, target: Path) -> str | None:
        """The MD5 of the file on disk if it is valid; None if it has to be fetched."""
        from semg.download.verification import verify

        known = None if self.args.verify_only else self.memory.md5(file)
        if known is not None:
            return known
        try:
            if not target.is_file():
                raise DataError("expected a file, found none")
            if self.memory.is_outdated(file):
                raise DataError("expected the version that is on the server now, found an older one")
            return verify(target, file, self.memory.last_md5(file.name))
        except DataError as error:
            if self.args.verify_only:
                raise
            if target.exists():
                self.console.say(f"{file.name}: {error}; fetching it again")
            return None

    def _unpack(self, name: str, archive_path: Path) -> None:
        from semg.download import archive
        from semg.download.file_transfer import full_disk
        from semg.download.http_client import StoppedError

        def stop() -> None:
            if self.client.stopped:
                raise StoppedError

        folder = archive_path.with_suffix("")
        try:
            result = archive.unpack(archive_path, folder, stop)
        except OSError as error:
            raise full_disk(error, folder.parent) or DataError(f"could not be unpacked ({error})") from None
        self.memory.unpacked(name, result)
        if self.args.remove:
            archive_path.unlink()

    def _report(self, grown: int) -> None:
        with self._progress:
            self._bar.update(grown)

    def _done(self, file: Wanted, future: "Future[tuple[bool, bool]]") -> None:
        """Count the outcome of one file, in the main thread."""
        from semg.download.file_transfer import as_data_error
        from semg.download.http_client import StoppedError

        try:
            fetched, unpacked = future.result()
        except StoppedError:
            self.tally.not_tried += 1
        except Exception as error:  # any kind of failure concerns this file only
            self.tally.failed.append(file.name)
            reason = str(error) if isinstance(error, OSError) else str(as_data_error(error))
            self.console.error(f"{file.name}: {reason.removeprefix(f'{self.args.outdir / file.name}: ')}")
        else:
            self.tally.fetched += fetched
            self.tally.there += not fetched
            self.tally.unpacked += unpacked
            if fetched:
                self.console.say(f"{file.name}: fetched" + (" and unpacked" if unpacked else ""))

    def absent(self, files: list[Wanted]) -> list[Wanted]:
        """Those of `files` that have to be fetched, judged by their sizes."""

        def there(file: Wanted) -> bool:
            path = self.args.outdir / file.name
            return path.is_file() and file.size in (None, path.stat().st_size)

        return [file for file in files if not there(file) and not self._is_unpacked(file)]

    def with_sizes(self, files: list[Wanted]) -> list[Wanted]:
        """`files`, with missing lengths and versions filled in by asking the server, where they are needed.

        Needed are the length of a file that will be fetched, and the version of a file on disk if no MD5 tells whether
        it changed.
        """
        answers: dict[str, Listed] = {}
        unknown = [
            file
            for file in files
            if file.size is None and (self.memory.md5(file) is None or file.md5 is None) and not self._is_unpacked(file)
        ]
        in_parallel(
            self.client,
            self.args.jobs,
            lambda file: self.client.facts(file.name),
            unknown,
            lambda file, future: answers.update({file.name: future.result()}),
        )
        known = [(file, answers.get(file.name, Listed(file.size, file.version))) for file in files]
        return [replace(file, size=listed.size, version=listed.version) for file, listed in known]


def in_parallel(
    client: "Client",
    jobs: int,
    work: Callable[[Wanted], T],
    items: Iterable[Wanted],
    done: Callable[[Wanted, "Future[T]"], None],
) -> None:
    """Run `work` on all `items` in `jobs` threads, and `done` in the calling thread.

    If the calling thread is interrupted, it does not wait for the others: a thread that waits for a server could hold
    it up indefinitely. They end with the process, and a partial file may end anywhere.
    """
    waiting: queue.SimpleQueue[Wanted] = queue.SimpleQueue()
    finished: queue.SimpleQueue[tuple[Wanted, Future[T]]] = queue.SimpleQueue()
    todo = list(items)
    for item in todo:
        waiting.put(item)

    def drain() -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            future: Future[T] = Future()
            try:
                future.set_result(work(item))
            except BaseException as error:  # whatever it was, this file failed and the others still have their turn
                future.set_exception(error)
            finished.put((item, future))

    try:
        for _ in range(min(jobs, len(todo))):
            threading.Thread(target=drain, daemon=True).start()
        for _ in todo:
            done(*finished.get())
    except BaseException:
        client.stop()
        raise


def announce(fetcher: Fetcher, files: list[Wanted]) -> tuple[int, int]:
    """Say what will be fetched; DataError if the disk has too little space, with --dry-run a warning. Returns the
    number of files and bytes."""
    from semg.download.file_transfer import free_bytes
    from semg.download.partial_file import part_size

    args, absent = fetcher.args, fetcher.absent(files)
    needed = sum(max(0, (file.size or 0) - part_size(args.outdir / file.name)) for file in absent)
    unknown = sum(file.size is None for file in absent)
    for file in absent if args.dry_run else []:
        fetcher.console.say(f"{in_words(file.size):>12}  {file.name}")
    fetcher.console.say(
        f"{len(absent)} of {cli.counted(len(files), 'file')} to fetch, {in_words(needed)}"
        + (f" and {cli.counted(unknown, 'file')} of unknown size" if unknown else "")
        + f" into {args.outdir}"
    )
    free = free_bytes(args.outdir)
    if needed > free:
        problem = (
            f"{args.outdir}: expected {in_words(needed)} of free disk, found {in_words(free)}; "
            "free some, or fetch fewer people by --subjects"
        )
        if not args.dry_run:
            raise DataError(problem)
        fetcher.console.warn(problem)
    return len(absent), needed


def in_words(size: float | None) -> str:
    """A number of bytes in readable units."""
    if size is None:
        return "unknown size"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def summary(fetcher: Fetcher, n_wanted: int) -> int:
    """Print the last line; returns the exit code, 1 as long as anything is missing."""
    args, tally = fetcher.args, fetcher.tally
    good = tally.there + tally.fetched
    text = f"{good} of {n_wanted + tally.refused} files are there and verified"
    if not args.verify_only:
        text += f" ({tally.fetched} fetched, {tally.there} were there)"
    if tally.refused:
        text += f", {cli.counted(tally.refused, 'name')} refused"
    if tally.missing:
        text += f", {tally.missing} missing or wrong; "
        text += "run without --verify-only to fetch them" if args.verify_only else "re-run to fetch the rest"
    elif "data-hdf5" in args.media and "emg_gestures" in args.experiment:  # preprocess.py leaves forces out
        command = cli.next_command("preprocess.py", "--raw", args.outdir / "Data-HDF5", "--shards", "data/shards")
        text += f"; {command}"
    facts = {"there": tally.there, "fetched": tally.fetched, "unpacked": tally.unpacked, "missing": tally.missing}
    fetcher.console.finish(text, **facts, failed=tally.failed, outdir=args.outdir.as_posix())
    return 1 if tally.missing else 0


def main() -> int:
    """Fetch, verify, or list."""
    args = arguments().parse_args()
    check_flags(args)
    console = cli.console(args)
    from semg.download.verification import Memory

    reads_only = args.dry_run or args.verify_only
    with nullcontext() if reads_only else folder_lock(args.outdir):
        if not reads_only:
            sweep(args.outdir)
        memory = Memory(args.outdir, console)
        client, files, refused = plan(args, console, memory)
        fetcher = Fetcher(args, console, client, memory)
        fetcher.tally.refused = refused
        files = fetcher.with_sizes(files)
        if not args.verify_only:
            count, needed = announce(fetcher, files)
        if args.dry_run:
            text = f"would fetch {cli.counted(count, 'file')}, {in_words(needed)}; nothing was written"
            console.finish(text, files=count, bytes=needed, there=len(files) - count)
            return 0
        fetcher.run(files)
        return summary(fetcher, len(files))


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
