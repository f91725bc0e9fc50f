"""LightGlue, an extra: a learned matcher of SIFT key points in the place of the ratio test."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from whalebench import MissingError, RunFailedError
from whalebench.benchmarks.photos import Size
from whalebench.methods.parts.matching.keypoints import Keypoints, rooted


def require_lightglue() -> None:
    """Raises MissingError where kornia, which brings LightGlue, is not installed."""
    if find_spec("kornia") is None:
        raise MissingError(
            "matcher=lightglue needs a package that is not installed: install whalebench[lightglue], or set "
            "matcher=ratio."
        )


class LightGlue:
    """Lindenberger et al. 2023, as kornia has it, with the weights for SIFT (downloaded once)."""

    def __init__(self, size: Size, device: torch.device) -> None:
        require_lightglue()
        from kornia.feature import LightGlue as Network  # noqa: PLC0415  (an extra)

        try:
            self.network = Network("sift").eval().to(device)
        except Exception as error:  # no network, no disk, no such file any more
            raise RunFailedError(
                f"the weights of LightGlue cannot be had ({type(error).__name__}: {error}): check the "
                f"network connection, or set matcher=ratio."
            ) from error
        self.size, self.device = size, device

    def match(self, query: Keypoints, gallery: Keypoints) -> NDArray[np.int64]:
        """Pairs (matches, 2) of points of two photos of the size it was built for."""
        if not len(query) or not len(gallery):
            return np.zeros((0, 2), np.int64)
        with torch.inference_mode():
            found = self.network({"image0": self._seen(query), "image1": self._seen(gallery)})
        pairs: NDArray[np.int64] = found["matches"][0].cpu().numpy().astype(np.int64)
        return pairs

    def _seen(self, points: Keypoints) -> dict[str, torch.Tensor]:
        places = torch.from_numpy(points.places)[None].to(self.device)
        return {
            "keypoints": places[..., :2],
            "scales": places[..., 2],
            "oris": places[..., 3],
            "descriptors": torch.from_numpy(rooted(points.descriptors))[None].to(self.device),
            "image_size": torch.tensor([self.size[::-1]], device=self.device),
        }
