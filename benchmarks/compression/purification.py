"""What unused-path removal and purification gain on the networks of `tables`, one by one.

    python -m benchmarks.compression.purification [--work runs/tables]

For each network: non-zero weights, those left without unused paths (the outputs stay the same), and
those left after purification within 0.2 % of the accuracy on held-out images, without training.
Where purification removes nothing, the cheapest single filter or hidden unit says why. The rows
`projected` are the dense network with columns of least energy set to zero, layer by layer, without
training: only their path removal is meaningful. Writes results/purification.json and the page.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.compression.jobs import LENET_EXPONENTS, dense_weights, network_of
from benchmarks.compression.methods import layer_counts, remove_dead_paths
from benchmarks.compression.page import PURIFICATION, write_tables
from benchmarks.compression.tables import folder_of, loaded
from benchmarks.compression.training import Images, accuracy, read_images
from benchmarks.reporting import argument_parser
from pneumonia.compression.compact.coupling import ChannelGraph, close_units
from pneumonia.compression.compact.masks import masked_tensors
from pneumonia.compression.prune.purify import purify
from pneumonia.compression.sets.network_set import read_channels
from pneumonia.compression.sets.units import Columns
from pneumonia.network.module import Network
from pneumonia.runtime.atomic import write_text

BUDGET = 0.002
JOBS_SHOWN = ("narrow-88", "grouped-240", "narrow-132")
PROJECTED = (8, 32)


def weights_of(network: Network) -> dict[str, Tensor]:
    """Layer -> weight, without gradients."""
    return {name: weight.detach().clone() for name, weight in network.weights().items()}


def non_zero(weights: Mapping[str, Tensor]) -> int:
    """Weights that are not zero."""
    return sum(int(w.count_nonzero()) for w in weights.values())


def remove_unit(
    graph: ChannelGraph, masks: dict[str, Tensor], unit: int
) -> tuple[dict[str, Tensor], int]:
    """Masks without a filter and what it leads to, and the weights that go."""
    live = graph.live_units_of(masks)
    live[unit] = False
    found = graph.live_part(masks, close_units(graph, read_channels(masks), live))
    return found, sum(int((masks[n] & ~found[n]).sum()) for n in masks)


def purified_row(name: str, network: Network, images: Images, total: int) -> dict[str, object]:
    """All numbers of one network."""
    before = non_zero(network.weights())
    network = remove_dead_paths(network)
    graph, weights = ChannelGraph(network.spec), weights_of(network)
    tensors = {n: t.detach().clone() for n, t in network.tensors().items()}
    masks = {n: w != 0 for n, w in weights.items()}

    def evaluate(chosen: dict[str, Tensor]) -> float:
        network.load_tensors(masked_tensors(graph, tensors, chosen))
        return accuracy(network, images.held_out)

    reference = evaluate(masks)
    found = purify(graph, weights, masks, evaluate, BUDGET)
    left = sum(int(mask.sum()) for mask in found.masks.values())
    row = {
        "network": name, "rate_as_pruned": round(total / before, 2),
        "rate_without_unused_paths": round(total / non_zero(weights), 2),
        "rate_purified": round(total / left, 2), "units": int((~graph.protected).sum()),
        "units_removed": found.removed, "held_out": reference, "held_out_purified": found.metric,
    }  # fmt: skip
    if not found.removed:
        drops = []
        for unit in torch.nonzero(~graph.protected).flatten().tolist():
            own, n_gone = remove_unit(graph, masks, unit)
            drops.append((reference - evaluate(own), n_gone))
        drop, n_gone = min(drops)
        row |= {"cheapest_unit_costs": round(drop, 5), "cheapest_unit_weights": n_gone}
    return row


def projected(dense: Network, rate: float) -> Network:
    """The network with the columns of least energy of each layer at zero."""
    weights = weights_of(dense)
    counts = layer_counts(weights, LENET_EXPONENTS, rate)
    with torch.no_grad():
        for name, weight in dense.weights().items():
            weight.copy_(Columns(max(1, counts[name] // len(weight))).project(weights[name]).z)
    return dense


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/tables"))
    options = parser.parse_args()
    total, spec = dense_weights("lenet5/dense"), network_of("lenet5/dense")
    images = read_images("mnist", spec)
    rows = []
    for rate in PROJECTED:
        dense = loaded(folder_of("lenet5/dense", 0, options.work) / "dense_form")
        network = projected(dense, rate)
        before = non_zero(network.weights())
        after = non_zero(remove_dead_paths(network).weights())
        rows.append({
            "network": f"projected, columns {rate}x", "rate_as_pruned": round(total / before, 2),
            "rate_without_unused_paths": round(total / after, 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
    for job in JOBS_SHOWN:
        folder = folder_of(f"lenet5/{job}", 0, options.work) / "dense_form"
        if folder.is_dir():
            rows.append(purified_row(job, loaded(folder), images, total))
            print(rows[-1], flush=True)
            write_text(str(PURIFICATION), json.dumps(rows, indent=1) + "\n")
    write_tables(options.work)


if __name__ == "__main__":
    main()
