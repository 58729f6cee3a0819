"""Images from scikit-learn and from packs that the tests write themselves."""

import sys

import numpy as np
import pytest
import torch

from spikenb import data, networks
from spikenb.descent import gd
from spikenb.problem import Fit


@pytest.fixture(autouse=True)
def no_downloads(tmp_path, monkeypatch):
    """An empty cache, and nothing that could fill it: these tests are the same online and off."""
    monkeypatch.setenv("SPIKENB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "pooch", None)


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
    np.savez_compressed(folder / "cifar10.npz", **arrays)
    whole = (folder / "cifar10.npz").read_bytes()
    first = whole.index(b".npy") + 30
    for at in (first, first + 40, first + 200):  # the deflate stream itself: zlib's error, not the archive's
        (folder / "cifar10.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="is no pack of images"):
            data.load("cifar10")
    np.savez(folder / "cifar10.npz", **(arrays | {"x_train": arrays["x_train"].astype(float)}))
    with pytest.raises(ValueError, match="float64"):
        data.load("cifar10")
    monkeypatch.delenv("SPIKENB_DATA")
    with pytest.raises(FileNotFoundError, match="digits"):
        data.load("cifar10")


def test_standardised_images_have_mean_0_and_deviation_1_a_channel():
    x = torch.rand(7, 3, 4, 5, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1])[:, None, None]
    z = data.standardised(x)
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-12)
    assert torch.allclose(z.std((0, 2, 3), correction=0), torch.ones(3).double())
    assert torch.allclose(data.standardised(x[:2], x), z[:2])
    with pytest.raises(ValueError, match="constant"):
        data.standardised(torch.zeros(2, 1, 3, 3))
    with pytest.raises(ValueError, match="shape"):
        data.standardised(torch.zeros(2, 9))


def test_two_classes_become_signs():
    assert data.signs(torch.tensor([0, 1, 1])).tolist() == [-1, 1, 1]
    with pytest.raises(ValueError, match="name two classes"):
        data.signs(torch.tensor([0, 1, 2]))


def test_label_noise_changes_the_share_asked_for_to_other_classes():
    y = torch.arange(1000) % 3 + 4
    noisy = data.noisy(y, 0.2, seed=1)
    assert (noisy != y).sum() == 200 and set(noisy.tolist()) == {4, 5, 6}
    assert (data.noisy(y, 0.0) == y).all() and (data.noisy(y, 1.0) != y).all()
    with pytest.raises(ValueError, match="share"):
        data.noisy(y, 1.5)
    with pytest.raises(ValueError, match="two classes"):
        data.noisy(torch.zeros(3, dtype=int), 0.5)


def test_rotated_points_keep_a_net_s_kernel_and_descent():
    x = torch.randn(6, 40, dtype=torch.float64)
    z = data.rotated(x)
    assert z.shape == (6, 6) and torch.allclose(z @ z.T / 6, x @ x.T / 40)
    wide, narrow = networks.fcn(40, 16, 3), networks.fcn(6, 16, 3)
    theta = networks.ntk(narrow, seed=2).double()
    q = torch.linalg.solve(z * (40 / 6) ** 0.5, x)  # x = LQ
    parts = narrow.split(theta)
    first = next(iter(parts))
    full = torch.cat([(parts[first] @ q).reshape(-1), theta[parts[first].numel() :]])
    y = torch.randn(6, dtype=torch.float64)
    there, here = gd(Fit(wide, x, y), full, 0.5, 5), gd(Fit(narrow, z, y), theta, 0.5, 5)
    assert here.loss == pytest.approx(there.loss, rel=1e-9)
    assert data.rotated(torch.randn(9, 2, 2)).shape == (9, 4)
