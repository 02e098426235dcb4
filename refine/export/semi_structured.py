"""How is a network with two zeros in every four weights packed for the GPUs that skip them?

The file has, in half precision, the two of every four weights that may be nonzero, and their
places: 9/16 of the bytes. It has no kernel's layout, as that differs from GPU to GPU; torch makes
the layout when the file is loaded.
"""

from copy import deepcopy
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from refine.errors import NetworkError, SettingError
from refine.export.deployment import Deployment, Written
from refine.records.files import written_whole
from refine.stored.description import KEY, as_text
from refine.stored.network_file import read
from refine.stored.rebuild import rebuild

KEPT, PLACES = "two_of_four/", "places/"
ROWS, COLUMNS = 32, 64  # torch's kernels in half precision take multiples of these


def usable() -> bool:
    """Whether there is a GPU with semi-structured kernels."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def two_of_four(directory: Path, deployment: Deployment) -> Written:
    """Writes the packed file and checks it on the GPU; ``load_packed`` reads it. SettingError if no
    layer has the pattern."""
    names = fitting(deployment.network)
    if not names:
        raise SettingError(
            "--format",
            "2:4: no linear layer has two zeros in every four weights along its inputs, and "
            f"multiples of {ROWS} outputs and {COLUMNS} inputs; train with "
            "pruner.granularity=n_m, or leave 2:4 out",
        )
    path = directory / "model.2-4.safetensors"
    tensors = deepcopy(deployment.network).half().state_dict()
    for name in names:
        values, places = packed(tensors.pop(name))
        tensors |= {KEPT + name: values, PLACES + name: places}
    with written_whole(path) as part:
        part.write_bytes(safetensors.torch.save(tensors, {KEY: as_text(deployment.description)}))
    network = load_packed(path, deployment.of_other_code())
    with torch.no_grad():
        logits = network(deployment.images.cuda().half()).float().cpu()
    how = f"half precision on the GPU, {len(names)} layers packed"
    return Written(path.name, path.stat().st_size, deployment.difference(logits), how)


def load_packed(path: Path | str, network: nn.Module | None = None) -> nn.Module:
    """The network in a file of ``two_of_four``, in half precision on the GPU; ``network`` as in
    ``refine.load_model``. NetworkError says what does not fit."""
    tensors, description = read(path)
    names = [name.removeprefix(KEPT) for name in tensors if name.startswith(KEPT)]
    try:
        for name in names:
            tensors[name] = unpacked(tensors.pop(KEPT + name), tensors.pop(PLACES + name))
    except (KeyError, ValueError, RuntimeError) as error:
        raise NetworkError(f"{path} is damaged: {error!s:.80}") from None
    model = rebuild(path, tensors, description, network).half().cuda()
    for name in names:
        weight = model.get_parameter(name).detach().contiguous()
        sparse = torch.sparse.to_sparse_semi_structured(weight)
        layer = model.get_submodule(name.rpartition(".")[0])
        layer.weight = nn.Parameter(sparse, requires_grad=False)
    return model


def fitting(network: nn.Module) -> list[str]:
    """The names of the weights of linear layers that have the pattern, in a shape that the kernels
    take."""
    found = []
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Linear) or layer._parameters.get("weight") is None:
            continue  # another layer, or a weight that is made of others
        rows, columns = layer.weight.shape
        if rows % ROWS == columns % COLUMNS == 0:
            fours = layer.weight.detach().reshape(-1, 4)
            if int(fours.count_nonzero(1).max()) <= 2:
                found.append(f"{name}.weight" if name else "weight")
    return found


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The values (rows, columns / 2) of a weight (rows, columns) with the pattern, and their places
    as bytes (rows, columns / 8): half a byte holds two places of 2 bits each."""
    fours = weight.reshape(-1, 4)
    # Where fewer than two are nonzero, the first zeros are taken too.
    order = (fours != 0).int().sort(dim=1, descending=True, stable=True).indices
    places = order[:, :2].sort(dim=1).values
    halves = (places[:, 0] | places[:, 1] << 2).reshape(-1, 2)
    codes = (halves[:, 0] | halves[:, 1] << 4).to(torch.uint8)
    rows = len(weight)
    return fours.gather(1, places).reshape(rows, -1), codes.reshape(rows, -1)


def unpacked(values: Tensor, codes: Tensor) -> Tensor:
    """The weight that ``packed`` was given; ValueError if values and places do not match."""
    if values.dim() != 2 or values.numel() != 4 * codes.numel():
        raise ValueError("its values and their places are not of one tensor")
    codes = codes.reshape(-1, 1).long()
    places = torch.cat([codes >> shift & 3 for shift in (0, 2, 4, 6)], 1).reshape(-1, 2)
    fours = torch.zeros(len(places), 4, dtype=values.dtype)
    return fours.scatter_(1, places, values.reshape(-1, 2)).reshape(len(values), -1)
