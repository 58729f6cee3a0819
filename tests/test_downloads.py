"""The image sets' own file formats, made small here and served from this machine; downloads that fail; packs."""

import bz2
import gzip
import hashlib
import http.server
import io
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from scipy.io import savemat

from spikenb import data, downloads
from spikenb.book import cli

pooch = pytest.importorskip("pooch", reason="pooch is an extra")
DOWNLOADED = ("cifar10", "svhn", "fashion_mnist", "usps")
PUBLISHED = dict(downloads.SETS)


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache that is empty, and no packs."""
    monkeypatch.setenv("SPIKENB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SPIKENB_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


# ---- small sets in the published layouts: {file: bytes}, {split: (images, labels)} ----


def drawn(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def cifar10():
    """50 training images in five files that lie in the archive in another order, as in the published one."""
    truth = {"train": (drawn(50, 32, 32, 3), np.arange(50) % 10), "test": (drawn(4, 32, 32, 3, seed=1), np.arange(4))}
    parts = {f"data_batch_{i + 1}.bin": ("train", slice(10 * i, 10 * i + 10)) for i in range(5)}
    parts["test_batch.bin"] = "test", slice(None)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name in ("batches.meta.txt", *sorted(parts, reverse=True)):
            content = b"airplane\n"
            if name in parts:
                split, rows = parts[name]
                planes = truth[split][0][rows].transpose(0, 3, 1, 2)  # all red bytes, all green, all blue
                labels = truth[split][1][rows].tolist()
                content = b"".join(bytes([y]) + x.tobytes() for x, y in zip(planes, labels, strict=True))
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {"cifar-10-binary.tar.gz": whole.getvalue()}, truth


def svhn():
    truth, files = {}, {}
    for seed, (split, n) in enumerate((("train", 13), ("test", 11))):
        x, y = drawn(n, 32, 32, 3, seed=seed), np.arange(n) % 10
        file = io.BytesIO()
        savemat(file, {"X": x.transpose(1, 2, 3, 0), "y": np.where(y == 0, 10, y).astype(np.uint8)[:, None]})
        files[f"{split}_32x32.mat"], truth[split] = file.getvalue(), (x, y)
    return files, truth


def fashion_mnist():
    truth, files = {}, {}
    for seed, (split, short, n) in enumerate((("train", "train", 12), ("test", "t10k", 5))):
        x, y = drawn(n, 28, 28, seed=seed), np.arange(n) % 10
        files[f"{short}-images-idx3-ubyte.gz"] = gzip.compress(struct.pack(">4i", 0x803, n, 28, 28) + x.tobytes())
        files[f"{short}-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">2i", 0x801, n) + bytes(y.tolist()))
        truth[split] = x, y
    return files, truth


def usps():
    truth, files = {}, {}
    for seed, (split, file, n) in enumerate((("train", "usps.bz2", 10), ("test", "usps.t.bz2", 6))):
        x, y = drawn(n, 16, 16, seed=seed), np.arange(n)[::-1] % 10
        x[0, 0, :2] = 0, 255
        lines = [
            f"{label + 1} " + " ".join(f"{i}:{v / 127.5 - 1:.6f}" for i, v in enumerate(image.reshape(-1).tolist(), 1))
            for image, label in zip(x, y.tolist(), strict=True)
        ]
        files[file], truth[split] = bz2.compress("\n".join(lines).encode()), (x, y)
    return files, truth


def celeba_glasses():
    """JPEGs of one colour, black above and below the square in the middle; the validation part is not used."""
    parts, size = "0010222100", (178, 218)
    colours, glasses = drawn(10, 3, seed=4) // 2 + 100, np.arange(10) % 3 == 0
    names = [f"{i + 1:06}.jpg" for i in range(10)]
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, colour in zip(names, colours.tolist(), strict=True):
            image, file = Image.new("RGB", size), io.BytesIO()
            image.paste(tuple(colour), (0, 20, 178, 198))
            image.save(file, "JPEG", quality=98, subsampling=0)
            archive.writestr(f"img_align_celeba/{name}", file.getvalue())
    rows = [f"{name} -1 {'1' if g else '-1':>2}  1" for name, g in zip(names, glasses, strict=True)]
    files = {
        "img_align_celeba.zip": whole.getvalue(),
        "list_attr_celeba.txt": "\n".join(["10", "Bald Eyeglasses Young ", *rows, ""]).encode(),
        "list_eval_partition.txt": "".join(f"{n} {p}\n" for n, p in zip(names, parts, strict=True)).encode(),
    }
    truth = {}
    for split, part in (("train", "0"), ("test", "2")):
        chosen = [i for i in range(10) if parts[i] == part]
        pixels = np.broadcast_to(colours[chosen][:, None, None], (len(chosen), 32, 32, 3))
        truth[split] = pixels, glasses[chosen].astype(int)
    return files, truth


SMALL = {make.__name__: make() for make in (cifar10, svhn, fashion_mnist, usps, celeba_glasses)}


class Server(http.server.ThreadingHTTPServer):
    """Sends `files`; breaks off half-way what is in `cut`; keeps the paths asked for in `asked`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.asked = {}, set(), []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        self.server.asked.append(name)
        content = self.server.files.get(name)
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content:
            self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, cache):
    """A server of the small sets, which stand in the table with its address and their own sums."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        for name, (files, _) in SMALL.items():
            sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
            address = None if PUBLISHED[name].address is None else f"http://127.0.0.1:{server.server_port}/"
            monkeypatch.setitem(downloads.SETS, name, replace(PUBLISHED[name], address=address, sums=sums))
            server.files |= files
        yield server
        server.shutdown()
        thread.join()


def put(cache, name, **changed):
    """A set's files into the cache, by hand."""
    (cache / name).mkdir(parents=True, exist_ok=True)
    for file, content in SMALL[name][0].items():
        (cache / name / file).write_bytes(changed.get(file, content))


