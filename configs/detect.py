"""Detection: where objects are, and of which class.

    python launch.py --config=configs/detect.py --workdir=runs/detect
    python launch.py --config=configs/predict.py --config.source=runs/detect \\
        --config.pictures=photo.jpg --workdir=runs/prediction

The argument is the recipe:

    scenes (default)     a small Faster R-CNN finds scans of digits in photographs; nothing is
                         downloaded
    yolo                 a small YOLO v1 does the same
    folder               pictures and boxes of your own, --config.data_dir=scenes, as COCO json,
                         PASCAL VOC's xml or YOLO's txt files; see docs/detect.md
    voc_yolo_v1          YOLO v1 on PASCAL VOC, from the run of its pretraining on ImageNet,
                         configs/imagenet.py:yolo_v1_classifier
    voc_faster_rcnn      Faster R-CNN on PASCAL VOC, from VGG-16's weights; both stages learn at
                         once
    voc_step1 ... 4      the same in the four steps of the paper; docs/detect.md has the commands
    coco_faster_rcnn_fpn torchvision's Faster R-CNN with a feature pyramid on COCO, from
                         ResNet-50's weights

Those on PASCAL VOC and on COCO read the folders that the archives unpack to, VOCdevkit or one with
train2017, val2017 and annotations, --config.data_dir=VOCdevkit, and start from the weights that
--config.init_from names.

Redmon et al. 2015, https://arxiv.org/abs/1506.02640; Ren et al. 2015,
https://arxiv.org/abs/1506.01497; Girshick 2015, https://arxiv.org/abs/1504.08083; Lin et al. 2016,
https://arxiv.org/abs/1612.03144.
"""

from cnnjax.errors import UserError, suggest
from configs import base

FASTER = {'source': 'https://arxiv.org/abs/1506.01497, table 3',
          'measured': "1 - mAP on VOC 2007's test, by 11 points; trained on VOC 2007 in four steps",
          'voc07_error': {'folder+': 30.1}}
PAPER = {  # published errors, in %
    'voc_yolo_v1': {
        'source': 'https://arxiv.org/abs/1506.02640, table 1',
        'measured': "1 - mAP on VOC 2007's test, by 11 points; trained on VOC 2007 and 2012",
        'voc07_error': {'folder+': 36.6}},
    'voc_faster_rcnn': FASTER, 'voc_step4': FASTER,
    'coco_faster_rcnn_fpn': {
        'source': 'https://github.com/pytorch/vision/tree/main/references/detection',
        'measured': '1 - AP (IoU 0.50 to 0.95) on val2017',
        'ap_error': {'folder+': 63.0}}}
STEPS = {'voc_step1': 'rpn', 'voc_step2': 'head', 'voc_step3': 'rpn', 'voc_step4': 'head'}
RECIPES = ('scenes', 'yolo', 'folder', 'voc_yolo_v1', 'voc_faster_rcnn', *STEPS,
           'coco_faster_rcnn_fpn')


def get_config(recipe='scenes'):
    if recipe not in RECIPES:
        raise UserError(f"no recipe for '{recipe}' in detection: take {', '.join(RECIPES)}"
                        f'{suggest(recipe, RECIPES)}')
    config = base.get_config()
    config.task = 'detect'
    if recipe in STEPS:
        voc_step(config, recipe)
    else:
        {'scenes': scenes, 'yolo': yolo, 'folder': folder, 'voc_yolo_v1': voc_yolo_v1,
         'voc_faster_rcnn': voc_faster_rcnn,
         'coco_faster_rcnn_fpn': coco_faster_rcnn_fpn}[recipe](config)
    return config


def scenes(config):
    config.dataset = 'digit_scenes'
    config.model.name = 'faster_rcnn_small'
    config.model.max_detections = 20
    config.batch_size = 16
    config.learning_rate = 0.05
    config.clip_norm = 5.0
    config.schedule = 'cosine'
    config.warmup = 0.2
    config.warmup_shape = 'linear'
    config.nesterov = True
    config.epochs = 3.2
    config.report_every = 25
    config.eval_every = 0.8
    config.eval_batch_size = 100
    config.checkpoint_every = 0.0


def yolo(config):
    scenes(config)
    config.model.name = 'yolo_v1_small'
    config.batch_size = 32
    config.learning_rate = 0.03
    config.clip_norm = 10.0
    config.weight_decay = 5e-4
    config.epochs = 8.0
    config.eval_every = 2.0


def folder(config):
    """From scratch, a Faster R-CNN with a feature pyramid and a fourth of the channels, on pictures
    of up to 320 pixels. Unlike torchvision's, which starts from weights and sees larger pictures,
    it trains its batch normalization and has smaller anchors."""
    config.dataset = 'folder'
    config.model.name = 'faster_rcnn_resnet50_fpn'
    config.model.widths = (16, 32, 64, 128)
    config.model.norm = 'batch'
    config.model.rpn_width = 64
    config.model.hidden = (256, 256)
    config.model.anchor_sizes = ((16,), (32,), (64,), (128,), (256,))
    config.model.rpn_before = (500, 300)
    config.model.rpn_after = (300, 100)
    config.model.roi_count = 64
    config.image_size = 320
    config.fit = 'letterbox'
    config.shorter_side = (4096, 4096)  # The longer side decides, in streams as in evaluations.
    config.flip = True
    config.batch_size = 8
    config.learning_rate = 0.02
    config.clip_norm = 5.0
    config.schedule = 'cosine'
    config.warmup = 1.0
    config.warmup_shape = 'linear'
    config.nesterov = True
    config.epochs = 30.0
    config.report_every = 25
    config.eval_every = 5.0
    config.eval_batch_size = 32
    config.checkpoint_every = 0.0


