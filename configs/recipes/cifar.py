"""How each paper trains its networks on CIFAR and SVHN; configs/cifar.py has them by name.

Each function changes the fields of configs/base.py in which its paper differs.
"""

from configs.recipes.lengths import stretch


def street_view(config):
    """SVHN has 604,388 images and is not augmented. Where a paper gives no length, a network makes
    as many steps as on CIFAR. Local contrast normalization, which NIN, Maxout and others had, is
    left out.

    DenseNet only divides the images by 255, uses dropout and trains for 40 epochs (section 4.2).
    FractalNet trains for 20 (section 4.1), and its rate falls as on CIFAR. Stochastic depth has 152
    layers and 50 epochs; its rate falls after 30 and 35 (section 4). Wide ResNets divide by 255,
    too, and have a rate, a length and a dropout of their own (section 3). Maxout's and
    DropConnect's networks are of other sizes; Deeply-Supervised Nets have a softmax here.
    DropConnect's random rotations and scales are left out: we do not know them."""
    name = config.model.name
    config.dataset, config.train_split = 'svhn_cropped', 'train+extra'
    config.flip, config.padding, config.whiten = False, 0, False
    if name.startswith('densenet'):
        config.mean, config.std = '0', '1'
        config.model.dropout = 0.2
        config.epochs = 40.0
        config.drops = (20, 30)
    elif name.startswith('fractalnet'):
        config.epochs = 20.0
        config.drops = (10, 15, 17.5, 18.75)
    elif name.startswith('wide_resnet'):
        config.mean, config.std = '0', '1'
        config.model.dropout = 0.4
        config.learning_rate = 0.01
        config.epochs = 160.0
        config.drops, config.drop_factor = (80, 120), 0.1
    elif name == 'maxout':  # svhn.yaml: the lowest validation error was that of epoch 142
        config.model.name = 'maxout_svhn'
        config.learning_rate, config.momentum = 0.2, 0.6
        config.epochs = 142.0
    elif name == 'dropconnect':
        config.model.hidden, config.crop_size = (512,), 28
        config.epochs = 160.0
        config.drops = (100, 150)
    elif config.model.survival:
        config.model.blocks = (25, 25, 25)
        config.epochs = 50.0
        config.drops = (30, 35)
    elif not config.steps:
        stretch(config, 50_000 / 604_388)
    if name == 'dsn':
        config.loss = 'cross_entropy'


def resnet(config):
    """He et al. 2015, section 4.2: 64,000 steps on images less the mean image."""
    config.mean, config.std = 'pixel', 'none'
    config.batch_size = 128
    config.steps = 64_000
    config.learning_rate = 0.1
    config.drops = (32_000, 48_000)
    config.weight_decay = 1e-4
    config.order = 'caffe'
    config.eval_every = config.checkpoint_every = 390.0  # steps: an epoch
    if config.model.name not in ('resnet20', 'resnet32', 'resnet44', 'resnet56'):
        config.warmup = 400.0  # the paper: until the training error is below 80 %
        config.warmup_rate = 0.01
    if config.model.name in ('resnet1202', 'preact_resnet1001'):
        config.model.scan = config.model.remat = True


def stochastic_depth(config):
    """Huang et al. 2016, section 4: the linear rule to p_L = 0.5. The paper reports the test error
    at the epoch of the lowest validation error (--config.train_split='train[:45000]' and
    --config.val_split='train[45000:]')."""
    config.mean, config.std = 'pixel', 'scalar'
    config.batch_size = 128
    config.epochs = 500.0
    config.learning_rate = 0.1
    config.drops = (250, 375)
    config.nesterov = True
    config.weight_decay = 1e-4
    config.model.survival = 0.5
    if config.model.name == 'resnet1202':
        config.epochs = 300.0
        config.drops = (150, 225)
        config.warmup = 10.0
        config.warmup_rate = 0.01
        config.model.scan = config.model.remat = True


