"""The image sets at their sources: fetched once, verified, kept as they were published, read without unpickling.

A file counts as itself only if its SHA-256 is the published one, when it is fetched and every time it is read.
"""

import gzip
import hashlib
import io
import os
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import _checks

CELEBA_SIZE = 32
"""Height and width that CelebA's images are resized to; the sources do not say theirs."""


# ---- one parser a format: (paths, split, n) to uint8 images and labels; the caller takes the first n ----


def _cifar(paths, split, n):
    """Records of a label byte and 3×32×32 bytes, five files of them for training, in a tar.gz."""
    wanted = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    with tarfile.open(paths[0], "r|gz") as archive:  # in the order that they lie there: a stream has no way back
        raw = {
            name: archive.extractfile(member).read()
            for member in archive
            if (name := member.name.rpartition("/")[2]) in wanted
        }
    records = np.frombuffer(b"".join(raw[name] for name in wanted), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _matlab(paths, split, n):
    """X of shape (32, 32, 3, n), and y of shape (n, 1), where 10 stands for the digit 0."""
    from scipy.io import loadmat

    content = loadmat(paths[0])
    return content["X"].transpose(3, 0, 1, 2), content["y"].reshape(-1) % 10


def _idx(paths, split, n):
    """Two files, images and labels: the number of axes in byte 4, the shape as big-endian 32-bit ints, the bytes."""
    arrays = []
    for path in paths:
        raw = gzip.decompress(path.read_bytes())
        axes = raw[3]
        shape = np.frombuffer(raw, ">i4", axes, 4)
        arrays.append(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape))
    return arrays


def _svmlight(paths, split, n):
    """Lines "label 1:value … 256:value": labels from 1, values from -1 to 1, rounded here to 256 steps."""
    from sklearn.datasets import load_svmlight_file

    values, labels = load_svmlight_file(paths[0], n_features=256, zero_based=False)
    return np.rint((values.toarray() + 1) * 127.5).reshape(-1, 16, 16), labels - 1


def _celeba(paths, split, n):
    """JPEGs in a zip, read one by one: the square in the middle, resized; class 1 wears glasses."""
    from PIL import Image
    from tqdm import tqdm

    archive, attributes, partition = paths
    part = {"train": "0", "test": "2"}[split]
    rows = (line.split() for line in partition.read_text().splitlines())
    names = [name for name, where in rows if where == part][:n]
    _, header, *rows = attributes.read_text().splitlines()
    column = 1 + header.split().index("Eyeglasses")
    glasses = {row[0]: row[column] == "1" for row in map(str.split, rows)}
    images = np.empty((len(names), CELEBA_SIZE, CELEBA_SIZE, 3), np.uint8)
    with zipfile.ZipFile(archive) as file:
        for i, name in enumerate(tqdm(names, desc=f"celeba_glasses, {split}", unit="image")):
            with Image.open(io.BytesIO(file.read(f"img_align_celeba/{name}"))) as image:
                width, height = image.size
                side = min(width, height)
                left, top = (width - side) // 2, (height - side) // 2
                box = (left, top, left + side, top + side)
                small = image.convert("RGB").resize((CELEBA_SIZE, CELEBA_SIZE), Image.Resampling.BILINEAR, box)
                images[i] = np.asarray(small)
    return images, np.array([glasses[name] for name in names])


# ---- the sets ----


@dataclass(frozen=True)
class ImageSet:
    """Where a set comes from: its page, the address its files' names are put after (None: there is no direct link),
    the SHA-256 of every file, the files that a split needs, and what reads them."""

    title: str
    page: str
    address: str | None
    sums: dict
    train: tuple
    test: tuple
    read: Callable


