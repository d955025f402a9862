"""Where scripts write: no output takes the place of an input, or of another output."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from semg.common.errors import UsageError


def expect_apart(
    written: Sequence[tuple[str, Path]], read: Iterable[Path] = (), folders: Sequence[tuple[str, Path]] = ()
) -> None:
    """UsageError if a file that a script writes is one that it reads, or if two outputs cannot both be there.

    written: the files, each with the flag and the value that name it, for the message; read: files; folders: those in
    which the script makes files of new names, with their flags.
    """
    inputs = {path.resolve(): path for path in read}
    outputs = [(words, path.resolve()) for words, path in (*written, *folders)]
    for place, (words, path) in enumerate(outputs[: len(written)]):
        if original := inputs.get(path):
            raise UsageError(f"{words}: expected another place, found that of {original}, which would be replaced")
        for other_words, other in outputs[:place] + outputs[place + 1 :]:
            if path == other or path in other.parents:
                raise UsageError(f"{words}: expected a place of its own, found that of {other_words}")
