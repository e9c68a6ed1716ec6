"""Every field of a training, its default and what it does. Recipes change some, never add any.

A field that is a placeholder is None until it is given a value.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'train'  # the module of experiments/ that runs
    config.seed = 0  # of everything random: initialization, order, augmentation, dropout

    config.task = 'classify'  # what is learned: 'classify' images or 'segment' them, by pixels

    # Network: a name of cnnjax.models.names() and fields of that network; None: the paper's value.
    config.model = model = ml_collections.ConfigDict()
    model.name = 'resnet20'  # an unknown one is answered with the nearest
    model.widths = placeholder(tuple)  # vgg, resnet, fractalnet: channels per group, stage, block
    model.dropout = placeholder(object)  # a rate; fractalnet: one rate per block
    model.input_dropout = placeholder(float)  # allcnn: rate at which pixels of the images drop
    model.hidden = placeholder(tuple)  # vgg, alexnet: widths of hidden full layers; () leaves none
    model.pool = placeholder(str)  # of networks with max-pools: 'average' in their place, or 'max'
    model.relu = placeholder(str)  # 'relu', or 'relu6', which ends at 6, as in timm's MobileNet
    model.stem = placeholder(int)  # resnet, densenet: 7 (7x7 and pool) or 3 (3x3, small images)
    model.width_multiplier = placeholder(float)  # mobilenet: alpha
    model.auxiliary_weight = placeholder(float)  # googlenet: of the auxiliary losses; 0: none
    model.order = placeholder(str)  # fractional max-pooling: random or pseudorandom regions
    model.overlapping = placeholder(bool)  # fractional max-pooling: regions share boundaries
    model.canvas = placeholder(int)  # fractional max-pooling: side of what the images lie on
    model.tests = placeholder(int)  # fractional max-pooling: draws averaged in an evaluation
    model.shortcut = placeholder(str)  # resnet: A, B or C
    model.stride_in = placeholder(str)  # resnet bottlenecks: 1x1 (v1, the paper) or 3x3 (v1.5)
    model.survival = placeholder(float)  # resnet: stochastic depth, p_L of the last block; 1: off
    model.survival_rule = placeholder(str)  # resnet: 'linear' from 1 to p_L, or 'uniform'
    model.scan = placeholder(bool)  # resnet: compile the repeated blocks of a stage once
    model.remat = placeholder(bool)  # resnet, densenet: less memory, more computation
    model.columns = placeholder(int)  # fractalnet: C
    model.local_drop_path = placeholder(float)  # fractalnet: rate at which a join's inputs drop
    model.global_drop_path = placeholder(float)  # fractalnet: share of single-column mini-batches

    # Transfer: see configs/finetune.py.
    config.init_from = ''  # weights to start from: a run's workdir, 'embedded', a file or a hub id
    config.freeze = ''  # layers that stay: '', 'all' but the head, or all up to the one named
    config.head_rate = 1.0  # multiplies the learning rate of the last layer

    # Data.
    config.dataset = 'digits'  # digits, photos, folder, or a name of tensorflow-datasets
    config.data_dir = placeholder(str)  # where the data is; tensorflow-datasets: None is the usual
    config.train_split = 'train'  # tensorflow-datasets: also 'train[:45000]', 'train+extra'
    config.test_split = 'test'  # what the error is measured on
    config.image_size = 0  # side of the square images in pixels; 0 leaves them as they are
    config.border = 0  # black pixels around every picture, before all else: MNIST's 28 x 28 -> 32
    config.bad_images = 'error'  # folder: an unreadable image is an 'error', or 'skip' and count it
    config.stream = False  # False: the decoded set lives on the devices; True: decode as needed
    config.loader_threads = 16  # stream: decoding threads, of all workers together
    config.loader_workers = 0  # stream: processes that decode, seconds to start; 0: this one
    config.crop = 'shorter_side'  # stream, training: 'shorter_side' or 'random_resized'
    config.shorter_side = (256, 256)  # its range, in pixels, before a crop of image_size
    config.crop_area = (0.08, 1.0)  # random_resized: range of the crop's share of the picture
    config.crop_aspect = (3 / 4, 4 / 3)  # random_resized: range of width / height
    config.interpolation = 'bilinear'  # how pictures are scaled: also 'bicubic', 'lanczos', 'box'
    config.test_shorter_side = 0  # evaluation, resident sets: then the middle; 0: image_size

    # Normalization, (image in [0, 1] - mean) / std, and augmentation, inside the compiled step.
    config.mean = 'channel'  # 'channel', 'pixel' (a mean image) or numbers: '0.485,0.456,0.406'
    config.std = 'channel'  # 'channel', 'scalar' (one for all), 'none' (a range of 255) or numbers
    config.flip = False  # mirror every other image
    config.padding = 0  # pixels around the image before a random crop back to its size
    config.padding_mode = 'zero'  # 'zero' (the mean) or 'reflect'
    config.color = 0.0  # AlexNet's random colour shift: its standard deviation there is 0.1
    config.color_jitter = 0.0  # brightness, contrast and saturation change by up to this share

    # Optimization. Lengths (epochs, drops, warmup, ..._every) are in epochs, but in steps where
    # `steps` is set.
    config.batch_size = 128  # over all devices
    config.accumulate = 1  # micro-batches per step
    config.epochs = 100.0  # the length of the training
    config.steps = 0  # if set: the length instead of `epochs`, and the unit of all lengths
    config.learning_rate = 0.1  # after the warm-up
    config.schedule = 'step'  # 'step', 'cosine' or 'constant'
    config.drops = ()  # step: when the rate is multiplied by drop_factor
    config.drop_factor = 0.1  # step: what a drop multiplies the rate by
    config.warmup = 0.0  # its length
    config.warmup_shape = 'constant'  # 'constant' at warmup_rate, or 'linear' from it
    config.warmup_rate = 0.0  # the rate it holds, or starts from
    config.momentum = 0.9  # of SGD: the share of the velocity that stays
    config.nesterov = False  # Nesterov's momentum
    config.weight_decay = 1e-4  # times the parameter is added to its gradient
    config.decay = 'all'  # what decays: 'all', 'kernels' or 'kernels_except_depthwise'
    config.order = 'torch'  # 'torch', or 'caffe': the learning rate inside the velocity
    config.bias_rate = 1.0  # multiplies the learning rate of biases
    config.label_smoothing = 0.0  # share of the target spread over all classes
    config.dtype = 'float32'  # of activations; 'bfloat16' is faster on accelerators

    # Devices.
    config.parallel = 'shard_map'  # or 'pmap', or 'jit' (batch norm over the global batch)
    config.devices = 0  # how many of the local devices; 0: all

    config.steps_per_call = 0  # compiled into one program; 0: up to a report, but 1 on the CPU

    # Reporting.
    config.report_every = 100  # steps between two rows of metrics.jsonl; 0: only with evaluations
    config.eval_every = 1.0  # each evaluation is also saved as a checkpoint; 0: only at the end
    config.checkpoint_every = 1.0  # 0: only with evaluations
    config.keep = 2  # newest checkpoints to keep, beside the best
    config.eval_batch_size = 500  # over all devices
    config.profile = 0  # steps to trace, after the first ten, into the workdir's profile/
    return config
