"""Torch-Pruning and this package on the same networks: coupled groups, sizes, times, accuracy.

python -m benchmarks.torch_pruning_peer.pair [--cifar] [--seeds 3 5] [--epochs 4 3] \
    [--size 32] [--images 45000] [--work FOLDER] [--out FILE]

Both remove half of the channels of every group of coupled filters, those of least importance by the
default of each, from the same weights; parameters and MACs of both results are counted by
Torch-Pruning's own counter, ours as the module that `to_torch` gives. With --cifar, a narrow
ResNet-18 and a MobileNetV2 are trained, pruned by both at one shot, and both results are retrained
in the same way, with several seeds. A third arm prunes by ADMM to the same number of weights within
the same number of epochs and with the same learning rates. Trained networks and finished rows are
kept in the work folder: a run that was stopped goes on there, row by row. Times are processor
seconds of one interleaved run, least of five. Needs `pip install torch-pruning` (MIT).
"""

from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.reporting import RESULTS, argument_parser, spent_s, write_results
from benchmarks.torch_pruning_peer.accuracy import accuracies
from benchmarks.torch_pruning_peer.halves import (
    RATIO,
    WEIGHTED,
    our_pruning,
    their_pruning,
)
from pneumonia.compression.compact.coupling import ChannelGraph
from pneumonia.network.to_torch import to_torch
from pneumonia.network.torch_import.imported import ImportedNetwork, from_torch
from tests.network.torch_import.torch_networks import NETWORKS, network

RESULT = RESULTS / "torch_pruning_pair.json"
WORK = Path("runs") / "torch_pruning_pair"
REPEATS = 5


def their_groups(module: nn.Module, x: Tensor) -> set[frozenset[str]]:
    """Layers that lose output channels together."""
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=x)
    names = {part: name for name, part in module.named_modules()}
    found = set()
    for group in graph.get_all_groups(root_module_types=list(WEIGHTED)):
        members = {
            names[dependency.target.module]
            for dependency, _ in group
            if isinstance(dependency.target.module, WEIGHTED)
            and graph.is_out_channel_pruning_fn(dependency.handler)
        }
        found.add(frozenset(members))
    return found


def our_groups(found: ImportedNetwork) -> set[frozenset[str]]:
    """The same of our graph."""
    return {frozenset(group.layers) for group in ChannelGraph(found.spec).components()}


def least(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The least time of each of two interleaved works."""
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def compare(name: str) -> dict[str, Any]:
    """Groups, sizes and times of one network."""
    module, x = network(name)
    found = from_torch(module, x)
    theirs, ours = their_groups(module, x), our_groups(found)
    smaller = to_torch(our_pruning(name, found).eval())
    counts = {
        "dense": tp.utils.count_ops_and_params(module, x[:1]),
        "ours": tp.utils.count_ops_and_params(smaller, x[:1]),
    }
    failure = ""
    try:
        their_smaller = their_pruning(name, module, x)
        counts["torch_pruning"] = tp.utils.count_ops_and_params(their_smaller, x[:1])
    except Exception as error:  # whatever it is, the other networks go on
        failure = f"{type(error).__name__}: {error}"
    graph_times = [
        (spent_s(lambda: their_groups(module, x)), spent_s(lambda: our_groups(found)))
        for _ in range(REPEATS)
    ]
    whole_times = [
        (
            0.0 if failure else spent_s(lambda: their_pruning(name, module, x)),
            spent_s(lambda: our_pruning(name, found)),
        )
        for _ in range(REPEATS)
    ]
    import_time = min(spent_s(lambda: from_torch(module, x)) for _ in range(2))
    return {
        "groups": len(ours),
        "groups_equal": theirs == ours,
        "groups_of_torch_pruning_alone": sorted(map(sorted, theirs - ours)),
        "groups_of_ours_alone": sorted(map(sorted, ours - theirs)),
        "macs": {key: int(macs) for key, (macs, _) in counts.items()},
        "parameters": {key: int(parameters) for key, (_, parameters) in counts.items()},
        "seconds_groups": dict(zip(("torch_pruning", "ours"), least(graph_times), strict=True)),
        "seconds_pruning": dict(zip(("torch_pruning", "ours"), least(whole_times), strict=True)),
        "seconds_import_with_verification": import_time,
        "torch_pruning_failed": failure,
    }


def main() -> None:
    """Compare every network, print a table, write the results."""
    parser = argument_parser(__doc__)
    parser.add_argument("--cifar", action="store_true", help="accuracy on CIFAR-10 as well")
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(3, 5), help="trainings of ResNet-18, MobileNetV2"
    )
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=(4, 3), help="of training, of retraining"
    )
    parser.add_argument("--size", type=int, choices=(16, 32), default=32, help="of images, in px")
    parser.add_argument("--images", type=int, default=45_000, help="of the training, at most")
    parser.add_argument("--work", type=Path, default=WORK, help="trained networks and rows")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "torch_pruning": tp.__version__, "channels_removed": RATIO, "networks": {},
    }  # fmt: skip
    for name in NETWORKS:
        row = results["networks"][name] = compare(name)
        print(
            f"{name:12} groups {row['groups']:3} {'equal' if row['groups_equal'] else 'differ':6}"
            f" parameters {row['parameters']} MACs {row['macs']}"
            f" s {row['seconds_groups']} {row['seconds_pruning']} {row['torch_pruning_failed']}"
        )
    if arguments.cifar:
        results["cifar10"] = accuracies(
            arguments.seeds, tuple(arguments.epochs), arguments.size, arguments.images,
            arguments.work,
        )  # fmt: skip
    write_results(arguments.out, results)


if __name__ == "__main__":
    main()