def pascal_voc(config):
    config.dataset = 'folder'
    config.train_split = 'VOC2007/trainval'
    config.test_split = 'VOC2007/test'
    config.stream = True
    config.loader_workers = 8
    config.momentum = 0.9
    config.weight_decay = 5e-4
    config.order = 'caffe'


def voc_yolo_v1(config):
    """Section 2.2: 135 epochs with two drops, a jitter of the borders by up to 20 % and of the
    colours by up to 1.5. The flips and the warm-up, which the paper leaves open, are those of the
    authors' darknet, and so is half of the gradient."""
    pascal_voc(config)
    config.train_split = 'VOC2007/trainval+VOC2012/trainval'
    config.model.name = 'yolo_v1'
    config.model.loss_scale = 0.5
    config.image_size = 448
    config.fit = 'stretch'
    config.mean = '0.5,0.5,0.5'
    config.std = '0.5,0.5,0.5'
    config.flip = True
    config.jitter = 0.2
    config.padding_mode = 'edge'
    config.saturation = 1.5
    config.exposure = 1.5
    config.batch_size = 64
    config.eval_batch_size = 64
    config.decay = 'kernels'
    config.order = 'torch'
    config.epochs = 135.0
    config.learning_rate = 1e-2
    config.warmup = 2.7  # 700 of darknet's steps
    config.warmup_shape = 'linear'
    config.warmup_rate = 1e-3
    config.drops = (75, 105)
    config.eval_every = 5.0


def voc_faster_rcnn(config):
    """Section 3.3 with the settings of the authors' py-faster-rcnn for approximate joint training:
    70,000 steps of two pictures, whose shorter side has 600 pixels, or whose longer has 1,000."""
    pascal_voc(config)
    config.model.name = 'faster_rcnn_vgg16'
    config.image_size = 1000
    config.fit = 'letterbox'
    config.shorter_side = (600, 600)
    config.test_shorter_side = 600
    config.mean = '0.481458,0.454692,0.403844'
    config.std = 'none'
    config.flip = True
    config.freeze = 'conv2_2'
    config.batch_size = 2
    config.eval_batch_size = 2
    config.steps = 70_000
    config.learning_rate = 1e-3
    config.bias_rate = 2.0
    config.drops = (50_000,)
    config.eval_every = 10_000.0
    config.checkpoint_every = 1000.0


def voc_step(config, recipe):
    """Section 3.2: the four steps, of which each starts from the one before or from VGG-16. In the
    last two the convolutions that both stages share are frozen."""
    voc_faster_rcnn(config)
    config.model.learns = STEPS[recipe]
    config.steps, config.drops = 80_000, (60_000,)
    config.batch_size = config.eval_batch_size = 1
    if STEPS[recipe] == 'rpn':  # so that as many proposals are written as the head learns from
        config.model.rpn_before, config.model.rpn_after = (12_000, 12_000), (2000, 2000)
    else:
        config.batch_size = config.eval_batch_size = 2
        config.steps, config.drops = 40_000, (30_000,)
    if recipe == 'voc_step2':
        config.model.name = 'fast_rcnn_vgg16'
        config.model.learns = None
    if recipe == 'voc_step3':
        config.freeze = 'conv5_3'
    if recipe == 'voc_step4':
        config.freeze = 'rpn_cls_score,rpn_bbox_pred'


def coco_faster_rcnn_fpn(config):
    """torchvision's references/detection: 26 epochs in batches of 16, two drops, a warm-up of 1,000
    steps. The statistics of the batch normalization and the first stage stay frozen."""
    config.dataset = 'folder'
    config.train_split = 'train2017'
    config.test_split = 'val2017'
    config.bad_boxes = 'skip'  # A few boxes have no area.
    config.stream = True
    config.loader_workers = 8
    config.model.name = 'faster_rcnn_resnet50_fpn'
    config.image_size = 1333
    config.fit = 'letterbox'
    config.shorter_side = (800, 800)
    config.test_shorter_side = 800
    config.mean = '0.485,0.456,0.406'
    config.std = '0.229,0.224,0.225'
    config.flip = True
    config.freeze = 'conv2_3'
    config.batch_size = 16
    config.eval_batch_size = 16
    config.epochs = 26.0
    config.learning_rate = 0.02
    config.warmup = 0.136  # 1,000 steps
    config.warmup_shape = 'linear'
    config.warmup_rate = 2e-5
    config.drops = (16, 22)
    config.weight_decay = 1e-4
    config.checkpoint_every = 0.1
