"""Data parallel training: every process has the same masks and weights after a cycle."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from refine import Distillation, Masked, Regrowth, Replay, RuntimeRefinement, Structured
from refine.distillation import Self
from refine.pruning import importance
from refine.regrowth import initial, score
from refine.replay import Generative, priority, sampling, storage

PROCESSES = 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 16),
        nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4),
    )  # fmt: skip


def replay(**settings):
    return Replay(buffer_size=12, steps=3, batch_size=4, **settings)


QUICK = {
    "magnitude": lambda: {},
    "taylor": lambda: {"pruner": Masked(importance.taylor)},
    "random": lambda: {"pruner": Masked(importance.random)},
    "gradient": lambda: {"regrowth": Regrowth(score=score.gradient, budget=0.2)},
    "structured": lambda: {"pruner": Structured()},
}
CASES = QUICK | {
    "activation": lambda: {"pruner": Masked(importance.activation)},
    "movement": lambda: {"pruner": Masked(importance.movement)},
    "fisher": lambda: {"pruner": Masked(importance.fisher)},
    "regrown at random": lambda: {"regrowth": Regrowth(initial=initial.kaiming, budget=0.2)},
    "uniform": lambda: {"replay": replay(priority=priority.uniform)},
    "reservoir": lambda: {"replay": replay(storage=storage.reservoir)},
    "prioritized": lambda: {"replay": replay(sampling=sampling.proportional)},
    "entropy": lambda: {"replay": replay(priority=priority.entropy)},
    "disagreement": lambda: {"replay": replay(priority=priority.disagreement)},
    "class_balanced": lambda: {"replay": replay(storage=storage.class_balanced)},
    "herding": lambda: {"replay": replay(storage=storage.herding)},
    "generative": lambda: {"replay": Generative(3, 4, 4, training_steps=5)},
    "teacher": lambda: {"distillation": Distillation(Self())},
    "a function": lambda: {"replay": lambda model, batches: iter(batches)},
    "structured at random": lambda: {"pruner": Structured(criterion=by_chance)},
}


def by_chance(*arguments):
    from refine.channels.criteria import random

    return random(*arguments)


def differences(case, rank, wrapped):
    """How many bits of masks, and how many tensors, differ from the first process after a cycle
    and two more steps; and what the cycle cut."""
    own = copy.deepcopy(network())
    settings = {"replay": replay()} | CASES[case]()
    parallel = DistributedDataParallel(own)
    refinement = RuntimeRefinement(parallel if wrapped else own, **settings)
    torch.manual_seed(2**64 - 1 - rank)  # as large as a seed that nobody has set
    inputs = torch.randn(48, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, inputs.mean((1, 2, 3)).mul(20).long() % 4)
    loader = DataLoader(data, batch_size=8, sampler=DistributedSampler(data))
    optimizer = torch.optim.Adam(own.parameters(), lr=0.01)

    def train(model):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

    refinement.begin_epoch()
    train(parallel)
    report = refinement.refinement_cycle(loader, 0.5)
    tensors = sum(first_differs(tensor) > 0 for tensor in own.state_dict().values())
    if not isinstance(settings.get("pruner"), Structured):
        train(parallel)
    else:
        train(DistributedDataParallel(own))
    masks = sum(first_differs(mask.to(torch.uint8)) for mask in refinement.masks.values())
    tensors += sum(first_differs(parameter) > 0 for parameter in own.parameters())
    return masks, tensors, sum(report["cut"].values()) > 0


def first_differs(tensor):
    first = tensor.detach().clone()
    dist.broadcast(first, 0)
    return int((first != tensor).sum())


def failures(rank):
    """What is raised where one process fails."""
    torch.manual_seed(0)
    model = network()
    refinement = RuntimeRefinement(model, replay=replay())
    batches = [(torch.randn(8, 1, 6, 6), torch.randint(4, (8,)))]
    said = []
    for where in ("loader", "evaluate"):
        before = copy.deepcopy(model.state_dict())

        def evaluate(network, where=where):
            if where == "evaluate" and rank:
                raise ValueError("only here")
            return 0.5

        try:
            refinement.refinement_cycle(
                [] if where == "loader" and rank else batches, 0.5, evaluate=evaluate
            )
        except (ValueError, RuntimeError) as error:
            said.append(str(error))
        same = all(before[n].equal(value) for n, value in model.state_dict().items())
        assert same, where
    return said


def work(rank, place, cases, found):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{place}", rank=rank, world_size=PROCESSES)
    torch.set_num_threads(1)
    for case in cases:
        found[rank, case] = differences(case, rank, wrapped=False)
    if "magnitude" in cases:
        found[rank, "wrapped"] = differences("magnitude", rank, wrapped=True)
        found[rank, "failures"] = failures(rank)
    dist.barrier()
    dist.destroy_process_group()


def results(tmp_path, cases):
    with mp.Manager() as manager:
        found = manager.dict()
        place = tmp_path / "meet"
        mp.spawn(work, (str(place), tuple(cases), found), PROCESSES)
        return dict(found)


def check(found):
    for (rank, case), result in found.items():
        if case != "failures":
            assert result == (0, 0, True), (rank, case)


@pytest.mark.skipif(os.name == "nt", reason="gloo over a file")
def test_processes_do_the_same(tmp_path):
    found = results(tmp_path, QUICK)
    check(found)
    first, second = found[0, "failures"], found[1, "failures"]
    assert "in another process" in first[0]
    assert "no batch" in second[0]
    assert "in another process" in first[1]
    assert second[1] == "only here"


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="gloo over a file")
def test_so_they_do_with_every_score_and_replay(tmp_path):
    check(results(tmp_path, [case for case in CASES if case not in QUICK]))


def test_a_network_that_is_spread_over_processes_is_refused():
    class DTensor(nn.Parameter):
        pass

    model = nn.Linear(2, 2)
    model.weight = DTensor(model.weight.detach())
    with pytest.raises(ValueError, match=r"weight is spread over processes"):
        RuntimeRefinement(model)
