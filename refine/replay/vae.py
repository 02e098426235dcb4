"""How does a small network make examples of a class?

A conditional variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114; conditional: Sohn et
al. 2015) of perceptrons, on flattened inputs of zero mean and unit variance or near to it.
"""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_VARIANCE = 1e-4  # of a pixel around its decoded value; 0 would be infinitely likely


class VAE(nn.Module):
    """Encodes ``size`` numbers and a class into ``latent`` ones, and decodes these. Initial weights
    are random as PyTorch's own are, but drawn from ``generator``, which is the CPU's."""

    def __init__(
        self, size: int, classes: int, hidden: int, latent: int, generator: torch.Generator
    ):
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Linear:
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs)  # draws nothing globally
            for parameter in layer.parameters():
                bound = 1 / sqrt(inputs)
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            return layer

        self.classes, self.latent = classes, latent
        self.encoder = nn.Sequential(
            linear(size + classes, hidden), nn.ReLU(), linear(hidden, 2 * latent)
        )
        self.prior = nn.Sequential(linear(classes, hidden), nn.ReLU(), linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(
            linear(latent + classes, hidden),
            nn.ReLU(),
            linear(hidden, hidden),
            nn.ReLU(),
            linear(hidden, size),
        )

    def make(self, numbers: Tensor, noise: Tensor) -> Tensor:
        """Examples (N, size) of the classes (N,); ``noise`` is (N, latent), normal."""
        marks = self._marks(numbers)
        mean, log_variance = self.prior(marks).chunk(2, 1)
        return self._decoded(mean + noise * (log_variance / 2).exp(), marks)

    def loss(self, flat: Tensor, numbers: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
        """The negative evidence lower bound in nats, without constants, of (N, size) examples
        whose ``weights`` sum to 1; ``noise`` is (N, latent), normal.

        Pixels are normal around what is decoded, with the variance for which the bound is highest,
        the squared error itself (Rybkin et al. 2021, arXiv:2006.13202). With a variance of 1, as a
        plain squared error has, an image tells less than its code costs, and all become the mean.
        Codes come near to a normal distribution of their class, which is learned too: they tell
        the class early in training, and with one distribution for all of them the classes that
        are made then get mixed up.
        """
        marks = self._marks(numbers)
        mean, log_variance = self.encoder(torch.cat([flat, marks], 1)).chunk(2, 1)
        prior_mean, prior_log_variance = self.prior(marks).chunk(2, 1)
        decoded = self._decoded(mean + noise * (log_variance / 2).exp(), marks)
        error = weights @ (decoded - flat).square().mean(1)
        log_ratio = log_variance - prior_log_variance
        distance = (mean - prior_mean).square() / prior_log_variance.exp()
        divergence = (distance + log_ratio.exp() - log_ratio - 1).sum(1) / 2
        return flat.shape[1] / 2 * (error + LEAST_VARIANCE).log() + weights @ divergence

    def _decoded(self, codes: Tensor, marks: Tensor) -> Tensor:
        return self.decoder(torch.cat([codes, marks], 1))

    def _marks(self, numbers: Tensor) -> Tensor:
        return F.one_hot(numbers.long(), self.classes).float()
