"""Images from scikit-learn and from packs that the tests write themselves."""

import numpy as np
import pytest
import torch

from spikenb import data


@pytest.fixture
def packs(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {
        f"{k}_{s}": rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) if k == "x" else rng.integers(0, 3, n)
        for s, n in (("train", 20), ("test", 6))
        for k in "xy"
    }
    np.savez(tmp_path / "cifar10.npz", **arrays)
    np.savez(tmp_path / "usps.npz", **{k: v[..., 0] if k[0] == "x" else v for k, v in arrays.items()})
    monkeypatch.setenv("SPIKENB_DATA", str(tmp_path))
    return tmp_path, arrays


def test_digits_need_no_file(monkeypatch):
    monkeypatch.delenv("SPIKENB_DATA", raising=False)
    x, y = data.load("digits")
    test_x, test_y = data.load("digits", split="test")
    assert x.shape == (1500, 1, 8, 8) and test_x.shape == (297, 1, 8, 8) and len(test_y) == 297
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and 0 <= x.min() and x.max() == 1
    threes, labels = data.load("digits", n=50, classes=[3, 8])
    assert labels.unique().tolist() == [0, 1] and len(threes) == 50
    assert torch.equal(threes[0], x[torch.isin(y, torch.tensor([3, 8]))][0])
    assert data.available("digits") and not data.available("cifar10")


def test_packs(packs):
    _, arrays = packs
    x, y = data.load("cifar10", n=7)
    assert np.allclose(x.numpy() * 255, arrays["x_train"][:7].transpose(0, 3, 1, 2)) and x.shape == (7, 3, 4, 4)
    assert (y.numpy() == arrays["y_train"][:7]).all()
    grey, _ = data.load("usps", split="test")
    assert grey.shape == (6, 1, 4, 4)
    two, labels = data.load("cifar10", classes=[2, 0])
    kept = arrays["y_train"][np.isin(arrays["y_train"], [0, 2])]
    assert (labels.numpy() == (kept == 0)).all() and len(two) == len(kept)


def test_clear_errors(packs, monkeypatch):
    folder, arrays = packs
    for call, error, message in (
        (lambda: data.load("imagenet"), ValueError, "name must be one of"),
        (lambda: data.load("digits", split="valid"), ValueError, "split must be one of"),
        (lambda: data.load("cifar10", classes=[1, 9]), ValueError, r"classes names \[9\], which cifar10 has not"),
        (lambda: data.load("cifar10", n=21), ValueError, "n must be at most 20"),
        (lambda: data.load("fashion_mnist"), FileNotFoundError, "set SPIKENB_DATA"),
    ):
        with pytest.raises(error, match=message):
            call()
    whole = (folder / "cifar10.npz").read_bytes()
    (folder / "cifar10.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no pack of images"):
        data.load("cifar10")
    np.savez(folder / "cifar10.npz", **{k: np.array([{}], dtype=object) for k in arrays})
    with pytest.raises(ValueError, match="is no pack of images"):
        data.load("cifar10")
    np.savez(folder / "cifar10.npz", **(arrays | {"x_train": arrays["x_train"].astype(float)}))
    with pytest.raises(ValueError, match="float64"):
        data.load("cifar10")
    monkeypatch.delenv("SPIKENB_DATA")
    with pytest.raises(FileNotFoundError, match="digits"):
        data.load("cifar10")
