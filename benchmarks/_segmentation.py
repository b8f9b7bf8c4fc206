"""A 2-D segmentation task of a minute: a data set, a network of depthwise-separable convolutions, Dice and IoU.

The data set `seg2d_small` is downloaded where MEDVLLM_SEG2D_URL names one, else made from a seed.

File format: one .npz (numpy, no pickled objects) with

    images  (N, H, W)  uint8 or float, at least 16 × 16, one channel
    masks   (N, H, W)  bool or integers; what is not 0 is the object
    train   (N,)       bool, optional: the images to learn from; without it the first three quarters of them

MEDVLLM_SEG2D_SHA256 is the file's checksum. Scores below MEDVLLM_SEG_MIN_DICE (0.70) or MEDVLLM_SEG_MIN_IOU (0.55) are
an error when a URL is set; without one they are reported only.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from medvllm.errors import MedvllmError

__all__ = ["SegmentationData", "dice_and_iou", "evaluate", "load", "read_npz", "synthetic"]

MIN_DICE, MIN_IOU = 0.70, 0.55
MAX_BYTES = 2**30
TIMEOUT_S = 60
STEPS, BATCH, LEARNING_RATE = 150, 8, 0.01
CHANNELS, DILATIONS = 16, (1, 2, 4)


@dataclass(frozen=True)
class SegmentationData:
    """Images (N, 1, H, W) with mean 0 and deviation 1 each, masks (N, 1, H, W) of 0 and 1, which are to learn from."""

    name: str
    images: torch.Tensor
    masks: torch.Tensor
    train: torch.Tensor
    sha256: str | None = None


def dice_and_iou(predicted: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dice 2·|A∩B| / (|A|+|B|) and IoU |A∩B| / |A∪B| of each image; both masks (N, …), not 0 is the object.

    Two empty masks agree: 1. MONAI's DiceMetric and MeanIoU give the same with `ignore_empty=False`.
    """
    if predicted.shape != masks.shape:
        raise ValueError(f"both must have one shape, got {tuple(predicted.shape)} and {tuple(masks.shape)}")
    a, b = (mask.flatten(1) != 0 for mask in (predicted, masks))  # (N, pixels)
    both = (a & b).sum(1).double()
    total = (a.sum(1) + b.sum(1)).double()
    empty = total == 0
    dice = torch.where(empty, 1.0, 2 * both / total.clamp(min=1))
    iou = torch.where(empty, 1.0, both / (total - both).clamp(min=1))
    return dice, iou


# ---- data ---------------------------------------------------------------------------------------------------------