def kept(cache):
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


# ---- what comes out ----


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_downloaded_set_is_what_was_published(name, split, server, cache, capfd):
    files, truth = SMALL[name]
    x, y = downloads.images(name, split)
    assert x.dtype == np.uint8 and y.dtype == np.int64 and x.flags.writeable
    assert np.array_equal(x, truth[split][0]) and np.array_equal(y, truth[split][1])
    assert "100%" in capfd.readouterr().err
    asked = list(server.asked)
    assert sorted(asked) == sorted(getattr(downloads.SETS[name], split)) == [Path(p).name for p in kept(cache)]
    again, _ = downloads.images(name, split, 3)
    assert np.array_equal(again, x[:3]) and server.asked == asked
    assert downloads.at_hand(name) == (len(asked) == len(files))


def test_celeba_is_read_from_the_zip(server, cache):
    put(cache, "celeba_glasses")
    for split in ("train", "test"):
        x, y = downloads.images("celeba_glasses", split)
        truth, labels = SMALL["celeba_glasses"][1][split]
        assert x.shape == truth.shape == (len(y), 32, 32, 3) and x.dtype == np.uint8 and y.dtype == np.int64
        assert y.tolist() == labels.tolist() and set(y.tolist()) == {0, 1}
        assert np.abs(x[:, 2:-2].astype(int) - truth[:, 2:-2]).max() <= 3  # JPEG; black bands would be 100 off
        assert np.abs(x.astype(int) - truth).max() < 40
        assert np.array_equal(downloads.images("celeba_glasses", split, 2)[0], x[:2])
    assert not server.asked and len(kept(cache)) == 3, "nothing is unpacked"


def test_data_load_reads_the_downloads(server):
    assert not data.available("usps")
    x, y = data.load("usps", split="test")
    truth, labels = SMALL["usps"][1]["test"]
    assert x.shape == (6, 1, 16, 16) and np.allclose(x[:, 0].numpy() * 255, truth) and y.tolist() == labels.tolist()
    assert not data.available("usps")
    data.load("usps")
    assert data.available("usps")
    colour, _ = data.load("cifar10", n=2, classes=[1, 4])
    assert np.allclose(colour.numpy() * 255, SMALL["cifar10"][1]["train"][0][[1, 4]].transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"classes names \[12\], which usps has not"):
        data.load("usps", classes=[1, 12])


