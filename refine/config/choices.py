"""Which choices does a setting have, what do they do, and where do they come from?"""

IMPORTANCES = {
    "magnitude": "|w| (Han et al. 2015)",
    "random": "random numbers, as a control",
    "none": "no score, so nothing is cut",
    "taylor": "|w g|, mean over batches (Molchanov et al. 2017)",
    "taylor_squared": "(w g)^2, mean over batches (Molchanov et al. 2019)",
    "fisher": "w^2 times the mean squared gradient of single images (Theis et al. 2018)",
    "snip": "|w g| with the gradient over all batches, as a share of the network's sum (SNIP, Lee "
    "et al. 2019)",
    "movement": "-w g, summed over the training steps of the last epoch (Sanh et al. 2020)",
    "activation": "|w| times the norm of the weight's input (Wanda, Sun et al. 2023)",
    "similarity": "distance of a filter to the others of its layer (FPGM, He et al. 2019); "
    "filters only",
}
ALLOCATIONS = {
    "layerwise": "every tensor loses the same share of its surviving weights (the paper)",
    "global": "one ranking over all tensors (Han et al. 2015)",
    "uniform_plus": "the same density in every tensor, but the first convolution stays dense and "
    "the last layer keeps 20 % (Gale et al. 2019)",
    "er": "surviving weights in proportion to a layer's inputs plus outputs (SET, Mocanu et al. "
    "2018)",
    "erk": "the same with the height and width of the kernel added (RigL, Evci et al. 2020)",
    "lamp": "one ranking by w^2 over the sum of all w^2 of its tensor that are not smaller (Lee "
    "et al. 2021)",
}
GRANULARITIES = {
    "weight": "single weights (the paper)",
    "filter": "output channels with their bias and batch norm, except in the last layer (Li et "
    "al. 2017)",
    "kernel": "the kernel between one input and one output channel (Mao et al. 2017)",
    "n_m": "of every pruner.m consecutive weights along the inputs, pruner.n stay (Zhou et al. "
    "2021)",
}
CRITERIA = {
    "none": "no channels are cut but single weights, by pruner.importance and pruner.granularity",
    "magnitude": "sum of |w| (Li et al. 2017)",
    "bn_scale": "scale of the batch norm (Network Slimming, Liu et al. 2017)",
    "group_norm": "sum of w^2 over all weights that depend on a channel, as a share of the "
    "group's largest (DepGraph, Fang et al. 2023)",
    "growing_reg": "the same sum as a share of the group's mean (GReg, Wang et al. 2021)",
    "taylor": "sum of |w g| (Molchanov et al. 2019)",
    "random": "random numbers, as a control",
    "fpgm": "distance to the other filters of the layer (He et al. 2019)",
    "lamp": "sum of w^2 over the sums of all channels of the group that are not smaller (Lee et "
    "al. 2021)",
}
REGULARIZERS = {
    "none": "nothing",
    "bn_scale": "strength times the sign of every batch norm's scale (Liu et al. 2017)",
    "group_norm": "shrinks whole channels, the smallest of each group most (Fang et al. 2023)",
    "growing_reg": "the same, with a strength that grows from epoch to epoch (GReg, Wang et al. "
    "2021)",
    "l1": "strength times the sign of every prunable weight (Tibshirani 1996)",
}
SELECTIONS = {
    "high_loss": "the images of highest loss (the paper)",
    "uniform": "images chosen at random",
    "entropy": "images whose predicted class probabilities have the most entropy (Lewis & Gale "
    "1994)",
    "margin": "images whose two most likely classes are closest (Scheffer et al. 2001)",
    "disagreement": "images on which the network disagrees with itself under dropout (BALD, Gal "
    "et al. 2017)",
}
STORAGES = {
    "highest": "the images that rank highest in replay.selection",
    "class_balanced": "the same number of every class, those that rank highest in replay.selection",
    "herding": "of every class, images whose mean feature is closest to the class's (iCaRL, "
    "Rebuffi et al. 2017)",
    "reservoir": "a uniform sample of all images that the cycles have seen, kept from cycle to "
    "cycle (Vitter 1985)",
    "generative": "no images: a variational autoencoder generates them (Shin et al. 2017)",
    "training": "nothing: the steps use ordinary training batches, as a control for all others",
}
SAMPLINGS = {
    "shuffled": "the whole memory in random order, again and again",
    "proportional": "images of higher loss more often, weighted so that the mean stays unbiased "
    "(Schaul et al. 2016)",
}
TEACHERS = {
    "none": "no teacher",
    "self": "the network as it was just before the cut",
    "ema": "a running average of the network's weights (Tarvainen & Valpola 2017)",
    "dense": "a trained network, which distillation.source names",
}
HEADS = {
    "keep": "as it was trained; its classes must be those of the data",
    "new": "with initial values, for other classes than it was trained on",
}
MATCHED = {
    "logits": "class probabilities, softened by the temperature (Hinton et al. 2015)",
    "features": "inputs of the last linear layer (FitNets, Romero et al. 2015)",
}
DURATIONS = {
    "replay": "in the replay's steps",
    "cycle": "in the replay's steps, and in all training until the next cycle",
}
CURVES = {
    "none": "trainer.lr_scheduler continues as if nothing had been cut",
    "fine_tune": "the last rate of the original schedule, held constant (Han et al. 2015)",
    "lr_rewind": "the last part of the original schedule again (Renda et al. 2020)",
    "slr": "up to the highest rate in a tenth of the time, later divided by 10 twice (Le & Hua "
    "2021)",
    "clr": "one cycle with a tenth of the time for warm-up (Le & Hua 2021)",
    "one_cycle": "one cycle with PyTorch's defaults (Smith & Topin 2018)",
}
CACHES = {
    "none": "nothing: what is cut is lost",
    "memory": "positions and values of what each cycle cut, compressed, in memory and in the "
    "checkpoints",
    "disk": "the same in files, and the whole network before each cut, for refine-restore",
}
SPLITS = {
    "none": "one task with all images",
    "classes": "a few classes a task, in order; one output layer for all (van de Ven & Tolias "
    "2019)",
    "permuted": "all images in every task, each with another order of the pixels (Goodfellow et "
    "al. 2013)",
}
AUGMENTATIONS = {
    "none": "the images as they are",
    "flip": "each mirrored left to right with probability 1/2",
    "crop": "shifted by up to an eighth of their size, black at the edge",
    "crop_flip": "crop and flip",
    "shift_flip": "crop and flip, with mirrored instead of black edges",
}
PRECISIONS = {
    "auto": "bf16 where the processor or GPU has it, fp16 on older GPUs, else fp32",
    "fp32": "single precision throughout",
    "bf16": "bfloat16 autocast",
    "fp16": "half precision autocast with a gradient scaler (CUDA only)",
}
REGROWTHS = {
    "none": "what is cut stays cut",
    "random": "random ones (SET, Mocanu et al. 2018)",
    "gradient": "those with the greatest |gradient| (RigL, Evci et al. 2020)",
    "saliency": "those with the greatest (w g)^2 in an earlier, denser network (arXiv:2511.11675)",
    "reference": "those that a less sparse network still has (arXiv:2511.11675)",
}
REGROWTH_ALLOCATIONS = {
    "cut": "each tensor gets back what it lost in this cycle (SET, RigL)",
    "uniform": "in proportion to how many weights of each tensor are cut",
    "global": "one ranking over all tensors",
    "greedy": "first the layer whose feature maps have changed most, by SSIM (arXiv:2511.11675)",
    "proportional": "in proportion to how much a layer's feature maps have changed "
    "(arXiv:2511.11675)",
    "controller": "learned by an LSTM from validation accuracy (arXiv:2511.11675)",
}
INITIALS = {
    "zero": "0, so that outputs stay as they are (Evci et al. 2020)",
    "kaiming": "random, uniform, scaled by the layer's inputs (He et al. 2015)",
    "xavier": "random, uniform, scaled by inputs and outputs (Glorot & Bengio 2010)",
    "fan_in": "random, normal, with a variance of 2 over the number of surviving inputs (Evci et "
    "al. 2022)",
    "stale": "the weight's value when it was cut",
    "reference": "the weight's value in the denser network",
}
FIGURES = {
    "png": "PNG, for a screen",
    "pdf": "PNG and PDF, for a paper",
    "svg": "PNG and SVG, to be edited",
    "all": "all three",
}
MODES = {
    "offline": "into files in the run's directory, which wandb sync sends",
    "online": "sent at once; log in first with wandb login",
}