def synthetic(*, seed: int, images: int = 96, size: int = 64) -> SegmentationData:
    """Images with one to three soft-edged elliptic lesions, and what makes them hard to find.

    The background is smooth texture under a shading of up to twice the lesions' contrast, so no threshold separates
    them; bright thin lines, which are no lesions, cross it; noise has a third of the lesions' contrast.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures, masks = [], []
    for _ in range(images):
        coarse = torch.randn(1, 1, 8, 8, generator=generator)
        picture = 0.2 * F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)[0, 0]
        turn = uniform(0, 2 * math.pi)
        picture += 2 * uniform(0.5, 1) * (rows * math.cos(turn) + columns * math.sin(turn)) / size
        mask = torch.zeros(size, size, dtype=torch.bool)
        for _ in range(1 + int(uniform(0, 3))):
            y, x, angle = uniform(10, size - 10), uniform(10, size - 10), uniform(0, math.pi)
            long, short = uniform(6, 11), uniform(4, 7)
            along = (columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)
            across = (rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)
            distance = ((along / long) ** 2 + (across / short) ** 2).sqrt()
            picture += torch.sigmoid(8 * (1 - distance))
            mask |= distance < 1
        for _ in range(2):
            angle, offset = uniform(0, math.pi), uniform(0.2, 0.8) * size
            line = (columns - size / 2) * math.cos(angle) + (rows - size / 2) * math.sin(angle) - offset + size / 2
            picture += (line.abs() < 0.8).float()
        pictures.append(picture + 0.3 * torch.randn(size, size, generator=generator))
        masks.append(mask)
    train = torch.arange(images) < images * 3 // 4
    return SegmentationData(
        f"synthetic, seed {seed}", _normal(torch.stack(pictures)), _target(torch.stack(masks)), train
    )


def _normal(images: torch.Tensor) -> torch.Tensor:
    """(N, H, W) → (N, 1, H, W), each image with mean 0 and deviation 1."""
    flat = images.float().flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True).clamp(min=1e-6)
    return flat.view(len(images), 1, *images.shape[1:])


def _target(masks: torch.Tensor) -> torch.Tensor:
    return (masks != 0).float().unsqueeze(1)


def load(environment: Mapping[str, str], *, seed: int) -> SegmentationData:
    """The data set of MEDVLLM_SEG2D_URL, checked against MEDVLLM_SEG2D_SHA256; without a URL the synthetic one.

    Raises:
        MedvllmError: the download fails, has another checksum, or is not of the format above.
    """
    url = environment.get("MEDVLLM_SEG2D_URL")
    if not url:
        return synthetic(seed=seed)
    raw = _download(url)
    found = hashlib.sha256(raw).hexdigest()
    wanted = environment.get("MEDVLLM_SEG2D_SHA256", "").strip().lower()
    if wanted and found != wanted:
        raise MedvllmError(f"MEDVLLM_SEG2D_URL has SHA-256 {found}, and MEDVLLM_SEG2D_SHA256 says {wanted}")
    name = urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1]
    return read_npz(raw, name=name, sha256=found)


def _download(url: str) -> bytes:
    if urllib.parse.urlsplit(url).scheme not in ("https", "file"):
        raise MedvllmError(f"MEDVLLM_SEG2D_URL must begin with https:// or file://, got {url!r}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            raw = bytes(response.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:  # URLError is an OSError
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise MedvllmError(f"MEDVLLM_SEG2D_URL {url} can't be read: {reason}") from error
    if len(raw) > MAX_BYTES:
        raise MedvllmError(f"MEDVLLM_SEG2D_URL {url} is larger than {MAX_BYTES} bytes")
    return raw


def read_npz(raw: bytes, *, name: str, sha256: str | None = None) -> SegmentationData:
    """A file of the format above; raises MedvllmError where it is not one."""
    import numpy

    try:
        with numpy.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("images", "masks", "train") if key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MedvllmError(f"{name}: expected an .npz of images and masks without pickled objects ({error})") from error
    except AttributeError as error:  # a plain .npy has no files
        raise MedvllmError(f"{name}: expected an .npz of images and masks, got one array") from error
    if not {"images", "masks"} <= arrays.keys():
        raise MedvllmError(f"{name}: expected the arrays images and masks, got {', '.join(arrays) or 'neither'}")
    images, masks = arrays["images"], arrays["masks"]
    if images.ndim != 3 or images.shape != masks.shape or len(images) < 4 or min(images.shape[1:]) < 16:
        raise MedvllmError(
            f"{name}: images and masks must both be (N ≥ 4, H ≥ 16, W ≥ 16), got {images.shape} and {masks.shape}"
        )
    if images.dtype.kind not in "uif" or masks.dtype.kind not in "uib":
        raise MedvllmError(f"{name}: images must be numbers and masks whole numbers, got {images.dtype}, {masks.dtype}")
    train = arrays.get("train", numpy.arange(len(images)) < len(images) * 3 // 4)
    if train.dtype != bool or train.shape != (len(images),) or train.all() or not train.any():
        raise MedvllmError(f"{name}: train must be {len(images)} booleans, some true and some false")
    return SegmentationData(
        name,
        _normal(torch.from_numpy(images.astype("float32"))),
        _target(torch.from_numpy(masks.astype("int64"))),
        torch.from_numpy(train),
        sha256,
    )


# ---- network ------------------------------------------------------------------------------------------------------


class SeparableBlock(nn.Module):
    """x + pointwise(ReLU(norm(depthwise(x)))), the depthwise 3 × 3 by our kernel where there is one."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        from medvllm import kernels

        fused = kernels.build_fused_depthwise_conv2d_if_available(channels, 3, padding=dilation, dilation=dilation)
        self.depthwise = fused or nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → the same."""
        mixed: torch.Tensor = x + self.pointwise(F.relu(self.norm(self.depthwise(x))))
        return mixed


def build_network() -> nn.Sequential:
    """(N, 1, H, W) → logits (N, 1, H, W); sees 33 × 33 pixels around each."""
    blocks = [SeparableBlock(CHANNELS, dilation) for dilation in (*DILATIONS, *DILATIONS)]
    return nn.Sequential(nn.Conv2d(1, CHANNELS, 5, padding=2), nn.ReLU(), *blocks, nn.Conv2d(CHANNELS, 1, 1))


def train_network(data: SegmentationData, *, device: str, seed: int) -> nn.Sequential:
    """A network trained on the images to learn from, by cross entropy and soft Dice."""
    torch.manual_seed(seed)
    # PyTorch's depthwise convolution on a CPU is several times as fast in channels_last; our kernel takes both.
    model = build_network().to(device, memory_format=torch.channels_last).train()
    images, masks = data.images[data.train].to(device), data.masks[data.train].to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=generator).to(device)
        flipped = [axis for axis in (2, 3) if torch.rand((), generator=generator) < 0.5]
        inputs, target = (tensor[chosen].flip(flipped) for tensor in (images, masks))
        logits = model(inputs.to(memory_format=torch.channels_last))
        probability = logits.sigmoid()
        overlap = 2 * (probability * target).sum() / (probability.sum() + target.sum()).clamp(min=1)
        loss = F.binary_cross_entropy_with_logits(logits, target) + 1 - overlap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def best_threshold(data: SegmentationData) -> dict[str, float]:
    """Dice and IoU of the one brightness that does best on the images to learn from: what needs no network."""
    levels = torch.linspace(-2, 3, 51)
    train = [float(dice_and_iou(data.images[data.train] > level, data.masks[data.train])[0].mean()) for level in levels]
    level = levels[train.index(max(train))]
    return _scores(data.images[~data.train] > level, data.masks[~data.train])


def _scores(predicted: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    dice, iou = dice_and_iou(predicted, masks)
    return {"dice": round(float(dice.mean()), 4), "iou": round(float(iou.mean()), 4)}


def thresholds(environment: Mapping[str, str]) -> dict[str, float]:
    """The least Dice and IoU; raises MedvllmError for a value that is none."""
    found = {}
    for key, name, default in (("dice", "MEDVLLM_SEG_MIN_DICE", MIN_DICE), ("iou", "MEDVLLM_SEG_MIN_IOU", MIN_IOU)):
        text = environment.get(name) or str(default)
        try:
            found[key] = float(text)
        except ValueError:
            found[key] = math.nan
        if not 0 <= found[key] <= 1:
            raise MedvllmError(f"{name} must be a number from 0 to 1, got {text!r}")
    return found


def evaluate(*, device: str, seed: int, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Trains on one part of the data set, scores the other, and compares with the thresholds."""
    from medvllm import kernels

    least = thresholds(environment)
    data = load(environment, seed=seed)
    began = time.perf_counter()
    model = train_network(data, device=device, seed=seed)
    trained_s = time.perf_counter() - began
    with torch.inference_mode():
        predicted = model(data.images[~data.train].to(device)).cpu() > 0
    scores = _scores(predicted, data.masks[~data.train])
    chosen = kernels.explain()["depthwise_conv2d"]
    low = [f"{name} {scores[name]} is below {least[name]}" for name in ("dice", "iou") if scores[name] < least[name]]
    enforced = bool(environment.get("MEDVLLM_SEG2D_URL"))
    return {
        "case": "seg2d_small",
        "provider": "depthwise-separable network",
        "dataset": data.name,
        "sha256": data.sha256,
        "checked": bool(data.sha256 and environment.get("MEDVLLM_SEG2D_SHA256")),
        "train_images": int(data.train.sum()),
        "held_out_images": int((~data.train).sum()),
        **scores,
        "threshold_baseline": best_threshold(data),
        "least": least,
        "enforced": enforced,
        "passed": not low,
        "train_s": round(trained_s, 2),
        "backend": chosen["backend"],
        "reason": chosen["reason"],
        "error": "; ".join(low) if low and enforced else None,
    }