def wide_resnet(config):
    """Zagoruyko & Komodakis 2016, section 3: the borders of crops are reflected, images have mean 0
    and standard deviation 1. --config.model.dropout=0.3 makes WRN-28-10 better (Table 6). The first
    tables are of whitened images, --config.whiten=True, and have higher errors: 4.97 and 22.89 %
    for WRN-40-4, 4.81 and 22.07 % for WRN-16-8, 4.17 and 20.50 % for WRN-28-10 (Table 4)."""
    config.padding_mode = 'reflect'
    config.batch_size = 128
    config.epochs = 200.0
    config.learning_rate = 0.1
    config.drops, config.drop_factor = (60, 120, 160), 0.2
    config.nesterov = True
    config.weight_decay = 5e-4


def resnext(config):
    """Xie et al. 2016, section 5.3; batch and Nesterov's momentum as in the authors' code,
    https://github.com/facebookresearch/ResNeXt."""
    config.batch_size = 128
    config.epochs = 300.0
    config.learning_rate = 0.1
    config.drops = (150, 225)
    config.nesterov = True
    config.weight_decay = 5e-4


def densenet(config):
    """Huang et al. 2016, section 4.2."""
    config.batch_size = 64
    config.epochs = 300.0
    config.learning_rate = 0.1
    config.drops = (150, 225)
    config.nesterov = True
    config.weight_decay = 1e-4


def fractalnet(config):
    """Larsson et al. 2016, section 4.1: the rate falls whenever the epochs left have halved.

    Biases learn twice as fast and do not decay, as in the authors' Caffe network. The authors'
    weight decay is not known; 1e-4 is from a solver file that others published.
    """
    config.mean, config.std = 'pixel', 'none'
    config.batch_size = 100
    config.epochs = 400.0
    config.learning_rate = 0.02
    config.drops = (200, 300, 350, 375)
    config.weight_decay = 1e-4
    config.decay = 'kernels'
    config.bias_rate = 2.0
    config.order = 'caffe'


def nin(config):
    """Lin et al. 2013, sections 4.1 and 4.2: images whitened as Maxout's; the rate falls to a tenth
    twice, when the training stalls. The paper gives no rate, decay or length; ours are a choice."""
    config.whiten = True
    config.batch_size = 128
    config.epochs = 250.0
    config.learning_rate = 0.05
    config.drops = (150, 200)
    config.weight_decay = 1e-4
    config.order = 'caffe'


def allcnn(config):
    """Springenberg et al. 2014, section 3.1: whitened images, and translations of up to 5 pixels,
    which fill the borders with their mean. The paper chooses each network's rate among 0.25, 0.1,
    0.05 and 0.01; the size of its batches is not stated."""
    config.whiten = True
    config.padding = 5
    config.batch_size = 128
    config.epochs = 350.0
    config.learning_rate = 0.05
    config.drops = (200, 250, 300)
    config.weight_decay = 1e-3
    config.order = 'caffe'


def convnet(config):
    """CS231n publishes no recipe; this short one is ours."""
    config.epochs = 20.0
    config.learning_rate = 0.01
    config.drops = (15,)


def highway(config):
    """Srivastava et al. 2015, section 3.3.2, as in the authors' Caffe code: 200,000 steps; biases
    learn twice as fast and do not decay. Their images have global contrast normalization and no
    whitening; ours have their mean and deviation instead. Their last layer decays ten times as
    much as the others, ours as much."""
    config.mean, config.std = 'pixel', 'scalar'
    config.padding = 8
    config.batch_size = 100
    config.steps = 200_000
    config.learning_rate = 0.025
    config.drops = (100_000, 150_000, 175_000)
    config.nesterov = True
    config.weight_decay = 1e-3
    config.decay = 'kernels'
    config.bias_rate = 2.0
    config.order = 'caffe'
    config.eval_every = config.checkpoint_every = 500.0  # steps: an epoch


def elu_net(config):
    """Clevert et al. 2015, section 4.3, the 35,000 steps before the fine-tuning: whitened images.
    The order of the momentum is our choice."""
    config.whiten = True
    config.batch_size = 100
    config.steps = 35_000
    config.learning_rate = 0.01
    config.weight_decay = 5e-4
    config.order = 'caffe'
    config.eval_every = config.checkpoint_every = 500.0  # steps: an epoch