def test_wrong_arguments(server):
    for call, message in (
        (lambda: downloads.images("usps", "valid"), "split must be one of 'train', 'test'"),
        (lambda: downloads.images("imagenet", "train"), "name must be one of"),
        (lambda: downloads.at_hand("digits"), "name must be one of"),
        (lambda: downloads.images("usps", "test", 7), r"n must be at most 6, the images that usps \(test\) has"),
        (lambda: downloads.images("usps", "test", 0), "n must be at least 1"),
        (lambda: downloads.pack("digits"), "name must be one of"),
        (lambda: downloads.pack("usps", n_test=-1), "n_test must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_published_table():
    assert data.SETS == ("digits", *PUBLISHED)
    for name, known in PUBLISHED.items():
        assert set(known.train) | set(known.test) == set(known.sums) == set(SMALL[name][0])
        assert all(len(bytes.fromhex(digest)) == 32 for digest in known.sums.values())
        assert known.address is None or known.address.endswith("/")
    assert len({digest for known in PUBLISHED.values() for digest in known.sums.values()}) == 12


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert downloads.cache() == tmp_path / "cache"
    monkeypatch.delenv("SPIKENB_CACHE")
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    assert downloads.cache() == pooch.os_cache("spikenb")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert downloads.cache() == pooch.os_cache("spikenb") == tmp_path / "spikenb"


# ---- what goes wrong ----


def test_a_download_that_breaks_off_leaves_the_cache_intact(server, cache):
    downloads.images("usps", "test")
    before = kept(cache)
    server.cut.add("train_32x32.mat")
    with pytest.raises((FileNotFoundError, ValueError), match=r"train_32x32\.mat"):
        downloads.images("svhn", "train")
    assert kept(cache) == before == ["usps/usps.t.bz2"]
    server.cut.clear()
    x, _ = downloads.images("svhn", "train")
    assert np.array_equal(x, SMALL["svhn"][1]["train"][0])


def test_a_killed_download_leaves_no_file_that_counts(server, cache):
    """A process that dies in the middle of writing, before pooch renames."""
    code = (
        "import os, dataclasses\nfrom spikenb import downloads\n"
        f"known = dataclasses.replace(downloads.SETS['usps'], address='http://127.0.0.1:{server.server_port}/')\n"
        "downloads.SETS['usps'] = known\nimport pooch.core\n"
        "pooch.core.hash_matches = lambda *_, **__: os._exit(9)\ndownloads.images('usps', 'test')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 9
    assert server.asked == ["usps.t.bz2"] and not (cache / "usps/usps.t.bz2").exists()
    assert len(downloads.images("usps", "test")[1]) == 6 and not downloads.at_hand("usps")


def test_one_wrong_byte_on_the_way_is_refused(server, cache):
    content = bytearray(server.files["usps.bz2"])
    content[len(content) // 2] ^= 1
    server.files["usps.bz2"] = bytes(content)
    with pytest.raises(ValueError, match=r"sent is not the published usps\.bz2.*nothing of it was kept"):
        downloads.images("usps", "train")
    assert not kept(cache)
    server.files |= SMALL["usps"][0]
    assert len(downloads.images("usps", "train")[1]) == 10


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("harm", ["byte", "half", "empty"])
def test_a_file_that_was_harmed_in_the_cache_is_named(name, harm, server, cache):
    put(cache, name)
    assert downloads.at_hand(name)
    file = downloads.SETS[name].train[0]
    content = bytearray(SMALL[name][0][file])
    content[len(content) // 2] ^= 1
    content = {"byte": content, "half": content[: len(content) // 2], "empty": b""}[harm]
    (cache / name / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the published file.*delete it") as error:
        downloads.images(name, "train")
    assert str(cache / name / file) in str(error.value) and not server.asked
    (cache / name / file).unlink()
    if name in DOWNLOADED:
        assert np.array_equal(downloads.images(name, "train")[0], SMALL[name][1]["train"][0])


def test_without_a_network(server, cache, monkeypatch):
    put(cache, "usps")
    server.shutdown()
    server.server_close()
    with pytest.raises(FileNotFoundError) as error:
        downloads.images("fashion_mnist", "train")
    for part in ("fashion_mnist", "be online", "SPIKENB_DATA", "spikenb pack fashion_mnist", '"digits"'):
        assert part in str(error.value)
    assert len(downloads.images("usps", "train")[1]) == 10, "what is in the cache needs no network"


def test_what_the_server_does_not_have(server, cache):
    del server.files["usps.bz2"]
    with pytest.raises(FileNotFoundError, match="404"):
        data.load("usps")
    assert not kept(cache)


def test_without_pooch(server, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=r"package pooch, .*pip install \"pooch>=1.8\".*SPIKENB_DATA.*digits"):
        data.load("svhn")
    assert not server.asked and not data.available("svhn")
    put(cache, "svhn")
    assert data.available("svhn") and len(data.load("svhn")[1]) == 13


def test_celeba_is_put_there_by_hand(server, cache):
    with pytest.raises(FileNotFoundError) as error:
        data.load("celeba_glasses")
    for part in (*SMALL["celeba_glasses"][0], "mmlab.ie.cuhk.edu.hk", str(cache / "celeba_glasses"), "by hand"):
        assert part in str(error.value)
    put(cache, "celeba_glasses")
    (cache / "celeba_glasses/list_attr_celeba.txt").unlink()
    assert not data.available("celeba_glasses")
    with pytest.raises(FileNotFoundError, match=r"list_attr_celeba\.txt is missing"):
        data.load("celeba_glasses")
    assert not server.asked


def test_a_cache_that_cannot_be_written(server, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="set SPIKENB_CACHE"):
        downloads.images("usps", "train")


# ---- packs ----


@pytest.mark.parametrize("name", SMALL)
def test_a_pack_gives_what_the_set_gives(name, server, cache, tmp_path, monkeypatch):
    put(cache, name)
    direct = [data.load(name, split=split) for split in ("train", "test")]
    path = downloads.pack(name, tmp_path / "packs")
    assert path == tmp_path / f"packs/{name}.npz" and list(path.parent.iterdir()) == [path]
    monkeypatch.setenv("SPIKENB_DATA", str(path.parent))
    monkeypatch.setenv("SPIKENB_CACHE", str(tmp_path / "elsewhere"))
    for split, (x, y) in zip(("train", "test"), direct, strict=True):
        packed, labels = data.load(name, split=split)
        assert (packed == x).all() and (labels == y).all() and x.dtype == packed.dtype
    with np.load(path, allow_pickle=False) as content:
        assert downloads.SETS[name].page in str(content["source"])
        assert all(digest in str(content["source"]) for digest in downloads.SETS[name].sums.values())


def test_a_pack_of_the_first_images_is_the_same_to_the_byte(server, tmp_path):
    first = downloads.pack("cifar10", tmp_path, 20, 3).read_bytes()
    with np.load(tmp_path / "cifar10.npz", allow_pickle=False) as content:
        assert np.array_equal(content["x_train"], SMALL["cifar10"][1]["train"][0][:20])
        assert content["y_test"].tolist() == [0, 1, 2]
    assert downloads.pack("cifar10", tmp_path, 20, 3).read_bytes() == first
    with pytest.raises(ValueError, match="n must be at most 50"):
        downloads.pack("cifar10", tmp_path, 51)
    assert (tmp_path / "cifar10.npz").read_bytes() == first


def test_a_pack_that_breaks_off_leaves_the_old_one(server, tmp_path, monkeypatch):
    folder = tmp_path / "packs"
    before = downloads.pack("usps", folder, 4).read_bytes()

    def full(path, *_, **__):
        if not Path(path).exists():
            Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    for module, step in ((np, "savez"), (downloads.os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, full)
            with pytest.raises(OSError, match="No space"):
                downloads.pack("usps", folder)
    assert [path.name for path in folder.iterdir()] == ["usps.npz"] and (folder / "usps.npz").read_bytes() == before


def test_a_pack_that_was_harmed_is_refused(server, tmp_path, monkeypatch):
    path = downloads.pack("usps", tmp_path)
    monkeypatch.setenv("SPIKENB_DATA", str(tmp_path))
    whole = path.read_bytes()
    place = whole.index(SMALL["usps"][1]["train"][0].tobytes())
    for content in (
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (place, place + 999, place + 2559)),
        whole[: len(whole) // 2],
        whole[:-10],
        b"",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"usps\.npz in SPIKENB_DATA is no pack of images"):
            data.load("usps")
    np.savez(path, x_train=np.array([{}], dtype=object), y_train=np.array([0]))
    with pytest.raises(ValueError, match="is no pack of images"):
        data.load("usps")


def test_the_command_of_the_page(server, tmp_path, monkeypatch):
    (command,) = re.findall(r"^spikenb (pack .*)", (ROOT / "book/run_it_all.md").read_text("utf-8"), re.M)
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 0
    monkeypatch.setenv("SPIKENB_DATA", "packs")
    assert len(data.load("cifar10")[1]) == 50


def test_the_command(server, tmp_path, capsys, monkeypatch):
    assert cli.main(["pack", "usps", "--folder", str(tmp_path), "--train", "7", "--test", "2"]) == 0
    assert f"set SPIKENB_DATA to {tmp_path}" in capsys.readouterr().out
    monkeypatch.setenv("SPIKENB_DATA", str(tmp_path))
    assert len(data.load("usps")[1]) == 7 and len(data.load("usps", split="test")[1]) == 2
    assert cli.main(["pack", "usps", "--train", "11"]) == 2
    assert "spikenb pack: n must be at most 10" in capsys.readouterr().err
    assert cli.main(["pack", "celeba_glasses", "--folder", str(tmp_path)]) == 2
    assert "by hand" in capsys.readouterr().err
    assert cli.main(["campaign", "--seeds", "nine"]) == 2
    assert "spikenb campaign: " in capsys.readouterr().err
    for arguments, part in (
        (["--help"], "campaign"),
        (["campaign", "--help"], "--seeds"),
        (["pack", "--help"], "--train"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 0 and part in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["pack", "digits"])
