"""seg2d_small: Dice and IoU against MONAI, the file format, checksums and thresholds, and a network that learns."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from medvllm.errors import MedvllmError

SMALL = ("--device=cpu", "--height=16", "--width=16", "--iters=1", "--seg-dataset=seg2d_small")


@pytest.fixture(scope="module")
def segmentation() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "_segmentation.py"
    spec = importlib.util.spec_from_file_location("_segmentation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_monai(segmentation: Any, seed: int) -> None:
    from monai.metrics import DiceMetric, MeanIoU

    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(12, 1, 1, 1, generator=generator)
    predicted, masks = (torch.rand(2, 12, 1, 17, 13, generator=generator) < share).float()
    predicted[0], masks[0] = 0, 0  # both empty
    predicted[1], masks[2] = 0, 0  # one of them
    masks[3] = predicted[3]
    dice, iou = segmentation.dice_and_iou(predicted, masks)
    theirs = DiceMetric(include_background=True, ignore_empty=False)(predicted, masks)
    assert torch.allclose(dice.float(), theirs.flatten())
    theirs = MeanIoU(include_background=True, ignore_empty=False)(predicted, masks)
    assert torch.allclose(iou.float(), theirs.flatten())
    assert dice[0] == dice[3] == 1
    assert dice[1] == iou[2] == 0


def test_scores_of_different_shapes_are_refused(segmentation: Any) -> None:
    with pytest.raises(ValueError, match="one shape"):
        segmentation.dice_and_iou(torch.zeros(2, 4, 4), torch.zeros(2, 4, 5))


def test_the_synthetic_set_is_the_same_every_time_and_no_threshold_solves_it(segmentation: Any) -> None:
    data = segmentation.synthetic(seed=3)
    again = segmentation.synthetic(seed=3)
    assert data.images.equal(again.images)
    assert not data.images.equal(segmentation.synthetic(seed=4).images)
    assert data.images.shape == data.masks.shape == (96, 1, 64, 64)
    assert int(data.train.sum()) == 72
    share = data.masks.mean((1, 2, 3))
    assert float(share.min()) > 0.01
    assert float(share.max()) < 0.5
    assert segmentation.best_threshold(data)["dice"] < 0.5


def npz(**arrays: Any) -> bytes:
    raw = io.BytesIO()
    numpy.savez(raw, **arrays)
    return raw.getvalue()


IMAGES = numpy.random.default_rng(0).integers(0, 255, (8, 16, 16), dtype=numpy.uint8)
MASKS = IMAGES > 127


def test_reading_a_file(segmentation: Any) -> None:
    data = segmentation.read_npz(npz(images=IMAGES, masks=MASKS), name="x.npz")
    assert data.images.shape == (8, 1, 16, 16)
    assert data.images.mean((1, 2, 3)).abs().max() < 1e-5
    assert data.train.tolist() == [True] * 6 + [False] * 2
    assert data.masks.numpy().astype(bool)[:, 0].tolist() == MASKS.tolist()
    train = numpy.arange(8) % 2 == 0
    assert (
        segmentation.read_npz(npz(images=IMAGES, masks=MASKS, train=train), name="x").train.tolist() == train.tolist()
    )


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"not a file", "expected an .npz"),
        (npz(images=IMAGES), "got images"),
        (npz(images=IMAGES, masks=MASKS[:, :8]), "must both be"),
        (npz(images=IMAGES[:, :8, :8], masks=MASKS[:, :8, :8]), "H ≥ 16"),
        (npz(images=IMAGES, masks=MASKS.astype(float)), "masks whole numbers"),
        (npz(images=IMAGES, masks=MASKS, train=numpy.ones(8, bool)), "some true and some false"),
        (npz(images=IMAGES, masks=numpy.array([{"a": 1}] * 8, dtype=object)), "pickled"),
    ],
)
def test_files_that_are_none(segmentation: Any, raw: bytes, words: str) -> None:
    with pytest.raises(MedvllmError, match=words):
        segmentation.read_npz(raw, name="x.npz")


@pytest.mark.parametrize("value", ["much", "1.5", "-1", "nan"])
def test_thresholds_are_checked(segmentation: Any, value: str) -> None:
    assert segmentation.thresholds({"MEDVLLM_SEG_MIN_IOU": "0.9"}) == {"dice": 0.70, "iou": 0.9}
    with pytest.raises(MedvllmError, match="MEDVLLM_SEG_MIN_DICE must be a number from 0 to 1"):
        segmentation.thresholds({"MEDVLLM_SEG_MIN_DICE": value})


@pytest.mark.parametrize(
    ("url", "words"),
    [("http://localhost/x.npz", "https://"), ("file:///no/such.npz", "can't be read"), ("x.npz", "must begin")],
)
def test_addresses_are_checked(segmentation: Any, url: str, words: str) -> None:
    with pytest.raises(MedvllmError, match=words):
        segmentation.load({"MEDVLLM_SEG2D_URL": url}, seed=0)


def test_a_wrong_checksum_fails(run_benchmark: Any, tmp_path: Path) -> None:
    file = tmp_path / "set.npz"
    file.write_bytes(npz(images=IMAGES, masks=MASKS))
    done = run_benchmark("imaging", *SMALL, MEDVLLM_SEG2D_URL=file.as_uri(), MEDVLLM_SEG2D_SHA256="0" * 64)
    assert done.code == 1
    assert hashlib.sha256(file.read_bytes()).hexdigest() in done.stderr
    assert f"MEDVLLM_SEG2D_SHA256 says {'0' * 64}" in done.stderr
    assert "Traceback" not in done.stderr


def test_scores_below_the_threshold_fail_with_a_url(run_benchmark: Any, tmp_path: Path) -> None:
    file = tmp_path / "set.npz"
    masks = numpy.random.default_rng(1).random((8, 16, 16)) < 0.1  # nothing to learn
    file.write_bytes(npz(images=IMAGES, masks=masks))
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    done = run_benchmark("imaging", *SMALL, MEDVLLM_SEG2D_URL=file.as_uri(), MEDVLLM_SEG2D_SHA256=checksum)
    assert done.code == 1
    found = done.report["segmentation"]
    assert (found["sha256"], found["checked"], found["enforced"], found["passed"]) == (checksum, True, True, False)
    assert "is below 0.7" in found["error"]
    assert "failed: seg2d_small" in done.stderr


def test_a_network_reaches_the_thresholds_on_images_it_has_not_seen(run_benchmark: Any) -> None:
    done = run_benchmark("imaging", *SMALL)
    assert done.code == 0, done.stderr
    found = done.report["segmentation"]
    assert found["dice"] >= 0.70
    assert found["iou"] >= 0.55
    assert found["threshold_baseline"]["dice"] < 0.5
    assert found["held_out_images"] == 24
    assert (found["enforced"], found["passed"]) == (False, True)
    assert found["backend"] == "torch"
    assert found["reason"]