def elu_net_finetune(config):
    """Clevert et al. 2015, section 4.3: 50,000 steps at a tenth of the rate, with dropout after
    every layer of a stack. It starts from the weights of elu_net (--config.init_from), and so
    without their momentum."""
    elu_net(config)
    config.steps = 50_000
    config.learning_rate = 0.001
    config.model.dropout_layers = 'all'


def elu_net_finetune2(config):
    """Clevert et al. 2015, section 4.3: 40,000 steps more, with 1.5 times the dropout, from the
    weights of elu_net_finetune."""
    elu_net_finetune(config)
    config.steps = 40_000
    config.model.dropout = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.0)


def elu_net11(config):
    """Clevert et al. 2015, section 4.2: rates of 0.01, 0.005 from step 35,000 on, then a tenth of
    it twice. The size of its batches, not stated, is that of elu_net."""
    elu_net(config)
    config.steps = 165_000
    config.warmup, config.warmup_rate = 35_000.0, 0.01
    config.learning_rate = 0.005
    config.drops = (85_000, 135_000)


def recurrent_cnn(config):
    """Liang & Hu 2015, section 4.1, subtracts the mean image. Batches, rates, weight decay and
    length are our choice."""
    config.mean, config.std = 'pixel', 'scalar'
    config.batch_size = 128
    config.epochs = 200.0
    config.learning_rate = 0.01
    config.drops = (120, 160)
    config.weight_decay = 5e-4
    config.order = 'caffe'


def competitive(config):
    """Liao & Carneiro 2015, section 4: whitened images without augmentation. Batches, rates, weight
    decay and length are our choice."""
    config.whiten = True
    config.flip, config.padding = False, 0
    config.batch_size = 128
    config.epochs = 100.0
    config.learning_rate = 0.1
    config.drops = (60, 80)
    config.weight_decay = 5e-4


def rir(config):
    """Targ et al. 2016, appendix: batches of 500, 82 epochs. The rate before the drops, 0.1, and
    the order of the momentum are our choice."""
    config.batch_size = 500
    config.epochs = 82.0
    config.learning_rate = 0.1
    config.drops = (42, 62)
    config.weight_decay = 1e-4


def fractional(config):
    """Graham 2014, section 4, gives no rate, batch or length: these are ours. The rates of dropout
    belong to the networks: fmp12_160 has the paper's 0.5, fmp12_64 none."""
    config.batch_size = 100
    config.epochs = 250.0
    config.learning_rate = 0.01
    config.drops = (125, 190)
    config.weight_decay = 1e-4


def maxout(config):
    """Goodfellow et al. 2013, section 5.2, as in the authors' cifar10.yaml. There the rate falls in
    a straight line to a hundredth at epoch 500, 26 epochs after the training ends, and the momentum
    rises from 0.5; ours ends with the line, and the momentum is the last one. Without augmentation
    the authors train for 785 epochs with a momentum of 0.6 at last."""
    config.whiten = True
    config.padding = 8
    config.batch_size = 128
    config.epochs = 474.0
    config.learning_rate = 0.17
    config.schedule = 'linear'
    config.momentum = 0.65
    config.weight_decay = 0.0
    config.layer_rates = 'h0: 0.05, h1: 0.05, h2: 0.05'
    config.max_norm = 'h0: 0.9, h1: 1.9365, h2: 1.9365, h3: 1.9, y: 1.9365'
    config.order = 'caffe'


def dropconnect(config):
    """Wan et al. 2013, section 6.2: crops of 24 x 24 pixels less the mean image, and cuda-convnet's
    rates, https://github.com/dnouri/cuda-convnet; there the convolutions do not decay, but ours do.
    The paper averages several networks: see configs/evaluate.py."""
    config.mean, config.std = 'pixel', 'none'
    config.padding, config.crop_size = 0, 24
    config.batch_size = 128
    config.epochs = 1050.0
    config.learning_rate = 0.001
    config.drops = (700, 1000)
    config.weight_decay = 0.004
    config.decay = 'kernels'
    config.bias_rate = 2.0
    config.order = 'caffe'


