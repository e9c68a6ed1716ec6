"""Every field of a training, its default and what it does. Recipes change fields and add none.

A field that is a placeholder is None until it is given a value.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'train'  # the experiment that runs: experiments/NAME.py
    config.seed = 0  # seeds all that is random: initialization, order, augmentation, dropout

    config.task = 'classify'  # the task to learn: to 'classify' images, in one class each or, as
    #           'multilabel', in any number; to 'segment' them, to 'detect' the objects in them, or
    #           to 'stylize' them

    # The network: its name and its fields. A field that is None has the value of the paper.
    config.model = model = ml_collections.ConfigDict()
    model.name = 'resnet20'  # a name of cnnjax.models.names(), or 'my_nets.py:MyNet', your own
    model.widths = placeholder(tuple)  # channels per group (vgg), stage, block or level (unet)
    model.dropout = placeholder(object)  # the dropout rate; fractalnet, elu_net: one per block
    model.dropout_layers = placeholder(str)  # elu_net: the 'last' layer of a stack drops, or 'all'
    model.input_dropout = placeholder(float)  # allcnn, highway, maxout, fitnet: the rate of the
    #           input pixels
    model.blocks = placeholder(tuple)  # resnet: how many blocks each stage has; mobilenet_v1:
    #           (stride, width) of each; mobilenet_v2: (t, c, n, s) of each group
    model.hidden = placeholder(tuple)  # vgg, alexnet, maxout, dropconnect, fitnet: widths of
    #           the hidden full layers; (): none
    model.norm = placeholder(str)  # unet, yolo: 'none' (the papers), 'batch' after convolutions;
    #           faster_rcnn: also 'frozen', whose statistics, scale and bias stay;
    #           transformation_net: 'instance', or 'batch' (the paper)
    model.skip_scales = placeholder(tuple)  # fcn: pool4 and pool3, times these, give their scores
    model.pool = placeholder(str)  # networks with max-pools: 'average' replaces them; also 'max'
    model.stem = placeholder(int)  # resnet, densenet: 7 (7x7 and pool) or 3 (3x3, small images);
    #           resnet: also 333 (three 3x3 and pool)
    model.relu = placeholder(str)  # 'relu', 'elu', or 'relu6', which ends at 6 (timm's MobileNet)
    model.iterations = placeholder(int)  # recurrent_cnn: steps after the first, the paper's T
    model.pieces = placeholder(tuple)  # maxout: the linear pieces of a unit, of each convolution;
    #           fitnet: of the convolutions, and of the full layers
    model.drop_connect = placeholder(float)  # dropconnect: how often a connection is dropped
    model.inference = placeholder(str)  # dropconnect: 'gaussian', the mean of tests samples, or
    #           'mean', the activation of the mean
    model.poolings = placeholder(tuple)  # nin, dsn, generalized_pooling: the kind of each pool,
    #           'max' or 'average'; generalized_pooling: also 'mixed', 'gated' or 'tree'
    model.levels = placeholder(int)  # generalized_pooling: the levels of its trees
    model.width_multiplier = placeholder(float)  # mobilenet: the paper's alpha; inception_v3: too
    model.bypass = placeholder(str)  # squeezenet: 'none', 'simple' or 'complex'
    model.fires = placeholder(tuple)  # squeezenet: (squeeze, expand) widths of each fire module
    model.pools = placeholder(object)  # squeezenet: the modules that a max-pool follows; yolo: how
    #           many groups have one
    model.sizes = placeholder(tuple)  # elu_net, highway, nin: the sizes of the kernels
    model.stem_width = placeholder(int)  # networks with a stem: its channels
    model.last_width = placeholder(int)  # mobilenet_v2: the channels of the last convolution
    model.padding = placeholder(str)  # googlenet: 'symmetric', or TensorFlow's 'same'
    model.inceptions = placeholder(tuple)  # googlenet: its modules, (name, six widths) each
    model.auxiliary_weight = placeholder(float)  # googlenet, inception_v3, dsn, fcn_resnet50: of
    #           the auxiliary losses
    model.depth = placeholder(int)  # fractional max-pooling: the number of pools;
    #           transformation_net: of residual blocks
    model.residual = placeholder(bool)  # transformation_net: whether it only changes the photograph
    model.width = placeholder(int)  # fractional max-pooling: of the n-th layer, divided by n;
    #           recurrent_cnn: the paper's K
    model.order = placeholder(str)  # fractional max-pooling: 'random' or 'pseudorandom' regions
    model.overlapping = placeholder(bool)  # fractional max-pooling: whether regions overlap
    model.canvas = placeholder(int)  # fractional max-pooling: side of the canvas around an image
    model.tests = placeholder(int)  # fractional max-pooling: random passes averaged in evaluation;
    #           dropconnect: the samples of 'gaussian'
    model.shortcut = placeholder(str)  # resnet: A, B or C, as the paper calls them; D (ResNet-D)
    model.reduction = placeholder(int)  # resnet: squeeze-and-excitation's r, such as 16; 0: none
    model.stride_in = placeholder(str)  # resnet bottlenecks: '1x1' (v1, the paper) or '3x3' (v1.5)
    model.dilated = placeholder(int)  # resnet: how many of the last stages dilate, not stride
    model.survival = placeholder(float)  # resnet: stochastic depth, p_L of the last block; 1: off
    model.survival_rule = placeholder(str)  # resnet: 'linear' from 1 down to p_L, or 'uniform'
    model.scan = placeholder(bool)  # resnet: compile a stage's repeated blocks only once
    model.remat = placeholder(bool)  # resnet, densenet: save memory by computing activations twice
    model.columns = placeholder(int)  # fractalnet: the number of columns, the paper's C
    model.local_drop_path = placeholder(float)  # fractalnet: drop rate of a join's inputs
    model.global_drop_path = placeholder(float)  # fractalnet: share of single-column batches
    model.head = placeholder(str)  # yolo: the last layer is full, 'fc', or a 1x1 'conv'
    model.cells = placeholder(int)  # yolo: the paper's S; with a 'conv' the last map has the cells
    model.predictors = placeholder(int)  # yolo: how many boxes a cell predicts, the paper's B
    model.local = placeholder(int)  # yolo: the width of a locally connected layer; 0: none
    model.coordinates_weight = placeholder(float)  # yolo: lambda_coord, of the boxes' errors
    model.no_object_weight = placeholder(float)  # yolo: lambda_noobj, of confidence in nothing
    model.loss_scale = placeholder(float)  # yolo: multiplies the loss; darknet's rates need 0.5
    model.score_threshold = placeholder(float)  # detectors: below this score nothing is detected
    model.nms = placeholder(float)  # detectors: the largest IoU of two boxes of a class
    model.max_detections = placeholder(int)  # detectors: the most detections of an image
    model.given = placeholder(bool)  # faster_rcnn: config.proposals, and not an RPN, proposes
    model.learns = placeholder(str)  # faster_rcnn: the 'rpn', the 'head' or 'both'
    model.anchor_sizes = placeholder(tuple)  # faster_rcnn: of each map, sides in pixels
    model.anchor_ratios = placeholder(tuple)  # faster_rcnn: the anchors' heights / widths
    model.anchor_rule = placeholder(str)  # faster_rcnn: 'caffe' or 'torchvision' rounds anchors
    model.rpn_width = placeholder(int)  # faster_rcnn: channels of the RPN and of the pyramid
    model.rpn_scores = placeholder(str)  # faster_rcnn: an anchor's two scores and a 'softmax' (the
    #           paper), or one and a 'sigmoid'
    model.rpn_outside = placeholder(bool)  # faster_rcnn: train anchors that leave the picture too
    model.rpn_count = placeholder(int)  # faster_rcnn: anchors that an image samples, N_cls
    model.rpn_share = placeholder(float)  # faster_rcnn: the largest share of objects among them
    model.rpn_iou = placeholder(tuple)  # faster_rcnn: background's IoU with an object is below the
    #           first, that of objects at least the second
    model.rpn_beta = placeholder(float)  # faster_rcnn: smooth L1 of the RPN is square below this
    model.rpn_lambda = placeholder(float)  # faster_rcnn: the weight of its boxes; the paper has 10,
    model.rpn_normalizer = placeholder(str)  # ... and divides their sum by the 'locations' of the
    #           map; released code has 1 and 'sampled', which divides by rpn_count
    model.rpn_before = placeholder(tuple)  # faster_rcnn: in training and in evaluation, how many of
    #           the anchors with the best scores become boxes,
    model.rpn_after = placeholder(tuple)  # ... and how many of these become proposals
    model.rpn_nms = placeholder(float)  # faster_rcnn: the largest IoU of two proposals
    model.smallest = placeholder(float)  # faster_rcnn: the least side of a proposal, in pixels
    model.pooling = placeholder(str)  # faster_rcnn: regions by 'max' or 'align'; rcnn: 'warp'
    model.pooled = placeholder(int)  # faster_rcnn: the side of a pooled region, in features
    model.roi_count = placeholder(int)  # faster_rcnn: how many regions of an image the head learns
    model.roi_share = placeholder(float)  # faster_rcnn: the largest share of objects among them
    model.roi_iou = placeholder(float)  # faster_rcnn: the least IoU of an object among them
    model.roi_least = placeholder(float)  # faster_rcnn: the least IoU of background
    model.roi_beta = placeholder(float)  # faster_rcnn: smooth L1 of the head is square below this
    model.epsilon = placeholder(float)  # faster_rcnn: of norm='frozen'

    # Transfer from a trained network; configs/finetune.py explains it.
    config.init = 'network'  # the first weights: those of the 'network', or 'lsuv' (cnnjax/lsuv.py)
    config.init_from = ''  # weights to start from: a run's workdir, 'embedded', a file or a hub id
    config.freeze = ''  # frozen layers: '' (none), 'all' but the last, or all up to those named
    config.head_rate = 1.0  # multiplies the learning rate of the last layer

    # Learning from a teacher, a trained network; docs/train.md explains it.
    config.teacher = ''  # the teacher: a run's workdir, 'embedded', a file or a hub id; '': none
    config.teacher_digest = ''  # a digest of its weights, which the run notes: it takes no other
    config.temperature = 3.0  # distillation: what the logits of both networks are divided by
    config.distillation_fall = 0.0  # distillation: the length over which its factor falls linearly
    config.distillation_last = 1.0  # ... and the factor after that; with a length of 0 it stays
    config.guided_layer = ''  # hint: the layer of the network that learns to predict
    config.hint_layer = ''  # ... this layer of the teacher
    config.hint_activation = 'none'  # hint: what follows the convolution that predicts: also 'relu'
    #           or 'maxout'; the paper: what follows the teacher's layer

    # The data.
    config.dataset = 'digits'  # 'digits', 'photos', 'folder', 'csv' (pictures and labels in a
    #           table), 'npz' (arrays), or a data set of tensorflow-datasets; the sequences
    #           'digit_outlines' and the volumes 'clips';
    #           with masks 'digit_scenes', 'coins', 'folder', 'oxford_iiit_pet' or 'cityscapes';
    #           with boxes 'digit_scenes', 'folder', 'voc/2007', 'voc/2012' and the like
    config.data_dir = placeholder(str)  # where the data is: a folder, or the file of csv or npz;
    #           None: tensorflow-datasets' usual place
    config.train_split = 'train'  # the split to train on; tensorflow-datasets: also 'train[:45000]'
    config.test_split = 'test'  # the split to measure the error on
    config.val_split = ''  # if set, the split that evaluations during the training, and the choice
    #           of the best checkpoint, see; the test set is then measured once, at the end
    config.split = ''  # folder, csv, npz without splits: the shares of train, val and test, as in
    #           '0.8/0.1/0.1', or of train and test, '0.8/0.2', that each class is divided into
    config.class_folders = 'first'  # folder: a picture's class is the 'first' folder of its path,
    #           or the whole 'path', as in animals/cat
    config.label_separator = '|'  # csv, multilabel: what separates the labels of a picture
    config.image_size = 0  # side of the square images in pixels; 0: keep the size they have
    config.border = 0  # pixels added around each picture first: 2 makes MNIST 32 x 32
    config.border_mode = 'zero'  # fills these pixels: 'zero' (black), 'reflect' (mirror images) or
    #           'edge' (the nearest pixels of the picture)
    config.fit = 'crop'  # how a picture becomes image_size x image_size: scale its shorter side and
    #           'crop'; 'pad' it, unscaled, by border_mode; 'stretch' it; or 'letterbox': scale it
    #           until its shorter side has (test_)shorter_side pixels, or its longer image_size
    config.bad_images = 'error'  # unreadable files (folder, csv): 'error' stops, 'skip' omits them
    config.bad_boxes = 'error'  # boxes that cannot be used: 'error' stops, 'skip' omits the objects
    config.annotations = ''  # folder: COCO's json file; 'boxes/{split}.json' is one for each split;
    #           csv: the table, where data_dir is the folder of its pictures
    config.proposals = ''  # an .npz file with boxes of each picture for Fast R-CNN; also '{split}'
    config.mask_values = ()  # folder: each class's value in the masks, in order; (): 0, 1, 2, ...
    config.stream = False  # False: keep the decoded set on the devices; True: decode as needed
    config.loader_threads = 16  # stream: the number of decoding threads, in all workers together
    config.loader_workers = 0  # stream: processes that decode; 0: the main process does it
    config.crop = 'shorter_side'  # stream: the training's random crops; also 'random_resized'
    config.shorter_side = (256, 256)  # stream: its range in pixels before a crop or in a letterbox
    config.crop_area = (0.08, 1.0)  # random_resized: range of the crop's share of the area
    config.crop_aspect = (3 / 4, 4 / 3)  # random_resized: range of the crop's width / height
    config.interpolation = 'bilinear'  # how pictures are scaled: also 'bicubic', 'lanczos' or 'box'
    config.test_image_size = 0  # side of the images in evaluations; 0: image_size
    config.test_shorter_side = 0  # the side in evaluations and in resident sets; 0: image_size
    # Views of a picture whose class probabilities are averaged, as the papers test (cnnjax/views.py
    # has the sources), when a run is finished and by configs/evaluate.py; the evaluations during
    # the training see one crop.
    config.crops = '1'  # '1', the middle crop; '10', corners, middle and mirror images of the
    #           middle square, as AlexNet; '10_whole', of the whole picture, as ResNet; or 'dense',
    #           the whole picture, with full layers as convolutions, as VGG
    config.test_scales = ()  # several shorter sides: 256,384,512; (): test_shorter_side alone
    config.test_flip = False  # the mirror image of each view, too

    # The compiled step normalizes images, (image in [0, 1] - mean) / std, and augments them.
    config.mean = 'channel'  # 'channel', 'pixel' (a mean image) or numbers: '0.485,0.456,0.406'
    config.std = 'channel'  # 'channel', 'scalar' (one for all), 'none' (a range of 255) or numbers
    config.whiten = False  # True: global contrast normalization and ZCA whitening of all pixels, as
    #           Maxout, NIN and All-CNN had, instead of both; resident images of at most 64 x 64
    config.flip = False  # mirror each image left to right with probability 1/2
    config.flip_vertical = False  # mirror each image upside down with probability 1/2
    config.padding = 0  # pixels added around an image before a random crop
    config.padding_mode = 'zero'  # fills around an image: 'zero' (the mean), 'reflect' or 'edge'
    config.crop_size = 0  # side of the random crop, and of the network's input; 0: the image's size
    config.scale = (1.0, 1.0)  # range of the random factor by which an image is enlarged
    config.rotation = 0.0  # largest angle of a random rotation, in degrees, in both directions
    config.elastic = 0.0  # standard deviation of U-Net's deformation, in pixels; the paper: 10
    config.jitter = 0.0  # YOLO's: how far each border moves, as a share of the side; then a stretch
    config.color = 0.0  # strength of AlexNet's random colour shift; the paper: 0.1; 0: none
    config.color_jitter = 0.0  # largest relative change of brightness, contrast and saturation
    config.hue = 0.0  # YOLO's, in HSV: the largest turn of the hue, as a share of the circle
    config.saturation = 1.0  # YOLO's: the largest factor, and divisor, of the saturation; 1: none
    config.exposure = 1.0  # YOLO's: the largest factor, and divisor, of the value; 1: none
    config.auto_augment = ''  # random operations on each image: 'randaugment' or 'trivial'
    config.randaugment_operations = 2  # randaugment: how many operations follow each other
    config.randaugment_magnitude = 9  # randaugment: their strength, from 0 to 30
    config.random_erasing = 0.0  # the probability that a rectangle of an image is erased
    config.mixup = 0.0  # classify, mixup's alpha: each image is blended with another; 0: none
    config.cutmix = 0.0  # classify, CutMix's alpha: a rectangle shows another image; 0: none
    config.repeats = 1  # how often a batch has each of its images, augmented in different ways

    # Optimization. Lengths (epochs, drops, warmup, average_start, eval_every, checkpoint_every)
    # count epochs, or steps if `steps` is set.
    config.batch_size = 128  # images per step, over all devices
    config.accumulate = 1  # micro-batches that a step splits its batch into, to save memory
    config.epochs = 100.0  # the length of the training
    config.steps = 0  # if set, the length of the training instead of `epochs`
    config.learning_rate = 0.1  # the rate after the warm-up
    config.schedule = 'step'  # how the rate falls: 'step', 'cosine', 'linear', 'constant' (not at
    #           all) or 'plateau', when the error of the evaluations has stopped falling
    config.drops = ()  # step: when the rate drops
    config.drop_factor = 0.1  # step, plateau: the factor of each drop
    config.plateau_patience = 5  # plateau: evaluations without a lower error before each drop
    config.plateau_threshold = 1e-4  # plateau: how far below the lowest an error counts as lower,
    #           as a share of the lowest
    config.warmup = 0.0  # the length of the warm-up
    config.warmup_shape = 'constant'  # 'constant' stays at warmup_rate; 'linear' rises from it
    config.warmup_rate = 0.0  # the learning rate at the start of the warm-up
    config.optimizer = 'sgd'  # 'sgd', TensorFlow's 'rmsprop', or 'adamw'
    config.momentum = 0.9  # share of the velocity that is kept from step to step; AdamW's beta1
    config.nesterov = False  # use Nesterov's momentum; not for adamw
    config.rmsprop_decay = 0.9  # rmsprop: share of the squared gradients' average that is kept
    config.rmsprop_epsilon = 1.0  # rmsprop: added to that average, below the root
    config.adamw_beta2 = 0.999  # adamw: share of the squared gradients' average that is kept
    config.adamw_epsilon = 1e-8  # adamw: added to the root of that average
    config.weight_decay = 1e-4  # this times the parameter is added to its gradient, or, by adamw,
    #           to its update before the learning rate multiplies it
    config.decay = 'all'  # which parameters decay: 'all', 'kernels' or 'kernels_except_depthwise'
    config.order = 'torch'  # 'torch', or 'caffe', which has the learning rate inside the velocity
    config.layer_rates = ''  # multiplies the learning rate of some layers: 'conv1: 0.1, fc: 2'
    config.max_norm = ''  # the largest norm of a unit's weights, which are scaled down to it after
    #           an update: '2', of all layers, or 'conv1: 0.9, fc: 2', of these; '': any
    config.clip_norm = 0.0  # the largest norm of a step's gradient, scaled down to it; 0: any
    config.bias_rate = 1.0  # multiplies the learning rate of the biases
    config.average = ''  # an average of the weights, which evaluations and the trained network use:
    #           'polyak', the mean over the steps; 'ema', an exponential moving average; '': none
    config.average_start = 0.0  # average: when it begins; before, it is a copy of the weights
    config.average_every = 1  # average: steps between two weights that it takes
    config.average_decay = 0.999  # ema: share of the old average that is kept each time
    config.dtype = 'float32'  # the type of activations; 'bfloat16' is faster on accelerators

    # The loss: a sum of terms, each with a factor. distillation compares the probabilities of the
    # classes of images with a teacher's (classify only); hint, in a stage of its own, compares a
    # layer with one of the teacher's. cross_entropy, focal and squared_hinge judge the
    # class of each image (classify, multilabel) or of each pixel (segment), dice compares whole
    # masks (segment only); they are defined in cnnjax/losses.py. An evaluation always reports the
    # mean cross-entropy as loss. Detectors have losses of their own, which fields of model change.
    config.loss = 'cross_entropy'  # also 'focal', 'squared_hinge' (of a support vector machine),
    #           'dice', or a sum: 'cross_entropy+0.5*dice'
    config.label_smoothing = 0.0  # cross_entropy: share of the target spread evenly over classes
    config.focal_gamma = 2.0  # focal: 0 is cross_entropy; larger values count easy predictions less
    config.class_weights = ()  # cross_entropy, focal: a weight for each class; (): all are 1
    #           (multilabel: of the images that have the class, as PyTorch's pos_weight)
    config.balanced = False  # cross_entropy, focal: True weighs each class by its inverse frequency
    config.weight_map = 0.0  # cross_entropy, focal: U-Net's w0, extra weight between close objects
    config.weight_map_sigma = 5.0  # weight_map: how close they are, in pixels of the picture
    config.loss_denominator = 'weights'  # divide the sum by the total of the 'weights', or by
    #           how many 'pixels' or 'images' there are
    config.dice_sums = 'image'  # dice: over each 'image', or over the whole (micro-)'batch'
    config.dice_smoothing = 1.0  # dice: added to the numerator and to the denominator
    config.dice_squared = False  # dice: True squares what the denominator adds up, as V-Net does
    config.dice_background = False  # dice: whether the mean over the classes includes class 0
    config.dice_absent = False  # dice: whether it includes classes that are not in the mask

    # The loss of task='stylize': content_weight * content + style_weight * style + tv_weight *
    # variation, as the teacher sees them, and stability_weight * stability. The fields are those of
    # configs/style.py, and activations are relative.
    config.styles = ''  # pictures whose styles are learned, mixed, with commas between them
    config.style_size = 256  # the longer side of the styles, in pixels
    config.content_layers = 'relu2_2'  # layers of the teacher, with commas between them
    config.content_weight = 2.0  # how much the content counts
    config.style_layers = 'relu1_1,relu2_1,relu3_1,relu4_1,relu5_1'  # the same for the style
    config.style_layer_weights = ()  # one for each layer; (): equal
    config.style_convention = 'wasserstein'  # or one of cnnjax.images.neural_style.GRAM
    config.style_weight = 10.0  # how much the style counts
    config.tv_weight = 8.0  # how much the total variation counts; a larger one smooths more
    config.stability_weight = 0.0  # how much it counts that noise and motion change the output
    config.stability_noise = 0.02  # standard deviation of the noise; white is 1
    config.stability_shift = 2  # the largest motion, in pixels

    # Devices and compilation.
    config.parallel = 'shard_map'  # or 'pmap', or 'jit' (batch norm over the global batch)
    config.devices = 0  # how many local devices to use; 0: all

    config.steps_per_call = 0  # steps in one program; 0: up to the next report, but 1 on the CPU

    # Reports, evaluations and checkpoints.
    config.report_every = 100  # steps between two rows of metrics.jsonl; 0: only with evaluations
    config.eval_every = 1.0  # interval of evaluations, each with a checkpoint; 0: only at the end
    config.patience = 0  # evaluations in a row without a new lowest error that end the training
    #           early; 0: none do
    config.checkpoint_every = 1.0  # interval of further checkpoints; 0: only with evaluations
    config.keep = 2  # how many of the newest checkpoints to keep, besides the best
    config.eval_batch_size = 500  # images per step of an evaluation, over all devices
    config.log = ''  # show the run in 'wandb' or 'mlflow' too; '': only in TensorBoard
    config.histograms = 0  # evaluations from one histogram of the weights to the next; 0: none
    config.profile = 0  # steps to trace, after the first ten, into the workdir's profile/
    return config
