"""What `make fuzz` damages: each target makes an input from a number and reads it as the scripts do.

A target is a class: made with an empty folder of its own, then called with seeds. It returns whether the input was
accepted, raises one of `EXPECTED` where it was refused, and anything else is a finding. Beside damage of bytes there
is damage that knows the format: numbers that are lengths and places, values in JSON under a checksum that is right,
tables put together from what programs write.
"""

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import recordings
import small_shards
import torch
from mutations import mutated, with_wrong_number, with_wrong_value

from semg.common.errors import DataError, UsageError
from semg.data.putemg_recording import Recording
from semg.data.recording_list import read_list
from semg.data.shards import WindowSet, check_alike, meta_checksum, open_shard
from semg.data.tables import Table, read_table
from semg.download import archive
from semg.inference.checkpoint import open_checkpoint, write_checkpoint, write_folder
from semg.inference.trained_model import TrainedModel

SHIPPED = Path(__file__).resolve().parents[2] / "checkpoints" / "best_model.ckpt"
EXPECTED = (DataError, UsageError)  # the project's own; scripts make one line of them


class Zip:
    """Archives of all kinds of compression; whatever is unpacked has to lie in the folder and be plain."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "a.zip"

    def __call__(self, seed: int) -> bool:
        draw = random.Random(f"zip/{seed}")
        data = self._archive(draw)
        for _ in range(draw.choice([0, 1, 1, 2, 3])):
            tail = max(0, len(data) - 400)  # the directory at the end is worth more than what is packed
            data = mutated(data, draw) if draw.random() < 0.4 else with_wrong_number(data, draw, draw.choice([0, tail]))
            if len(data) < 12:
                break
        self.path.write_bytes(data)
        target = self.folder / "out"
        shutil.rmtree(target, ignore_errors=True)
        try:
            archive.check(self.path, contents=True)
            archive.unpack(self.path, target, lambda: None)
        finally:
            strange = [path for path in self.folder.rglob("*") if path.is_symlink() or path.name.startswith(".a")]
            beside = {path.name for path in self.folder.iterdir()} - {"a.zip", "out"}
            assert not strange and not beside, f"left behind: {strange or beside}"
        return True

    @staticmethod
    def _archive(draw: random.Random) -> bytes:
        kinds = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
        names = [
            "a/1.csv",
            "a/2.csv",
            "a/b/3.bin",
            "a/",
            "x" * 190,
            "/".join(["d" * 150] * 30),
            "a",
            "A/1.csv",
            "ä.txt",
        ]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as result:
            for name in draw.sample(names, draw.randint(1, 4)):
                with result.open(zipfile.ZipInfo(name), "w", force_zip64=draw.random() < 0.1) as file:
                    file.write(b"" if name.endswith("/") else draw.randbytes(30) + b"1.5,2.5\n" * draw.randint(0, 200))
            for name in draw.sample(["c1", "c2", "c3"], draw.randint(0, 3)):
                result.writestr(name, b"0.25," * draw.randint(1, 300), draw.choice(kinds))
            result.comment = draw.choice([b"", b"", b"PK\x05\x06" * 8])
        return buffer.getvalue()


class Hdf5:
    """Recordings in putEMG's layout, their bytes damaged or their tables made otherwise by HDF5 itself."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{recordings.record_name()}.hdf5"
        self.whole = [recordings.recording_bytes(complevel=level) for level in (0, 5)]

    def __call__(self, seed: int) -> bool:
        draw = random.Random(f"hdf5/{seed}")
        self.path.unlink(missing_ok=True)
        data = draw.choice(self.whole)
        if draw.random() < 0.3:
            self.path.write_bytes(data)
            with h5py.File(self.path, "r+") as file:
                self._rebuild(file, draw)
        else:
            for _ in range(draw.choice([1, 1, 2])):
                data = mutated(data, draw) if draw.random() < 0.5 else with_wrong_number(data, draw)
            self.path.write_bytes(data)
        with Recording(self.path) as opened:
            opened.read(tuple(range(1, 25)), draw.choice(["TRAJ_GT", "TRAJ_1"]))
            opened.gaps()
        return True

    @staticmethod
    def _rebuild(file: h5py.File, draw: random.Random) -> None:
        """Another table under the same name: types, shapes, chunks and filters that pandas would not write."""
        old = file["data/table"]
        attributes, dtype, n = dict(old.attrs), old.dtype, draw.choice([0, 1, 2, 600, 600, 600, 10**6])
        fields = [[name, dtype[name]] for name in dtype.names]
        for field in draw.sample(fields, draw.choice([0, 1, 1, 2])):
            base, shape = field[1].base, field[1].shape
            field[1] = draw.choice(
                [
                    np.dtype((base, (*shape, 2))),
                    np.dtype((base, shape[:-1])),
                    np.dtype((draw.choice(["f4", "i1", "u8", "S3", "f2", "c8"]), shape)),
                    h5py.string_dtype(),
                    np.dtype([("a", "f4"), ("b", "i2")]),
                    h5py.ref_dtype,
                ]
            )
        if draw.random() < 0.2:
            fields.pop(draw.randrange(len(fields)))
        result = np.dtype([tuple(field) for field in fields])
        rows = draw.choice([1, 7, 600, 100_000])
        packed = draw.choice([{}, {"compression": "gzip"}, {"compression": "lzf"}, {"fletcher32": True}])
        del file["data/table"]
        kind = {"maxshape": (None,), "chunks": (rows,)} if draw.random() < 0.8 else {}
        table = file.create_dataset("data/table", (n,), result, **kind, **(packed if kind else {}))
        for name, value in attributes.items():
            if draw.random() < 0.97:
                other = np.bytes_(draw.randbytes(draw.randint(1, 40)).replace(b"\0", b"a"))
                table.attrs[name] = value if draw.random() < 0.9 else other


