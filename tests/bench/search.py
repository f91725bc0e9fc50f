"""Exact search and MAP@R beside faiss flat, float32 torch and PML's AccuracyCalculator (faiss-cpu is theirs).

`of_search(10**6, threads=1, rounds=1)` is the gallery of a million; it takes 5 GB with the peers' copies.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tests.bench.ratio import Ratio, Skipped, alternate
from whalebench.benchmarks.core.arrays import blocks, normalise
from whalebench.benchmarks.core.search import cosines, top_k
from whalebench.reports.metrics.summary import average_precision_at_r

DIMENSIONS, K, QUERIES, TORCH_BLOCK, PROBED = 512, 50, 1000, 16384, 25
MEMORY = 300.0
"""MB that a search may take beside the gallery."""
Vectors = NDArray[np.float32]


def measure() -> list[Ratio]:
    """Top-50 of 10^5 photos on one thread and two, and MAP@R among as many."""
    if find_spec("faiss") is None:
        raise Skipped("faiss-cpu is not installed")
    return [*of_search(10**5, threads=1), *of_search(10**5, threads=2), *of_map_at_r(10**5, queries=2000)]


def of_search(photos: int, threads: int, rounds: int = 3) -> list[Ratio]:
    """Time against the faster peer, memory, and whether the answers are those of brute force.

    The peers are given embeddings of length 1, and faiss its index.
    """
    import faiss

    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((rows, DIMENSIONS), np.float32) for rows in (QUERIES, photos))
    for rows in blocks(photos, TORCH_BLOCK):
        gallery[rows] = normalise(gallery[rows])
    query = normalise(query)
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(gallery)
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: top_k(query, gallery, K),
        "faiss": lambda: index.search(query, K),
        "torch": lambda: by_torch(query, gallery),
    }
    with threadpool_limits(threads):
        tracemalloc.start()
        found, _ = top_k(query, gallery, K)
        memory = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        seconds = {name: median(each) for name, each in alternate(calls, rounds, warm_up=0).items()}
    best = min("faiss", "torch", key=lambda name: seconds[name])
    right = (found[:PROBED] == brute(query[:PROBED], gallery)).all(axis=1).sum()
    what = f"top-{K} of {photos:,}, {threads} thread{'s' * (threads > 1)}"
    return [
        Ratio(f"{what}: time by {best}'s", seconds["ours"], seconds[best], "s", 1.3, at_least=False),
        Ratio(f"{what}: memory beside the gallery", memory, MEMORY, "MB", 1.0, at_least=False),
        Ratio(f"{what}: queries as by brute force", float(right), PROBED, "queries", 1.0, at_least=True),
    ]


def by_torch(query: Vectors, gallery: Vectors) -> NDArray[np.int64]:
    """The rows of the K nearest by products in float32, block by block."""
    found = []
    for columns in blocks(len(gallery), TORCH_BLOCK):
        products = torch.from_numpy(query) @ torch.from_numpy(gallery[columns]).T
        values, rows = products.topk(min(K, products.shape[1]))
        found.append((values, rows + columns.start))
    values, rows = (torch.cat(each, 1) for each in zip(*found, strict=True))
    return rows.gather(1, values.topk(K)[1]).numpy()


def brute(query: Vectors, gallery: Vectors) -> NDArray[np.int64]:
    """The rows of the K nearest by all products in float64, of equally near ones the first."""
    products = [cosines(query, gallery[columns]) for columns in blocks(len(gallery), TORCH_BLOCK)]
    return np.argsort(-np.hstack(products), axis=1, kind="stable")[:, :K]


def of_map_at_r(photos: int, queries: int, rounds: int = 1) -> list[Ratio]:
    """Time and value of MAP@R against PML's, and memory; individuals have ten photos, some a few hundred."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    rng = np.random.default_rng(1)
    often = rng.lognormal(0.0, 1.0, photos // 10)
    labels = rng.choice(len(often), photos + queries, p=often / often.sum())
    places = rng.standard_normal((len(often), DIMENSIONS), np.float32)
    every = normalise(places[labels] + 2 * rng.standard_normal((len(labels), DIMENSIONS), np.float32))
    query, gallery, of_query, of_gallery = (
        every[:queries],
        every[queries:],
        labels[:queries],
        labels[queries:],
    )
    pml = AccuracyCalculator(("mean_average_precision_at_r",), k="max_bin_count", device=torch.device("cpu"))
    values: dict[str, float] = {}

    def ours() -> None:
        values["ours"] = float(np.nanmean(average_precision_at_r(query, of_query, gallery, of_gallery)))

    def theirs() -> None:
        given = (torch.from_numpy(each) for each in (query, of_query, gallery, of_gallery))
        values["theirs"] = pml.get_accuracy(*given)["mean_average_precision_at_r"]

    seconds = {
        name: median(each) for name, each in alternate({"ours": ours, "PML": theirs}, rounds, 0).items()
    }
    tracemalloc.start()
    ours()
    memory = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    what, apart = f"MAP@R of {queries:,} in {photos:,}", abs(values["ours"] - values["theirs"])
    return [
        Ratio(
            f"{what}: queries a second by PML's",
            queries / seconds["ours"],
            queries / seconds["PML"],
            "1/s",
            3.0,
            True,
        ),
        Ratio(f"{what}: difference of the value", apart, 1e-9, "", 1.0, at_least=False),
        Ratio(f"{what}: memory beside the embeddings", memory, MEMORY, "MB", 1.0, at_least=False),
    ]