def generalized_pooling(config):
    """Lee et al. 2016. We know no recipe of the paper's; this is that of Deeply-Supervised Nets, by
    the same authors, with a softmax."""
    config.whiten = True
    config.batch_size = 100
    config.epochs = 400.0
    config.learning_rate = 0.025
    config.drops = (300, 340)
    config.drop_factor = 0.05
    config.weight_decay = 5e-4
    config.decay = 'kernels'
    config.bias_rate = 2.0
    config.layer_rates = 'cccp6: 0.1'
    config.order = 'caffe'


def dsn(config):
    """Lee et al. 2014, section 4, as in the authors' released solvers: 200,000 steps, and a squared
    hinge loss, which is a softmax on CIFAR-100 and SVHN (--config.loss=cross_entropy). There images
    are contrast normalized only, but ours are whitened too, as Network in Network's; the companion
    classifiers, whose rates fall a little, learn at a constant rate; the last rate of the others,
    1e-4 in the released solvers, is 6.25e-5 here.

    The authors drop the companion losses after 100 epochs. So does this pair of runs:
    --config.epochs=100 --config.drops='()', and then, with the workdir of that one as init_from,
    --config.epochs=300 --config.drops='(200,240)' --config.model.auxiliary_weight=0
    --config.layer_rates='cccp6: 0.1'."""
    generalized_pooling(config)
    config.loss = 'squared_hinge'
    config.layer_rates = 'cccp6: 0.1, svm1: 0.001, svm2: 0.001, svm3: 0.001'


FITNET_CONVOLUTIONS = {'fitnet1': 9, 'fitnet2': 9, 'fitnet3': 11, 'fitnet4': 17}


def fitnet(config):
    """Romero et al. 2014, sections 3.1 and A.1.2: whitened images, mirrored but not moved. The
    decay and the epsilon of RMSprop, the rates of the convolutions and the limits of the norms are
    those of the released code, which also moves the images by up to 8 pixels. The paper stops when
    the validation error has not fallen for 100 epochs; ours takes its largest number of epochs."""
    convolutions = [f'conv{i + 1}' for i in range(FITNET_CONVOLUTIONS[config.model.name])]
    config.whiten = True
    config.padding = 0
    config.batch_size = 128
    config.epochs = 500.0
    config.optimizer = 'rmsprop'
    config.momentum = 0.0
    config.rmsprop_epsilon = 1e-10  # the code: a mean of squares counts as 1e-5 squared at least
    config.learning_rate = 0.005
    config.weight_decay = 0.0
    config.layer_rates = ', '.join(f'{layer}: 0.05' for layer in convolutions)
    config.max_norm = ', '.join([*(f'{layer}: 0.9' for layer in convolutions), 'fc1: 1.9',
                                 'softmax: 1.9365'])


def hints(config):
    """The first stage (equation 3): the middle layer of a FitNet learns to predict the second layer
    of its teacher, a maxout network (Table 7); as in the released code, both with their pools. Give
    it as --config.teacher."""
    config.loss = 'hint'
    config.guided_layer, config.hint_layer, config.hint_activation = 'pool2', 'pool1', 'maxout'


def taught(config):
    """The second stage (equation 2), which starts from the first, --config.init_from, and has the
    same --config.teacher: the weight of the teacher falls from 4 to 1 in 500 epochs."""
    config.loss = 'cross_entropy+4*distillation'
    config.temperature = 3.0
    config.distillation_fall, config.distillation_last = config.epochs, 1.0


def untaught(config):
    """No teacher, but LSUV's weights (Mishkin & Matas 2015, section 4.1, https://arxiv.org/abs/
    1511.06422, from memory): 230 epochs of SGD, and images that are moved, too."""
    config.init = 'lsuv'
    config.padding = 4
    config.optimizer, config.momentum, config.rmsprop_epsilon = 'sgd', 0.9, 1.0
    config.layer_rates, config.max_norm = '', ''
    config.epochs = 230.0
    config.learning_rate = 0.01
    config.drops = (100, 150, 200)
    config.weight_decay = 5e-4


STAGES = {'hint': hints, '': taught, 'plain': untaught}  # {ending of a FitNet's name: its stage}