class Tables:
    """Tables as text, put together from what programs write, and NumPy's files; and the lists that name them."""

    def __init__(self, folder: Path) -> None:
        self.text, self.array, self.list = folder / "t.csv", folder / "t.npy", folder / "list.csv"

    def __call__(self, seed: int) -> bool:
        draw = random.Random(f"csv/{seed}")
        kind = draw.choice(["text"] * 7 + ["array"] * 2 + ["list"])
        if kind == "array":
            buffer = io.BytesIO()
            shape = draw.choice([(20, 3), (1, 1), (0, 4), (5,), (2, 3, 4), (300, 8)])
            np.save(buffer, np.ones(shape, draw.choice(["f4", "f8", "i2", "u8", "c8", "S3", "?", ">i4", "f2"])))
            self.array.write_bytes(self._damaged(buffer.getvalue(), draw))
            read_table(self.array, 200.0, 1.0, draw.choice([None, (1, 2), (9,)]), draw.choice([2, 3, 8]))
            return True
        if kind == "list":
            rows = [[f"p{draw.randint(1, 3)}.csv", str(draw.randint(1, 3)), self._cell(draw)] for _ in range(4)]
            lines = ["file,subject,date", *map(",".join, rows)]
            self.list.write_bytes(self._damaged("\n".join(lines).encode(), draw))
            read_list(self.list)
            return True
        self.text.write_bytes(self._table(draw))
        table = Table(self.text, header=draw.choice([None, None, True, False]), texts=["label"])
        place = table.find("label")
        roles = table.roles(draw.choice([None, None, (1, 2)]), place)
        samples = table.samples(roles.channels)
        assert samples.shape == (table.n_samples, len(roles.channels))
        assert np.isfinite(samples).all(), "samples that are not finite"
        if place is not None:
            assert len(table.labels(place)) == table.n_samples
        for gap in table.gaps(roles, 200.0):
            assert 0 < gap.start < table.n_samples
        return True

    def _table(self, draw: random.Random) -> bytes:
        mark, width, n = (
            draw.choice([",", ";", "\t", " ", ", ", "|"]),
            draw.randint(1, 9),
            draw.choice([0, 1, 5, 30, 250]),
        )
        decimal = draw.choice([".", ".", ","])
        names = [
            "time",
            "t (ms)",
            "index",
            "",
            "label",
            "Label",
            "ch1",
            "EMG 2",
            "0",
            "1",
            "2",
            "note",
            "packet counter",
        ]
        rows = [] if draw.random() < 0.3 else [[draw.choice(names) for _ in range(width)]]
        strange = draw.choice([0.0, 0.0, 0.003, 0.1])
        for i in range(n):
            row = [str(i / 200), *(f"{draw.gauss(0, 20):.3f}" for _ in range(width - 1))]
            rows.append([cell.replace(".", decimal) for cell in row])
            if draw.random() < strange:
                rows[-1][draw.randrange(width)] = self._cell(draw)
            if draw.random() < strange / 4:
                rows[-1] = rows[-1][: draw.randint(0, width)] * draw.randint(1, 2)
        end = draw.choice(["\n", "\r\n", "\r"])
        head = draw.choice(["", "", "", "sep=;\n", "# a comment\n", "% x\n#y\n", "\n\n"])
        text = head + end.join(map(mark.join, rows)) + draw.choice(["", end, end * 3, mark * width, "\x1a"])
        encoding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-32"])
        data = text.encode(encoding, "replace")
        return self._damaged(data, draw)

    @staticmethod
    def _cell(draw: random.Random) -> str:
        cells = '" "" \'x "a,b" nan NaN inf -inf 1e400 1_000 0x10 1,5 1.5.5 -- ١٢ é 1e-400 #N/A =1+1 \x00 2024-03-01'
        more = ["", " ", '"open', '"a\nb"', "9" * 400, "x" * 2000, "12:30:00", "2024-03-01T10:30:00.5", "9999-99-99"]
        return draw.choice([*cells.split(), *more])

    @staticmethod
    def _damaged(data: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.6 or len(data) < 12:
            return data
        return mutated(data, draw) if draw.random() < 0.7 else with_wrong_number(data, draw)


class Shards:
    """Shards whose bytes are damaged, and such as somebody else wrote: their checksums are right, their facts not."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / small_shards.write(folder, 3, repetitions=1)
        self.other = open_shard(folder / small_shards.write(folder, 4, repetitions=1))
        self.whole = {path: path.read_bytes() for path in self.path.iterdir()}

    def __call__(self, seed: int) -> bool:
        draw = random.Random(f"shard/{seed}")
        for path, data in self.whole.items():
            path.unlink()  # not written over: what was opened before may still be mapped
            path.write_bytes(data)
        if draw.random() < 0.4:
            self._damage(draw)
        else:
            self._forge(draw)
        shard = open_shard(self.path, verify=draw.random() < 0.5)
        check_alike([shard, self.other])
        windows = WindowSet([shard])
        if len(windows):
            index = np.arange(0, len(windows), 3)
            starts = windows.jittered(index, 0.5, np.random.default_rng(seed), 64)
            assert windows.gather(index, starts).shape == (len(index), windows.window, windows.n_channels)
        assert len(windows.rest) == len(shard.classes) and len(windows.subject) == len(windows)
        assert shard.facts and shard.session and shard.rings is not None
        return True

    def _damage(self, draw: random.Random) -> None:
        path = draw.choice(list(self.whole))
        data = self.whole[path]
        path.unlink()
        path.write_bytes(mutated(data, draw) if draw.random() < 0.6 else with_wrong_number(data, draw))

    def _forge(self, draw: random.Random) -> None:
        meta = json.loads(self.whole[self.path / "shard.json"])
        for _ in range(draw.choice([1, 1, 1, 2])):
            meta = with_wrong_value(meta, draw)
        if draw.random() < 0.95 and "checksum" in meta:
            meta["checksum"] = meta_checksum(meta)
        (self.path / "shard.json").write_text(json.dumps(meta))


class Checkpoints:
    """Checkpoints and exported folders: bytes, descriptions and tensors, opened and used on a signal."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.path, self.folder = folder / "best_model.ckpt", folder / "exported"
        self.folder.mkdir()
        self.whole, self.opened = SHIPPED.read_bytes(), open_checkpoint(SHIPPED)
        self.signal = np.random.default_rng(0).normal(0, 50, (5120, 24))

    def __call__(self, seed: int) -> bool:
        draw = random.Random(f"checkpoint/{seed}")
        if draw.random() < 0.3:
            data = self.whole
            near = draw.choice([0, 0, len(data) - 5000])
            self.path.write_bytes(mutated(data, draw) if draw.random() < 0.5 else with_wrong_number(data, draw, near))
            return self._use(self.path, draw)
        description, tensors = dict(self.opened.description), dict(self.opened.tensors)
        if draw.random() < 0.8:
            # most of what is said of training is long lists of names; what the network is made of is elsewhere
            part = draw.choice(["model", "model", "data", "data", "normalize", "split", ""])
            said = with_wrong_value(description[part] if part else description, draw)
            description = description | {part: said} if part else said
        else:
            self._other_tensor(tensors, draw)
        if draw.random() < 0.5:
            write_checkpoint(self.path, description, tensors)
            return self._use(self.path, draw)
        write_folder(self.folder, type(self.opened)(self.folder, description, tensors))
        return self._use(self.folder, draw)

    def _use(self, path: Path, draw: random.Random) -> bool:
        model = TrainedModel.open(path, "cpu")
        steps: list[Callable[[], object]] = [
            lambda: model.predict(self.signal),
            lambda: model.stream().push(self.signal[:2000]),
            lambda: (model.origin, model.prior),
        ]
        for step in draw.sample(steps, len(steps)):
            step()
        return True

    @staticmethod
    def _other_tensor(tensors: dict[str, torch.Tensor], draw: random.Random) -> None:
        name = draw.choice(list(tensors))
        value = tensors[name]
        others = [
            value.double(),
            value.half(),
            value.to(torch.int8),
            value.to(torch.complex64),
            value.bool(),
            value * float("nan"),
            value * 1e30,
            value * 0,
            value.flatten()[:1],
            value[None],
            value.new_zeros(0),
        ]
        kind = draw.randrange(len(others) + 2)
        if kind < len(others):
            tensors[name] = others[kind].contiguous()
        elif kind == len(others):
            del tensors[name]
        else:
            tensors[name + ".x"] = tensors.pop(name)


TARGETS = {"zip": Zip, "hdf5": Hdf5, "csv": Tables, "shard": Shards, "checkpoint": Checkpoints}
