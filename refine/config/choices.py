"""Which choices does a setting have, what do they do, and where do they come from?"""

IMPORTANCES = {
    "magnitude": "|w| (Han et al. 2015)",
    "random": "a random number: the control",
    "none": "no score, so nothing is cut",
    "taylor": "|w g|, mean over batches (Molchanov et al. 2017)",
    "taylor_squared": "(w g)^2, mean over batches (Molchanov et al. 2019)",
    "fisher": "w^2 times the mean squared gradient of single images (Theis et al. 2018)",
    "snip": "|w g| of all batches together, as a share of the network's (SNIP, Lee et al. 2019)",
    "movement": "-w g summed over the last epoch's steps (Sanh et al. 2020)",
    "activation": "|w| times the norm of its input (Wanda, Sun et al. 2023)",
    "similarity": "distance of a filter to its layer's others (FPGM, He et al. 2019); filters only",
}
ALLOCATIONS = {
    "layerwise": "every tensor loses the same share of its own survivors (the paper)",
    "global": "one ranking over all tensors (Han et al. 2015)",
    "uniform_plus": "the same density everywhere, but the first convolution stays dense and the "
    "last layer keeps 20 % (Gale et al. 2019)",
    "er": "survivors in proportion to inputs plus outputs (SET, Mocanu et al. 2018)",
    "erk": "the same with the sides of the kernel (RigL, Evci et al. 2020)",
    "lamp": "one ranking by w^2 over the sum of those not smaller in its tensor (Lee et al. 2021)",
}
GRANULARITIES = {
    "weight": "every weight for itself (the paper)",
    "filter": "output channels, with their bias and batch norm, but the last layer's "
    "(Li et al. 2017)",
    "kernel": "the kernel of one input and one output channel (Mao et al. 2017)",
    "n_m": "pruner.n of every pruner.m weights along the inputs stay (Zhou et al. 2021)",
}
CRITERIA = {
    "none": "no channels: single weights go, by pruner.importance and pruner.granularity",
    "magnitude": "sum of |w| (Li et al. 2017)",
    "bn_scale": "scale of the batch norm (Network Slimming, Liu et al. 2017)",
    "group_norm": "sum of w^2 of all that depends on a channel, as a share of the group's greatest "
    "(DepGraph, Fang et al. 2023)",
    "growing_reg": "the same as a share of the group's mean (GReg, Wang et al. 2021)",
    "taylor": "sum of |w g| (Molchanov et al. 2019)",
    "random": "at random: the control",
    "fpgm": "distance to the layer's other filters (He et al. 2019)",
    "lamp": "sum of w^2 over that of the group's channels not smaller (Lee et al. 2021)",
}
REGULARIZERS = {
    "none": "nothing",
    "bn_scale": "strength times the sign of every batch norm's scale (Liu et al. 2017)",
    "group_norm": "shrinks whole channels, the smallest of their group most (Fang et al. 2023)",
    "growing_reg": "the same, the stronger the longer it lasts (GReg, Wang et al. 2021)",
    "l1": "strength times the sign of every prunable weight (Tibshirani 1996)",
}
SELECTIONS = {
    "high_loss": "the images of highest loss (the paper)",
    "uniform": "images chosen at random",
    "entropy": "images whose predicted classes have the most entropy (Lewis & Gale 1994)",
    "margin": "images whose two likeliest classes are closest (Scheffer et al. 2001)",
    "disagreement": "images on which the network disagrees with itself under dropout "
    "(BALD, Gal et al. 2017)",
}
STORAGES = {
    "highest": "those that rank highest in replay.selection",
    "class_balanced": "as many of every class, the highest in replay.selection of each",
    "herding": "of every class those whose mean feature is closest to its own "
    "(iCaRL, Rebuffi et al. 2017)",
    "reservoir": "a fair sample of all that cycles were shown, never begun anew (Vitter 1985)",
    "generative": "no image: a variational autoencoder that draws them (Shin et al. 2017)",
    "training": "nothing: the steps take ordinary training batches, the control for all others",
}
SAMPLINGS = {
    "shuffled": "all of it in a random order, again and again",
    "proportional": "the more often the higher the loss, weighted so that the mean stays unbiased "
    "(Schaul et al. 2016)",
}
TEACHERS = {
    "none": "no teacher",
    "self": "the network as it was just before the cut",
    "ema": "a running average of its weights (Tarvainen & Valpola 2017)",
    "dense": "a trained network, distillation.source",
}
MATCHED = {
    "logits": "class probabilities, softened by the temperature (Hinton et al. 2015)",
    "features": "inputs of the last linear layer (FitNets, Romero et al. 2015)",
}
DURATIONS = {
    "replay": "in the steps of the replay",
    "cycle": "in those of the replay and from then on until the next cycle",
}
CURVES = {
    "none": "what trainer.lr_scheduler says, as if nothing had been cut",
    "fine_tune": "the last rate of the original schedule, constant (Han et al. 2015)",
    "lr_rewind": "the end of the original schedule once more (Renda et al. 2020)",
    "slr": "up again over a tenth of the time, then divided by 10 twice (Le & Hua 2021)",
    "clr": "one cycle with a tenth of warm-up (Le & Hua 2021)",
    "one_cycle": "one cycle as PyTorch has it (Smith & Topin 2018)",
}
CACHES = {
    "none": "what is cut is gone",
    "memory": "positions and values of what each cycle cut, compressed, and in the checkpoints",
    "disk": "the same in files, with the whole network before each cut: refine-restore",
}
SPLITS = {
    "none": "one task: all of it",
    "classes": "a few classes a task, in their order; one head for all (van de Ven & Tolias 2019)",
    "permuted": "the pixels of every task in another order (Goodfellow et al. 2013)",
}
AUGMENTATIONS = {
    "none": "the images as they are",
    "flip": "mirrored left to right, every second one",
    "crop": "shifted by up to an eighth of their size, black at the edge",
    "crop_flip": "both",
    "shift_flip": "both, with the picture mirrored at its edge instead of black",
}
PRECISIONS = {
    "auto": "bf16 where the processor or GPU has it, fp16 on older GPUs, else fp32",
    "fp32": "single precision throughout",
    "bf16": "bfloat16 autocast",
    "fp16": "half precision autocast with a gradient scaler (CUDA only)",
}
REGROWTHS = {
    "none": "what is cut stays cut",
    "random": "at random (SET, Mocanu et al. 2018)",
    "gradient": "greatest |gradient| where weights are cut (RigL, Evci et al. 2020)",
    "saliency": "greatest (w g)^2 of the denser network it once was (arXiv:2511.11675)",
    "reference": "where a less sparse network still has weights (arXiv:2511.11675)",
}
REGROWTH_ALLOCATIONS = {
    "cut": "each tensor gets back what it lost in this cycle (SET, RigL)",
    "uniform": "in proportion to what is cut of each tensor",
    "global": "one ranking over all tensors",
    "greedy": "the layer whose feature maps have changed most first, by SSIM (arXiv:2511.11675)",
    "proportional": "in proportion to how much they have changed (arXiv:2511.11675)",
    "controller": "an LSTM learns it from validation accuracy (arXiv:2511.11675)",
}
INITIALS = {
    "zero": "0, so that outputs stay as they are (Evci et al. 2020)",
    "kaiming": "at random, uniform, from the layer's inputs (He et al. 2015)",
    "xavier": "at random, uniform, from inputs and outputs (Glorot & Bengio 2010)",
    "fan_in": "at random, normal, variance 2 over the inputs that live (Evci et al. 2022)",
    "stale": "as it was when it was cut",
    "reference": "as it is in the denser network",
}
MODES = {
    "offline": "into files below the run's directory, which wandb sync sends",
    "online": "sent at once; log in first, with wandb login",
}