SETS = {
    "cifar10": ImageSet(
        "CIFAR-10, binary version",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        train=("cifar-10-binary.tar.gz",),
        test=("cifar-10-binary.tar.gz",),
        read=_cifar,
    ),
    "svhn": ImageSet(
        "The Street View House Numbers, cropped digits",
        "http://ufldl.stanford.edu/housenumbers/",
        "http://ufldl.stanford.edu/housenumbers/",
        {
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
        train=("train_32x32.mat",),
        test=("test_32x32.mat",),
        read=_matlab,
    ),
    "fashion_mnist": ImageSet(
        "Fashion-MNIST",
        "https://github.com/zalandoresearch/fashion-mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        train=("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        test=("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        read=_idx,
    ),
    "usps": ImageSet(
        "USPS handwritten digits, as LIBSVM has them",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",
        {
            "usps.bz2": "3771e9dd6ba685185f89867b6e249233dd74652389f263963b3b741e994b034f",
            "usps.t.bz2": "a9c0164e797d60142a50604917f0baa604f326e9a689698763793fa5d12ffc4e",
        },
        train=("usps.bz2",),
        test=("usps.t.bz2",),
        read=_svmlight,
    ),
    "celeba_glasses": ImageSet(
        f"CelebA, aligned faces with and without glasses, the middle square resized to {CELEBA_SIZE}×{CELEBA_SIZE}",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        None,
        {
            "img_align_celeba.zip": "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
            "list_attr_celeba.txt": "f0e5da289d5ccf75ffe8811132694922b60f2af59256ed362afa03fefba324d0",
            "list_eval_partition.txt": "fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
        },
        train=("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"),
        test=("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"),
        read=_celeba,
    ),
}
"""The sets by name."""


# ---- the cache ----


def cache():
    """The folder that keeps the files, a subfolder a set: `$SPIKENB_CACHE`, else where pooch keeps a project's files
    (~/.cache/spikenb on Linux), which is found without pooch."""
    if folder := os.environ.get("SPIKENB_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local", "spikenb", "spikenb", "Cache")
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/spikenb"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "spikenb")


def at_hand(name):
    """Whether all files of a set are in the cache; that they are intact is seen when they are read."""
    kept = SETS[_checks.choice("name", name, SETS)]
    return all((cache() / name / file).is_file() for file in kept.sums)


def images(name, split, n=None):
    """A set's images as they were published; what is missing is downloaded first, with a progress bar.

    Parameters
    ----------
    name : {"cifar10", "svhn", "fashion_mnist", "usps", "celeba_glasses"}
    split : {"train", "test"}
    n : int, optional
        The first n images, all unless given.

    Returns
    -------
    x : ndarray, uint8, shape (n, height, width) or (n, height, width, 3).
    y : ndarray, int64, shape (n,).

    Raises FileNotFoundError that says how to get the set where it is neither in the cache nor to be had, ValueError
    for a file that is not the published one or for more images than there are, OSError for a cache that cannot be
    written. A download that breaks off leaves nothing behind. CelebA's files are put into the cache by hand; its
    images are decoded anew at each call, minutes for all of them, which `pack` does once.
    """
    kept = SETS[_checks.choice("name", name, SETS)]
    wanted = getattr(kept, _checks.choice("split", split, ("train", "test")))
    if n is not None:
        _checks.count("n", n)
    x, y = kept.read([_file(name, file) for file in wanted], split, n)
    if n is not None and n > len(y):
        raise ValueError(f"n must be at most {len(y)}, the images that {name} ({split}) has, not {n}")
    return np.array(x[:n], np.uint8, order="C"), np.array(y[:n], np.int64)


def _file(name, file):
    """The path of a file of the set in the cache, fetched if need be, verified."""
    path = cache() / name / file
    if not path.is_file():
        _fetch(name, path)
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    kept = SETS[name]
    if found != kept.sums[file]:
        again = f"get it again by hand from {kept.page}" if kept.address is None else "call again, which downloads it"
        raise ValueError(
            f"{path} is not the published file, it is damaged or was changed: delete it and {again} (SHA-256 {found})"
        )
    return path


def _fetch(name, path):
    """Download into the cache by pooch, which writes to a temporary file, verifies it and renames it."""
    kept = SETS[name]
    if kept.address is None:
        raise _absent(name, f"{path.name} is missing, and there is no direct link to it")
    try:
        import pooch
        from requests import RequestException
    except ImportError as error:
        raise _absent(name, f"downloads need the package {error.name}, which is not installed") from None
    url, folder = kept.address + path.name, path.parent
    get = pooch.HTTPDownloader(progressbar=True)
    try:
        pooch.retrieve(url, f"sha256:{kept.sums[path.name]}", fname=path.name, path=folder, downloader=get)
    except RequestException as error:
        raise _absent(name, f"{url} could not be downloaded ({error})") from error
    except ValueError as error:
        raise ValueError(
            f"what {url} sent is not the published {path.name} (another SHA-256), and nothing of it was kept: try "
            f"again, or put the file from {kept.page} into {folder} by hand"
        ) from error
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error}); make room, or set SPIKENB_CACHE to a folder that can be written"
        ) from error


def _absent(name, why):
    """What to raise where a set cannot be had, with the three ways to get images."""
    kept, folder = SETS[name], cache() / name
    if kept.address is None:
        first = f"download {', '.join(kept.sums)} by hand from {kept.page} (Google Drive) and put them into {folder}"
    else:
        first = '`pip install "pooch>=1.8"` and be online'
    return FileNotFoundError(
        f"{name} is not here: {why}. Three ways: {first}; set SPIKENB_DATA to a folder that holds {name}.npz, which "
        f'`spikenb pack {name}` writes on a machine that has the set; or use "digits", which needs no file'
    )


# ---- packs ----


def pack(name, folder=".", n_train=None, n_test=None):
    """Write a set, or its first images, as `<folder>/<name>.npz`, which `data.load` reads through `$SPIKENB_DATA`.

    Parameters
    ----------
    name : str
        A name in `SETS`.
    folder : path
        Made if it is not there.
    n_train, n_test : int, optional
        How many images of each split, the first ones; all unless given.

    Returns
    -------
    path : Path
        The file: x_train, y_train, x_test, y_test and source. It is there whole or not at all, and the same to the
        byte each time, for stored results know a pack by its digest.

    Raises what `images` does.
    """
    kept = SETS[_checks.choice("name", name, SETS)]
    counts = {"train": n_train, "test": n_test}
    for split, n in counts.items():
        if n is not None:
            _checks.count(f"n_{split}", n)
    arrays = {}
    for split, n in counts.items():
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images(name, split, n)
    sums = ", ".join(f"{file} (SHA-256 {digest})" for file, digest in kept.sums.items())
    arrays["source"] = np.array(f"{kept.title}; {kept.page}; from {sums}")
    path = Path(folder, f"{name}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as scratch:
        np.savez(whole := Path(scratch, path.name), **arrays)  # not compressed: checksums then see every damage
        os.replace(whole, path)
    return path
