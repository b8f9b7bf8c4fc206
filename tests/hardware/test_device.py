"""Each device that a machine has computes; each it lacks is refused with the remedy."""

from __future__ import annotations

import pytest

from medvllm.errors import MedvllmError
from medvllm.utils.device import resolve_device, unavailable


def test_matrix_product_is_right_on_the_device(device: str) -> None:
    import torch

    if device == "xla":
        import torch_xla

        place = torch_xla.device()
    else:
        place = torch.device(device)
    product = torch.full((3, 4), 2.0, device=place) @ torch.ones(4, 5, device=place)  # (3, 5)
    assert product.cpu().tolist() == [[8.0] * 5] * 3


def test_auto_is_a_device_that_works() -> None:
    assert unavailable(resolve_device("auto")) is None


def test_unknown_device_lists_the_valid_ones() -> None:
    with pytest.raises(MedvllmError, match=r"auto, cpu, cuda, xla, got 'tpu'"):
        resolve_device("tpu")


def test_missing_hardware_is_refused_with_a_remedy() -> None:
    if unavailable("cuda") is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MedvllmError, match="--device cpu"):
        resolve_device("cuda")
