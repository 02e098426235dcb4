"""Which network did a run leave, and what was it trained on?"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from refine.builders import build_course, build_data, build_model
from refine.builders.described import class_difference, described, normalized_as
from refine.config import RunConfig, typed
from refine.datasets.prepare import Data
from refine.errors import NetworkError
from refine.records.rows import CONFIG_FILE, MODEL_FILE
from refine.stored.description import Description, beside
from refine.stored.network_file import read
from refine.stored.rebuild import load_tensors_


@dataclass(frozen=True)
class Trained:
    """A run's network and data. NetworkError if the run has left no network.

    directory: the run's. data_root: where its data set is now, if it has moved. The run's
    configuration can name any code, which is executed: use this only for runs that you trust.
    """

    directory: Path
    data_root: str | None = None

    @cached_property
    def config(self) -> RunConfig:
        """The run's configuration."""
        path = self.directory / CONFIG_FILE
        if not path.is_file():
            there = "is not a run's directory" if self.directory.is_dir() else "does not exist"
            raise NetworkError(f"{self.directory} {there}: there is no {CONFIG_FILE}")
        try:
            config = OmegaConf.load(path)
            if not isinstance(config, DictConfig):
                raise ValueError("it is not a table")
            if self.data_root is not None:
                config.dataset.root = self.data_root
            found = typed(config)  # settings that an older run lacks have their defaults
            if "_target_" not in found.model:
                raise ValueError("it names no model")
            return found
        except Exception as error:  # YAML and OmegaConf refuse in many ways
            reason = " ".join(str(error).split())
            raise NetworkError(f"{path} is damaged: {reason:.120}") from None

    @cached_property
    def data(self) -> Data:
        """The run's own training, validation and test images, on the CPU, normalised as in its
        training. NetworkError if they have other classes or another shape than then."""
        data = build_data(self.config.dataset, self.config.seed, torch.device("cpu"))
        stored = beside(self.directory / MODEL_FILE)
        if stored is None or not stored.mean:
            first = build_course(self.config, data).tasks[0]
            return normalized_as(
                replace(data, normalization=first.normalization), None, self.directory
            )
        where = f"{self.directory} was trained on other"
        remedy = "bring back the data set that it was trained on, or name it with --dataset-root"
        if differing := class_difference(stored.classes, data.classes):
            raise NetworkError(f"{where} classes than the data has now: {differing}; {remedy}")
        if tuple(data.image_shape) != tuple(stored.input_shape):
            raise NetworkError(
                f"{where} images, of {stored.input_shape}, and the data has {data.image_shape}; "
                f"{remedy}"
            )
        return normalized_as(data, stored, self.directory)

    def untrained(self) -> nn.Module:
        """The dense network before training, on the CPU, in evaluation mode."""
        torch.manual_seed(self.config.seed)
        return build_model(self.config.model, self.data, torch.device("cpu")).eval()

    def network(self) -> nn.Module:
        """The network as the run left it, on the CPU, in evaluation mode."""
        path = self.directory / MODEL_FILE
        if not path.is_file():
            raise NetworkError(
                f"{self.directory} has no {MODEL_FILE}: it has not ended, or had save_model=false"
            )
        tensors, _ = read(path)
        network = self.untrained()
        try:
            load_tensors_(network, tensors)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise NetworkError(f"{path} is of another network: {reason:.160}") from None
        return network.eval()

    def description(self) -> Description:
        """What a file of the network says about it."""
        return described(self.config.model, self.data)
