"""The networks against their papers' counts, and the order of their operations, written by hand."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import export, lax

from cnnjax import convolution, layers, models
from cnnjax.errors import UserError

TRUNK = {'hidden': (), 'num_classes': 10}  # VGG on 32 x 32 images: its convolutions and one layer
WIDTHS = (16, 32, 64, 128, 128)  # Those of FractalNet's table of ultra-deep networks.

# Name, fields, side of the images; parameters (batch normalization's scale and bias included, its
# statistics not), the same with 100 classes instead of 10; multiply-adds of the convolutions and
# full layers. torchvision's own counts for VGG A, B, D, E and their _bn, ResNet B, wide ResNets and
# DenseNet on ImageNet; timm's for resnet50d and squeeze-and-excitation; those of the FractalNet
# authors' generator; the others by the papers' formulas.
COUNTS = [
    ('convnet', {}, 32, 31_066, None, 362_496),  # 3x3x3x12, 16x16x12x10
    ('lenet5', {}, 32, 61_706, None, 416_520),
    ('lenet5_1998', {}, 32, 60_000, None, 117_600 + 150_000 + 48_000 + 10_080),  # C1 C3 C5 F6
    ('alexnet', {}, 227, 60_965_224, None, 724_406_816),
    ('alexnet_ungrouped', {}, 227, 62_378_344, None, 1_135_256_096),
    ('alexnet_tv', {}, 224, 61_100_840, None, 714_188_480),
    # Layer by layer with the sizes of figure 3: inputs x kernels x maps, on 110, 26 and 13 pixels.
    ('zfnet', {}, 224, 62_357_608, None, 1_168_032_896),
    ('zfnet', {'widths': (96, 256, 512, 1024, 512)}, 224, 107_627_624, None, 2_476_704_896),
    ('nin', {}, 32, 966_986, None, 222_486_528),
    ('allcnn_a_base', {}, 32, 839_242, None, 138_677_760),
    ('allcnn_a_strided', {}, 32, 839_242, None, 44_674_560),
    ('allcnn_a_convpool', {}, 32, 1_254_250, None, 308_547_072),
    ('allcnn_a', {}, 32, 1_254_250, None, 181_145_088),
    ('allcnn_b_base', {}, 32, 885_610, None, 157_552_128),
    ('allcnn_b_strided', {}, 32, 885_610, None, 143_396_352),
    ('allcnn_b_convpool', {}, 32, 1_300_618, None, 327_421_440),
    ('allcnn_b', {}, 32, 1_300_618, None, 200_019_456),
    ('allcnn_c_base', {}, 32, 954_730, None, 228_331_008),
    ('allcnn_c_strided', {}, 32, 954_730, None, 100_929_024),
    ('allcnn_c_convpool', {}, 32, 1_369_738, None, 398_200_320),
    ('allcnn_c', {}, 32, 1_369_738, None, 270_798_336),

    ('vgg11', {}, 224, 132_863_336, None, 7_609_090_048),
    ('vgg11_lrn', {}, 224, 132_863_336, None, 7_609_090_048),
    ('vgg13', {}, 224, 133_047_848, None, 11_308_466_176),
    ('vgg16c', {}, 224, 133_638_952, None, 11_770_888_192),
    ('vgg16', {}, 224, 138_357_544, None, 15_470_264_320),
    ('vgg19', {}, 224, 143_667_240, None, 19_632_062_464),
    ('vgg11_bn', {}, 224, 132_868_840, None, 7_609_090_048),
    ('vgg13_bn', {}, 224, 133_053_736, None, 11_308_466_176),
    ('vgg16c_bn', {}, 224, 133_638_952 + 8_448, None, 11_770_888_192),  # as many as D_bn adds to D
    ('vgg16_bn', {}, 224, 138_365_992, None, 15_470_264_320),
    ('vgg19_bn', {}, 224, 143_678_248, None, 19_632_062_464),
    ('vgg11', TRUNK, 32, 9_225_610, None, 152_769_536),
    ('vgg11_bn', TRUNK, 32, 9_231_114, None, 152_769_536),
    ('vgg16', TRUNK, 32, 14_719_818, None, 313_201_664),
    ('vgg16_bn', TRUNK, 32, 14_728_266, None, 313_201_664),

    ('resnet18', {}, 224, 11_689_512, None, 1_814_073_344),
    ('resnet18', {'shortcut': 'A'}, 224, 11_515_688, None, 1_794_805_760),
    ('resnet18', {'shortcut': 'C'}, 224, 12_043_816, None, None),
    ('resnet34', {}, 224, 21_797_672, None, 3_663_761_408),
    ('resnet34', {'shortcut': 'A'}, 224, 21_623_848, None, 3_644_493_824),
    ('resnet34', {'shortcut': 'C'}, 224, 22_716_840, None, None),
    ('resnet50', {}, 224, 25_557_032, None, 4_089_184_256),
    ('resnet50', {'stride_in': '1x1'}, 224, 25_557_032, None, 3_857_973_248),
    ('resnet101', {}, 224, 44_549_160, None, 7_801_405_440),
    ('resnet101', {'stride_in': '1x1'}, 224, 44_549_160, None, 7_570_194_432),
    ('resnet152', {}, 224, 60_192_808, None, 11_513_626_624),
    ('resnet152', {'stride_in': '1x1'}, 224, 60_192_808, None, 11_282_415_616),
    ('resnet20', {}, 32, 269_722, 275_572, 40_551_040),
    ('resnet32', {}, 32, 464_154, 470_004, 68_862_592),
    ('resnet44', {}, 32, 658_586, 664_436, 97_174_144),
    ('resnet56', {}, 32, 853_018, 858_868, 125_485_696),
    ('resnet110', {}, 32, 1_727_962, 1_733_812, 252_887_680),
    ('resnet1202', {}, 32, 19_421_274, None, 2_829_238_912),
    ('resnext50_32x4d', {}, 224, 25_028_904, None, 4_230_479_872),
    ('resnext101_32x4d', {}, 224, 44_177_704, None, 7_969_996_800),
    ('resnext101_64x4d', {}, 224, 83_455_272, None, 15_460_270_080),
    ('resnext29_8x64d', {}, 32, 34_426_698, 34_518_948, 5_387_266_048),
    ('resnext29_16x64d', {}, 32, 68_155_210, 68_247_460, 10_688_866_304),
    ('wide_resnet50_2', {}, 224, 68_883_240, None, 11_398_021_120),
    ('wide_resnet101_2', {}, 224, 126_886_696, None, 22_753_050_624),
    ('resnet50d', {}, 224, 25_576_264, None, 4_328_824_832),
    ('seresnet50', {}, 224, 28_088_024, None, 4_091_699_200),
    ('resnext50_32x4d', {'reduction': 16}, 224, 27_559_896, None, 4_232_994_816),
    ('wide_resnet28_10', {}, 32, 36_479_194, 36_536_884, 5_243_328_768),
    ('wide_resnet16_8', {}, 32, 10_961_370, 11_007_540, 1_548_145_664),
    ('wide_resnet40_4', {}, 32, 8_949_210, 8_972_340, 1_298_582_016),
    ('preact_resnet110', {}, 32, 1_727_962, None, None),
    ('preact_resnet110', {'shortcut': 'B'}, 32, 1_730_522, None, None),
    ('preact_resnet164', {}, 32, 1_703_258, 1_726_388, 244_500_992),
    ('preact_resnet1001', {}, 32, 10_327_706, 10_350_836, 1_487_849_984),
    # 64,673,832 with a ResNet's norms, but 3,840 maps fewer: 64 of the stem, 3,840 of shortcuts and
    # 1,984 of the stages' first units (their inputs, not outputs) less 2,048 of the last norm.
    ('preact_resnet200', {}, 224, 64_666_152, None, None),
    ('resnet20', {'shortcut': 'B'}, 32, 272_474, None, None),
    ('resnet32', {'shortcut': 'B'}, 32, 466_906, None, None),
    ('resnet44', {'shortcut': 'B'}, 32, 661_338, None, None),
    ('resnet56', {'shortcut': 'B'}, 32, 855_770, None, None),
    ('resnet110', {'shortcut': 'B'}, 32, 1_730_714, None, None),

    ('densenet121', {}, 224, 7_978_856, None, 2_834_161_664),
    ('densenet161', {}, 224, 28_681_000, None, 7_727_907_072),
    ('densenet169', {}, 224, 14_149_480, None, 3_359_843_328),
    ('densenet201', {}, 224, 20_013_928, None, 4_291_365_888),
    ('densenet_l40_k12', {}, 32, 1_019_722, 1_060_132, 264_812_928),
    ('densenet_l100_k12', {}, 32, 6_979_642, 7_084_852, 1_769_516_448),
    ('densenet_l100_k24', {}, 32, 27_249_082, 27_457_972, 6_889_347_744),
    ('densenet_bc_l100_k12', {}, 32, 769_162, 800_032, 287_929_692),
    ('densenet_bc_l250_k24', {}, 32, 15_324_406, 15_480_556, 5_418_785_724),
    ('densenet_bc_l190_k40', {}, 32, 25_624_430, 25_821_620, 9_301_945_740),
    ('densenet_bc_l40_k36', {}, 32, 1_542_682, None, None),
    ('densenet_bc_l40_k48', {}, 32, 2_733_130, None, None),
    ('densenet_bc_l40_k60', {}, 32, 4_261_690, None, None),

    ('fractalnet20', {}, 32, 33_714_314, 33_760_484, 845_222_912),
    ('fractalnet40', {}, 32, 76_084_554, 76_130_724, 2_036_077_568),
    ('fractalnet20', {'columns': 1, 'widths': WIDTHS}, 32, None, 257_924, None),
    ('fractalnet20', {'columns': 2, 'widths': WIDTHS}, 32, None, 846_612, None),
    ('fractalnet20', {'columns': 3, 'widths': WIDTHS}, 32, None, 2_122_628, None),
    ('fractalnet20', {'columns': 4, 'widths': WIDTHS}, 32, None, 4_773_300, None),
    ('fractalnet20', {'columns': 5, 'widths': WIDTHS}, 32, None, 10_173_284, None),
    ('fractalnet20', {'columns': 6, 'widths': WIDTHS}, 32, None, 21_071_892, None),
    ('fractalnet_slim5', {}, 32, None, 257_924, None),
    ('fractalnet_slim10', {}, 32, None, 846_612, None),
    ('fractalnet_slim20', {}, 32, None, 2_122_628, None),
    ('fractalnet_slim40', {}, 32, None, 4_773_300, None),
    ('fractalnet_slim80', {}, 32, None, 10_173_284, None),
    ('fractalnet_slim160', {}, 32, None, 21_071_892, None),
    ('fractalnet34', {}, 224, 164_002_216, None, None),

    ('googlenet', {}, 224, 13_378_280, None, None),
    ('googlenet', {'auxiliary_weight': 0.0}, 224, 6_998_552, None, 1_582_671_872),
    ('googlenet_bn', {}, 224, 6_624_904, None, 1_498_376_192),
    ('googlenet_bn', {'largest': 5}, 224, 7_005_832, None, None),
    ('mobilenet_v1', {}, 224, 4_231_976, None, 568_740_352),
    ('mobilenet_v1', {'resolution': 192}, 192, 4_231_976, None, 418_121_728),
    ('mobilenet_v1', {'resolution': 160}, 160, 4_231_976, None, 290_675_200),
    ('mobilenet_v1', {'resolution': 128}, 128, 4_231_976, None, 186_400_768),
    ('mobilenet_v1_075', {}, 224, 2_585_560, None, 325_400_448),
    ('mobilenet_v1_050', {}, 224, 1_331_592, None, 149_497_088),
    ('mobilenet_v1_025', {}, 224, 470_072, None, 41_030_272),
    # torchvision's and timm's counts. The complex bypass adds four 1x1 convolutions with biases.
    ('mobilenet_v2', {}, 224, 3_504_872, None, 300_774_272),
    ('mobilenet_v2_140', {}, 224, 6_108_776, None, 582_195_824),
    ('mobilenet_v2_050', {}, 224, 1_968_680, None, 97_131_840),
    ('mobilenet_v2', {'num_classes': 10}, 224, 3_504_872 - 990 * 1_281,
     3_504_872 - 900 * 1_281, None),
    ('squeezenet1_0', {}, 224, 1_248_424, None, 818_924_576),
    ('squeezenet1_0', {'num_classes': 10}, 224, 1_248_424 - 990 * 513, None, None),
    ('squeezenet1_0', {'bypass': 'simple'}, 224, 1_248_424, None, None),
    ('squeezenet1_0', {'bypass': 'complex'}, 224, 1_248_424 + 97 * 128 + 129 * 256 + 257 * 384
     + 385 * 512, None, None),
    ('squeezenet1_1', {}, 224, 1_235_496, None, 349_151_936),
    ('squeezenet1_1', {'num_classes': 100}, 224, 1_235_496 - 900 * 513, None, None),
    ('inception_v3', {}, 299, 27_161_264, None, None),
    ('inception_v3', {'auxiliary_weight': 0.0}, 299, 23_834_568, None, 5_713_216_096),
    ('inception_v3', {'auxiliary_weight': 0.0, 'num_classes': 10}, 299, 23_834_568 - 990 * 2_049,
     23_834_568 - 900 * 2_049, None),
    # lucent's: what differs from GoogLeNet is 4a's 3x3 of 204 maps and all that sees them, 5a's
    # reduction to 48 maps, and 1,008 outputs.
    ('inception_v1', {}, 224, 6_998_552 - 4 * (96 * 9 + 1) - 4 * (160 + 112 + 24 + 64)
     + 16 * (832 + 1 + 25 * 128) + 8 * 1_025, None, None),
    ('unet', {}, 572, 31_030_658, None, None),
    ('unet_padded', {}, 512, 31_030_658, None, None),
    # With batch normalization of 5,888 maps in place of biases: as in milesial/Pytorch-UNet.
    ('unet_padded', {'norm': 'batch'}, 512, 31_030_658 + 5_888, None, None),
    # The count of pytorch/examples' fast_neural_style.
    ('transformation_net', {}, 256, 1_679_235, None, None),
    ('transformation_net', {'norm': 'batch'}, 256, 1_679_235, None, None),
    ('fcn32s', {}, 500, 134_346_581, None, None),
    ('fcn16s', {}, 500, 134_357_354, None, None),
    ('fcn8s', {}, 500, 134_362_751, None, None),
    # torchvision's counts; it says 152.717 G multiply-adds with the second head.
    ('fcn_resnet50', {}, 520, 32_957_013, None, None),
    ('fcn_resnet50', {'auxiliary_weight': 0.5}, 520, 35_322_218, None, None),
    ('fcn_resnet101', {}, 520, 51_949_141, None, None),
    ('fcn_resnet101', {'auxiliary_weight': 0.5}, 520, 54_314_346, None, None),
    # The forms of darknet: its yolo-small.cfg of 2015, yolov1.cfg, yolov1-tiny.cfg.
    ('yolo_v1', {}, 448, 271_703_550, None, 20_285_153_280),
    ('yolo_v1', {'norm': 'batch'}, 448, 271_716_734, None, 20_285_153_280),
    ('yolo_v1', {'hidden': (512, 4096)}, 448, 93_970_430, None, 20_107_419_648),
    ('yolo_v1_local', {}, 448, 197_301_875, None, None),
    ('yolo_v1_local', {'predictors': 2}, 448, 194_228_350, None, None),
    ('yolo_v1_fast', {}, 448, 45_089_374, None, 2_418_728_960),
    ('yolo_v1_fast', {'groups': ((3,),) * 6 + ((3, 3),), 'hidden': (), 'norm': 'batch', 'widths': (
        (16,), (32,), (64,), (128,), (256,), (512,), (1024, 256))}, 448, 27_095_374, None,
     1_608_015_360),
    ('yolo_v1_small', {}, 64, 182_564, None, None),
    ('yolo_v1_classifier', {}, 224, 23_428_136, None, 4_210_188_288),
    # py-faster-rcnn's networks, that of COCO too; torchvision's counts, of 21 classes and without
    # frozen statistics too.
    ('faster_rcnn_vgg16', {}, 1000, 137_078_239, None, None),
    ('faster_rcnn_vgg16', {'rpn_scores': 'sigmoid'}, 600, 137_078_239 - 4_617, None, None),
    ('faster_rcnn_vgg16', {'num_classes': 80, 'anchor_sizes': ((64, 128, 256, 512),)}, 600,
     138_316_573, None, None),
    ('fast_rcnn_vgg16', {}, 1000, 134_690_729, None, None),
    ('rcnn_vgg16', {}, 1000, 134_690_729, None, None),
    ('faster_rcnn_resnet50_fpn', {}, 1333, 41_755_286, None, None),
    ('faster_rcnn_resnet50_fpn', {'num_classes': 20}, 800, 41_396_536, None, None),
    ('faster_rcnn_resnet50_fpn', {'norm': 'batch'}, 800, 41_808_406, None, None),
    ('faster_rcnn_small', {}, 64, 312_564, None, None),
    # The sums of kernels and biases, by hand; Maxout's of MNIST has a bias at each position.
    ('maxout', {}, 32, 37_056 + 2_359_680 + 1_843_584 + 12_002_500 + 5_010, None,
     33 ** 2 * 36_864 + 15 ** 2 * 2_359_296 + 9 ** 2 * 1_843_200 + 12_000_000 + 5_000),
    ('maxout_svhn', {}, 32, 9_728 + 409_856 + 819_456 + 9_218_000 + 4_010, None,
     36 ** 2 * 9_600 + 20 ** 2 * 409_600 + 12 ** 2 * 819_200 + 9_216_000 + 4_000),
    ('maxout_mnist', {}, 28, 6_144 + 294_912 + 115_200 + 2_170 + 96 * (441 + 81 + 36), None,
     21 ** 2 * 6_144 + 9 ** 2 * 294_912 + 6 ** 2 * 115_200 + 2_160),
    ('dropconnect', {}, 24, 4_864 + 102_464 + 36 * (36_928 + 18_464) + 147_584 + 1_290, None, None),
    # Network in Network and, if any, linear classifiers of 32, 16 and 8 pixels a side, or filters.
    # By the formula; the paper has 30 and 107 million multiplications for the first two.
    ('fitnet1', {}, 32, 348_694, 393_784, 30_246_024),
    ('fitnet2', {}, 32, 1_057_622, 1_102_712, 107_967_880),
    ('fitnet3', {}, 32, 1_699_638, 1_744_728, 324_138_376),
    ('fitnet4', {}, 32, 2_742_102, 2_787_192, 381_941_128),
    ('dsn', {}, 32, 966_986 + 10 * 192 * (32 ** 2 + 16 ** 2 + 8 ** 2) + 30, None, None),
    ('dsn', {'auxiliary_weight': 0.0}, 32, 966_986, None, 222_486_528),
    ('generalized_pooling_mixed', {}, 32, 966_986 + 2, None, 222_486_528),
    ('generalized_pooling_gated', {}, 32, 966_986 + 2 * 9, None, None),
    ('generalized_pooling_tree', {}, 32, 966_986 + 3 * 9 + 9, None, None),
    ('generalized_pooling_tree', {'levels': 3}, 32, 966_986 + 7 * 9 + 9, None, None),
    ('fmp12_160', {}, 32, 74_569_920 + 14_570, None, None),  # the paper counts no biases
    ('fmp12_64', {}, 32, 11_936_640 + 5_834, None, None),
    ('fmp6_32', {}, 28, 462_026, None, None),
    # By the formulas: layer by layer, of highway layers twice, of the paper's stacks, of kernels
    # that a recurrent layer uses once and thrice (its multiply-adds are in test_summary.py), of all
    # rival sizes. The papers' counts: 2.3 M, about 1.25 M, none, 0.67 M, 1.19 M, 1.86 M; 10.3 M.
    ('highway19', {}, 32, 2_256_838, None, 330_826_728),
    ('highway32', {}, 32, 1_264_502, None, 230_089_704),
    ('elu_net', {}, 32, 39_226_634, None, 1_496_804_608),
    ('elu_net11', {}, 32, 1_641_938, None, 157_503_304),
    ('recurrent_cnn96', {}, 32, 672_202, 680_932, None),
    ('recurrent_cnn128', {}, 32, 1_191_178, 1_202_788, None),
    ('recurrent_cnn160', {}, 32, 1_857_610, 1_872_100, None),
    ('recurrent_cnn192', {}, 32, 2_671_498, 2_688_868, None),
    ('competitive_multiscale', {}, 32, 4_480_424, None, 1_213_906_944),
    ('rir18_wide', {}, 32, 10_299_370, 10_334_020, 1_361_612_544),
]
DEEP = {'resnet1202', 'preact_resnet1001'}  # traced with their repeated blocks once
IDS = [' '.join([name, *(f'{field}={value}' for field, value in fields.items())])
       for name, fields, *_ in COUNTS]

# Narrow networks of every family, and the height of images that they take; they are twice as wide.
TINY = {
    'vgg11': ({'widths': (2, 3, 4, 4, 4), 'hidden': (32, 16)}, 32),
    'vgg11_lrn': ({'widths': (2, 3, 4, 4, 4), 'hidden': ()}, 32),
    'vgg11_bn': ({'widths': (2, 3, 4, 4, 4), 'hidden': ()}, 32),
    'resnet20': ({'blocks': (1, 1, 1), 'widths': (2, 4, 8)}, 8),
    'resnet50': ({'blocks': (1, 1), 'widths': (2, 3)}, 8),
    'resnet50d': ({'blocks': (1, 1), 'widths': (2, 3), 'reduction': 4}, 10),
    'densenet121': ({'layers_per_block': (2, 1), 'growth': 2, 'stem_width': 5}, 8),
    'densenet_l40_k12': ({'layers_per_block': (2, 1), 'growth': 2, 'stem_width': 5}, 2),
    'fractalnet20': ({'columns': 2, 'widths': (2, 3), 'dropout': (0.0, 0.1)}, 4),
}
every_tiny = pytest.mark.parametrize('name', TINY)


def create(name, **fields):
    """A narrow network with four classes."""
    return models.create(name, **{'num_classes': 4, **TINY[name][0], **fields})


def images(name):
    height = TINY[name][1]
    return jax.random.normal(jax.random.key(1), (2, height, 2 * height, 3))


BATCH, = export.symbolic_shape('batch')


@functools.cache
def shapes(net, height, width, batch=1):
    """The shapes of (logits, taps) for a batch of images, and of the variables."""
    return jax.eval_shape(net.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct(
        (batch, height, width, net.image_shape[-1]), 'float32'))


def random_variables(net, height):
    """Every parameter and statistic drawn by numpy: compiling the initializers takes seconds."""
    generator = np.random.default_rng(0)

    def draw(path, array):
        if path[-1].key in ('scale', 'var'):
            return np.float32(generator.uniform(0.5, 2, array.shape))
        deviation = (2 / math.prod(array.shape[:-1])) ** 0.5 if path[-1].key == 'kernel' else 0.1
        return np.float32(generator.normal(0, deviation, array.shape))

    return jax.tree_util.tree_map_with_path(draw, shapes(net, height, 2 * height)[1])


def apply(net, variables, x, **options):
    return jax.jit(functools.partial(net.apply, **options))(variables, x)


@functools.cache
def run(name):
    """A narrow network, its variables, and the logits and taps of two images."""
    net = create(name)
    variables = random_variables(net, TINY[name][1])
    return net, variables, *apply(net, variables, images(name))


def size(tree):
    return sum(array.size for array in jax.tree.leaves(tree))


def kernels(params):
    """{path of a layer: its kernel}, such as 'conv4_2/conv1'."""
    return {path.removesuffix('/kernel'): array
            for path, array in traverse_util.flatten_dict(params, sep='/').items()
            if path.endswith('/kernel')}


def tap_of(layer, taps):
    """The tap of a layer's name or else, for shortcuts and FractalNet, of the block or unit; of
    blocks that are traced once, that of the first."""
    if layer not in taps:
        layer = layer.rpartition('/')[0].replace('_x', '_2')
    return taps[layer]


def multiply_adds(params, taps):
    return sum(kernel.size * math.prod(tap_of(layer, taps).shape[1:-1])
               for layer, kernel in kernels(params).items())


@pytest.mark.parametrize(('name', 'fields', 'side', 'count', 'of_hundred', 'operations'), COUNTS,
                         ids=IDS)
def test_counts(name, fields, side, count, of_hundred, operations):
    """Also that each network is traced at a symbolic batch size."""
    net = models.create(name, **fields, **({'scan': True} if name in DEEP else {}))
    (outputs, taps), variables = shapes(net, side, side, BATCH)
    params = variables['params']
    assert {array.shape[0] for array in jax.tree.leaves(outputs)} == {BATCH}
    if count is not None:
        assert size(params) == count
    if of_hundred is not None:
        # That the number of classes changes the last layer alone has its own test.
        features, classes = params['softmax' if 'softmax' in params else 'fc']['kernel'].shape
        assert classes == 10
        assert size(params) + 90 * (features + 1) == of_hundred
    if operations is not None:
        assert multiply_adds(params, taps) == operations


@pytest.mark.parametrize(('name', 'side'), [(name, side) for name, fields, side, *_ in COUNTS
                                            if not fields])
def test_the_papers_images(name, side):
    assert models.create(name).image_shape[:2] == (side, side)


def test_no_network_is_missing_above():
    assert set(models.names()) <= {name for name, fields, *_ in COUNTS if not fields}
    assert models.names() == sorted(set(models.names()))


@pytest.mark.parametrize(('name', 'count', 'operations'), [
    ('fractalnet20', 20_398_538, 549_131_264),
    ('fractalnet40', 42_375_370, 1_190_859_776),
])
def test_counts_of_the_deepest_column_alone(name, count, operations):
    net = models.create(name)
    x = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    _, taps = jax.eval_shape(functools.partial(net.apply, column=net.columns), variables, x)
    params = {layer: arrays for layer, arrays in variables['params'].items() if layer in taps}
    assert all(f'column{net.columns}' in layer or layer == 'fc' for layer in params)
    assert size(params) == count
    assert multiply_adds(params, taps) == operations


@every_tiny
def test_the_number_of_classes_changes_the_last_layer_alone(name):
    _, variables, logits, _ = run(name)
    (more_logits, _), more = shapes(create(name, num_classes=7), TINY[name][1], 2 * TINY[name][1])
    assert (logits.shape, more_logits.shape) == ((2, 4), (1, 7))
    ours, theirs = (jax.tree.map(jnp.shape, tree['params']) for tree in (variables, more))
    last = 'fc8' if name.startswith('vgg') else 'fc'
    features = ours[last]['kernel'][0]
    assert theirs.pop(last) == {'kernel': (features, 7), 'bias': (7,)}
    assert ours.pop(last) == {'kernel': (features, 4), 'bias': (4,)}
    assert ours == theirs


VGG11 = ('conv1_1 relu1_1 pool1 conv2_1 relu2_1 pool2 conv3_1 relu3_1 conv3_2 relu3_2 pool3 '
         'conv4_1 relu4_1 conv4_2 relu4_2 pool4 conv5_1 relu5_1 conv5_2 relu5_2 pool5')


@pytest.mark.parametrize(('name', 'expected'), [
    ('vgg11', f'{VGG11} fc6 relu6 fc7 relu7 fc8'),
    ('vgg11_lrn', f'{VGG11} fc8'.replace('pool1', 'norm1 pool1')),
    ('vgg11_bn', f'{VGG11} fc8'),
    ('resnet20', 'conv1 relu1 '
                 'conv2_1/conv1 conv2_1/relu1 conv2_1/conv2 conv2_1 '
                 'conv3_1/conv1 conv3_1/relu1 conv3_1/conv2 conv3_1 '
                 'conv4_1/conv1 conv4_1/relu1 conv4_1/conv2 conv4_1 pool fc'),
    ('resnet50', 'conv1 relu1 pool1 conv2_1/conv1 conv2_1/relu1 conv2_1/conv2 conv2_1/relu2 '
                 'conv2_1/conv3 conv2_1 conv3_1/conv1 conv3_1/relu1 conv3_1/conv2 conv3_1/relu2 '
                 'conv3_1/conv3 conv3_1 pool fc'),
    ('resnet50d', 'stem_conv1 stem_relu1 stem_conv2 stem_relu2 conv1 relu1 pool1 ' + ' '.join(
        f'{block}/{layer}' if layer else block for block in ('conv2_1', 'conv3_1') for layer in (
            'conv1', 'relu1', 'conv2', 'relu2', 'conv3', 'se/pool', 'se/fc1', 'se/relu', 'se/fc2',
            'se/sigmoid', 'se', '')) + ' pool fc'),
    ('densenet121', 'conv0 relu0 pool0 '
                    'block1_layer1/relu1 block1_layer1/conv1 block1_layer1/relu2 '
                    'block1_layer1/conv2 block1_layer1 '
                    'block1_layer2/relu1 block1_layer2/conv1 block1_layer2/relu2 '
                    'block1_layer2/conv2 block1_layer2 '
                    'block1 transition1/relu transition1/conv transition1 '
                    'block2_layer1/relu1 block2_layer1/conv1 block2_layer1/relu2 '
                    'block2_layer1/conv2 block2_layer1 block2 relu pool fc'),
    ('densenet_l40_k12', 'conv0 block1_layer1/relu2 block1_layer1/conv2 block1_layer1 '
                         'block1_layer2/relu2 block1_layer2/conv2 block1_layer2 '
                         'block1 transition1/relu transition1/conv transition1 '
                         'block2_layer1/relu2 block2_layer1/conv2 block2_layer1 block2 '
                         'relu pool fc'),
    ('fractalnet20', 'block1_column2_unit1 block1_column1_unit1 block1_column2_unit2 pool1 '
                     'block2_column2_unit1 block2_column1_unit1 block2_column2_unit2 pool2 '
                     'flatten fc'),
])
def test_taps_are_a_dict_in_forward_order(name, expected):
    net, variables, *_ = run(name)
    seen = []  # Filled inside the trace: jax sorts the keys of a returned dict.
    jax.eval_shape(lambda: seen.append(net.apply(variables, images(name))[1]))
    assert type(seen[0]) is dict
    assert list(seen[0]) == expected.split()


@every_tiny
def test_every_convolution_and_full_layer_has_a_tap(name):
    _, variables, logits, taps = run(name)
    for layer, kernel in kernels(variables['params']).items():
        assert tap_of(layer, taps).shape[-1] == kernel.shape[-1]
        assert (layer in taps) != layer.endswith(('/shortcut_conv', '_unit1/conv', '_unit2/conv'))
    np.testing.assert_array_equal(logits, taps['fc8' if name.startswith('vgg') else 'fc'])


@pytest.mark.parametrize(('name', 'side', 'expected'), [
    ('vgg16', 224, {'conv4_2': (28, 28, 512), 'relu5_3': (14, 14, 512), 'pool5': (7, 7, 512),
                    'fc6': (4096,), 'fc8': (1000,)}),
    ('resnet50', 224, {'pool1': (56, 56, 64), 'conv2_3': (56, 56, 256), 'conv3_4': (28, 28, 512),
                       'conv4_6': (14, 14, 1024), 'conv5_3': (7, 7, 2048), 'pool': (2048,)}),
    ('resnet20', 32, {'conv2_3': (32, 32, 16), 'conv3_3': (16, 16, 32), 'conv4_3': (8, 8, 64)}),
    ('densenet121', 224, {'pool0': (56, 56, 64), 'block1_layer6': (56, 56, 32),
                          'block1': (56, 56, 256), 'transition1': (28, 28, 128),
                          'transition3': (7, 7, 512), 'block4': (7, 7, 1024)}),
    ('densenet_bc_l100_k12', 32, {'conv0': (32, 32, 24), 'block1_layer16': (32, 32, 12),
                                  'transition1': (16, 16, 108), 'block3': (8, 8, 342)}),
    ('fractalnet20', 32, {'block1_column3_unit4': (32, 32, 64), 'block1_join2': (32, 32, 64),
                          'block5_column1_unit1': (2, 2, 512), 'pool5': (1, 1, 512),
                          'flatten': (512,)}),
])
def test_the_papers_names_and_sizes(name, side, expected):
    (_, taps), _ = shapes(models.create(name), side, side)
    assert {tap: taps[tap].shape[1:] for tap in expected} == expected


@pytest.mark.parametrize(('name', 'message'), [
    ('resnet51', "no network 'resnet51'; did you mean .*resnet50"),
    ('vgg_16', "no network 'vgg_16'; did you mean vgg16"),
    ('densenet_l40', "no network 'densenet_l40'; did you mean densenet_l40_k12"),
    ('xyz', r"no network 'xyz'; models.names\(\) lists"),
])
def test_an_unknown_name(name, message):
    with pytest.raises(UserError, match=message):
        models.create(name)


@pytest.mark.parametrize(('field', 'message'), [
    ('num_clases', "resnet20 has no field 'num_clases'; did you mean num_classes"),
    ('parent', "resnet20 has no field 'parent'"),  # flax's own, not the user's to set
])
def test_an_unknown_field(field, message):
    with pytest.raises(UserError, match=message):
        models.create('resnet20', **{field: 5})


@pytest.mark.parametrize('field', [
    {'rpn_before': (100,)}, {'rpn_iou': 0.5}, {'roi_iou': (0.5, 0.5)}, {'anchor_ratios': ()}])
def test_a_value_of_another_form(field):
    with pytest.raises(UserError, match=r'take something like [\d(]|give 2 numbers'):
        models.create('faster_rcnn_small', **field)


def test_a_field_that_is_none_keeps_its_value():
    assert models.create('resnet20', shortcut=None, num_classes=None) == models.create('resnet20')


def test_pools_by_name():
    assert models.create('vgg11', pool='average') == models.create('vgg11',
                                                                   pool=layers.average_pool)
    assert models.create('vgg11', pool='max') == models.create('vgg11')
    with pytest.raises(UserError, match="pool is 'max' or 'average' or 'blur', not 'mean'"):
        models.create('vgg11', pool='mean')


@pytest.mark.parametrize(('name', 'expected'), [
    ('densenet_l7_k5', ((1, 1, 1), 5, 16, False, 1.0)),
    ('densenet_l40_k24', ((12, 12, 12), 24, 16, False, 1.0)),
    ('densenet_bc_l10_k3', ((1, 1, 1), 3, 6, True, 0.5)),
])
def test_densenets_of_any_depth_and_growth(name, expected):
    net = models.create(name)
    assert (net.layers_per_block, net.growth, net.stem_width, net.bottleneck,
            net.compression) == expected
    assert (net.stem, net.num_classes) == (3, 10)


@pytest.mark.parametrize('name', ['densenet_l41_k12', 'densenet_l4_k12', 'densenet_l40_k0',
                                  'densenet_l1_k12', 'densenet_bc_l43_k12', 'densenet_bc_l7_k12'])
def test_densenets_of_impossible_depth_or_growth(name):
    with pytest.raises(UserError, match=f'{name}: the depth L must be 4 more than a multiple of'):
        models.create(name)


@pytest.mark.parametrize(('stride_in', 'sides'), [
    ('3x3', (56, 56, 28, 28, 28)),  # v1.5
    ('1x1', (56, 28, 28, 28, 28)),  # v1, the paper
])
def test_where_a_bottleneck_strides(stride_in, sides):
    (_, taps), _ = shapes(models.create('resnet50', stride_in=stride_in), 224, 224)
    names = ('conv2_3', 'conv3_1/conv1', 'conv3_1/conv2', 'conv3_1', 'conv3_4')
    assert tuple(taps[name].shape[1] for name in names) == sides


@pytest.mark.parametrize('field', [{'shortcut': 'E'}, {'stride_in': '7x7'}, {'stem': 5}])
def test_an_unknown_value_of_a_residual_network(field):
    (name, value), = field.items()
    with pytest.raises(UserError, match=f'{name} is one of .*, not {value!r}'):
        shapes(create('resnet20', **field), 8, 8)


@pytest.mark.parametrize(('name', 'fields', 'projections'), [
    ('resnet20', {'shortcut': 'A'}, []),
    ('resnet20', {'shortcut': 'B'}, ['conv3_1', 'conv4_1']),
    ('resnet20', {'shortcut': 'C'}, ['conv2_1', 'conv3_1', 'conv4_1']),
    ('resnet18', {}, ['conv3_1', 'conv4_1', 'conv5_1']),  # 64 maps enter conv2_1 and leave it
    ('resnet50', {}, ['conv2_1', 'conv3_1', 'conv4_1', 'conv5_1']),  # 64 enter, 256 leave
    ('resnet50', {'shortcut': 'A'}, []),
    ('resnet18', {'shortcut': 'D'}, ['conv3_1', 'conv4_1', 'conv5_1']),
])
def test_which_shortcuts_project(name, fields, projections):
    blocks = (1, 1, 1) if name == 'resnet20' else (1, 1, 1, 1)
    _, variables = shapes(models.create(name, blocks=blocks, **fields), 32, 32)
    assert [block for block, params in variables['params'].items()
            if 'shortcut_conv' in params] == projections


def zeroed(variables, pattern):
    """The variables with those of some paths 'params/conv2_1/bn2/scale' replaced by zeros."""
    flat = traverse_util.flatten_dict(variables, sep='/')
    return traverse_util.unflatten_dict({path: 0 * array if re.search(pattern, path) else array
                                         for path, array in flat.items()}, sep='/')


class Layers:
    """Layers of a network by its variables, in evaluation, as numpy has them."""

    def __init__(self, variables):
        self.variables = {path: np.asarray(array) for path, array in
                          traverse_util.flatten_dict(variables, sep='/').items()}

    def conv(self, path, x, stride=1):
        kernel = self.variables[f'params/{path}/kernel']
        pad = kernel.shape[0] // 2
        x = lax.conv_general_dilated(x, kernel, (stride, stride), ((pad, pad), (pad, pad)),
                                     dimension_numbers=convolution.LAYOUT)
        return np.asarray(x) + self.variables.get(f'params/{path}/bias', 0)

    def norm(self, path, x):
        scale, bias = (self.variables[f'params/{path}/{name}'] for name in ('scale', 'bias'))
        mean, var = (self.variables[f'batch_stats/{path}/{name}'] for name in ('mean', 'var'))
        return scale * (np.asarray(x) - mean) / np.sqrt(var + 1e-5) + bias

    def dense(self, path, x):
        kernel, bias = (self.variables[f'params/{path}/{name}'] for name in ('kernel', 'bias'))
        return np.asarray(x) @ kernel + bias


def assert_taps(taps, expected):
    for name, values in expected.items():
        np.testing.assert_allclose(taps[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_shortcut_a_subsamples_and_appends_zeros():
    net, variables, *_ = run('resnet20')
    variables = zeroed(variables, 'conv[23]_1/bn2/(scale|bias|mean)')
    _, taps = apply(net, variables, images('resnet20'))
    np.testing.assert_array_equal(taps['conv2_1'], taps['relu1'])
    subsampled = taps['conv2_1'][:, ::2, ::2]
    assert subsampled.any()
    np.testing.assert_array_equal(
        taps['conv3_1'], jnp.concatenate([subsampled, jnp.zeros_like(subsampled)], -1))


@pytest.mark.parametrize('shortcut', 'ABC')
def test_order_of_a_residual_network(shortcut):
    """Batch normalization after every convolution, ReLU after the addition."""
    net = create('resnet20', shortcut=shortcut)
    variables = random_variables(net, 8)
    _, taps = apply(net, variables, images('resnet20'))
    by = Layers(variables)
    identity = {
        'A': lambda block, x: x if block == 'conv2_1' else jnp.pad(
            x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, x.shape[-1]))),
        'B': lambda block, x: x if block == 'conv2_1' else identity['C'](block, x),
        'C': lambda block, x: by.norm(f'{block}/shortcut_bn', by.conv(
            f'{block}/shortcut_conv', x, 1 if block == 'conv2_1' else 2)),
    }
    expected = {'conv1': by.conv('conv1', images('resnet20')),
                'relu1': nn.relu(by.norm('bn1', taps['conv1'])),
                'pool': taps['conv4_1'].mean((1, 2)),
                'fc': by.dense('fc', taps['pool'])}
    for before, block, stride in (('relu1', 'conv2_1', 1), ('conv2_1', 'conv3_1', 2)):
        x = taps[before]
        expected |= {
            f'{block}/conv1': by.conv(f'{block}/conv1', x, stride),
            f'{block}/relu1': nn.relu(by.norm(f'{block}/bn1', taps[f'{block}/conv1'])),
            f'{block}/conv2': by.conv(f'{block}/conv2', taps[f'{block}/relu1']),
            block: nn.relu(by.norm(f'{block}/bn2', taps[f'{block}/conv2'])
                           + identity[shortcut](block, x)),
        }
    assert_taps(taps, expected)


def test_order_of_a_bottleneck():
    _, variables, _, taps = run('resnet50')
    by, x = Layers(variables), taps['pool1']
    assert_taps(taps, {
        'conv1': by.conv('conv1', images('resnet50'), 2),
        'pool1': layers.max_pool(taps['relu1'], 3, 2, 1),
        'conv2_1/conv1': by.conv('conv2_1/conv1', x),
        'conv2_1/relu1': nn.relu(by.norm('conv2_1/bn1', taps['conv2_1/conv1'])),
        'conv2_1/conv2': by.conv('conv2_1/conv2', taps['conv2_1/relu1']),
        'conv2_1/relu2': nn.relu(by.norm('conv2_1/bn2', taps['conv2_1/conv2'])),
        'conv2_1/conv3': by.conv('conv2_1/conv3', taps['conv2_1/relu2']),
        'conv2_1': nn.relu(by.norm('conv2_1/bn3', taps['conv2_1/conv3']) + by.norm(
            'conv2_1/shortcut_bn', by.conv('conv2_1/shortcut_conv', x))),
    })


def test_order_of_squeeze_and_excitation_and_of_resnet_d():
    """By hand, on 5 x 10 pixels, so that a mean sees 2 pixels where it would be of 4."""
    _, variables, _, taps = run('resnet50d')
    by, x = Layers(variables), np.asarray(taps['conv2_1'])
    sides = [np.concatenate([x[:, i:i + 2, j:j + 2].mean((1, 2))[:, None] for j in (0, 2, 4)], 1)
             for i in (0, 2)]
    halved = np.stack(sides, 1)
    y = by.norm('conv3_1/bn3', taps['conv3_1/conv3'])
    assert taps['conv2_1/se/fc1'].shape == (2, 8 // 4)
    assert_taps(taps, {
        'stem_conv1': by.conv('stem_conv1', images('resnet50d'), 2),
        'stem_relu1': nn.relu(by.norm('stem_bn1', taps['stem_conv1'])),
        'stem_conv2': by.conv('stem_conv2', taps['stem_relu1']),
        'conv1': by.conv('conv1', taps['stem_relu2']),
        'pool1': layers.max_pool(taps['relu1'], 3, 2, 1),
        'conv3_1/se/pool': y.mean((1, 2)),
        'conv3_1/se/fc1': by.dense('conv3_1/se/fc1', y.mean((1, 2))),
        'conv3_1/se/fc2': by.dense('conv3_1/se/fc2', nn.relu(taps['conv3_1/se/fc1'])),
        'conv3_1/se/sigmoid': 1 / (1 + np.exp(-taps['conv3_1/se/fc2'])),
        'conv3_1/se': y * taps['conv3_1/se/sigmoid'][:, None, None],
        'conv3_1': nn.relu(taps['conv3_1/se'] + by.norm(
            'conv3_1/shortcut_bn', by.conv('conv3_1/shortcut_conv', halved))),
    })


@pytest.mark.parametrize(('name', 'last'), [
    ('vgg11', 'relu1_1'), ('vgg11_lrn', 'norm1'), ('vgg11_bn', 'relu1_1')])
def test_order_of_vgg(name, last):
    """Convolution, ReLU, local response normalization in A-LRN, pool; _bn before the ReLU."""
    _, variables, _, taps = run(name)
    by = Layers(variables)
    norm = by.norm if name == 'vgg11_bn' else lambda path, x: x
    expected = {
        'conv1_1': by.conv('conv1_1', images(name)),
        'relu1_1': nn.relu(norm('bn1_1', taps['conv1_1'])),
        'pool1': layers.max_pool(taps[last], 2, 2),
        'conv2_1': by.conv('conv2_1', taps['pool1']),
        'conv3_2': by.conv('conv3_2', taps['relu3_1']),
        'relu3_2': nn.relu(norm('bn3_2', taps['conv3_2'])),
    }
    if last == 'norm1':
        expected['norm1'] = layers.local_response_normalization(taps['relu1_1'])
    if name == 'vgg11':
        expected |= {'fc6': by.dense('fc6', layers.flatten(taps['pool5'])),
                     'relu6': nn.relu(taps['fc6']),
                     'fc7': by.dense('fc7', taps['relu6']),
                     'fc8': by.dense('fc8', taps['relu7'])}
    assert_taps(taps, expected)


@pytest.mark.parametrize(('name', 'width'), [
    ('densenet121', 4),  # half of 5 + 2 + 2, rounded down
    ('densenet_l40_k12', 9),
])
def test_order_of_a_dense_network(name, width):
    """The newest features last; batch normalization and ReLU before every convolution."""
    _, variables, _, taps = run(name)
    by = Layers(variables)
    stem, n = ('pool0', 1) if name == 'densenet121' else ('conv0', 2)
    both = jnp.concatenate([taps[stem], taps['block1_layer1']], -1)
    assert taps['transition1'].shape[-1] == width
    assert_taps(taps, {
        f'block1_layer1/relu{n}': nn.relu(by.norm(f'block1_layer1/bn{n}', taps[stem])),
        f'block1_layer2/relu{n}': nn.relu(by.norm(f'block1_layer2/bn{n}', both)),
        'block1_layer2/conv2': by.conv('block1_layer2/conv2', taps['block1_layer2/relu2']),
        'block1_layer2': taps['block1_layer2/conv2'],
        'block1': jnp.concatenate([both, taps['block1_layer2']], -1),
        'transition1/relu': nn.relu(by.norm('transition1/bn', taps['block1'])),
        'transition1/conv': by.conv('transition1/conv', taps['transition1/relu']),
        'transition1': layers.average_pool(taps['transition1/conv'], 2, 2),
        'relu': nn.relu(by.norm('bn', taps['block2'])),
        'pool': taps['relu'].mean((1, 2)),
        'fc': by.dense('fc', taps['pool']),
    })
    if name == 'densenet121':
        assert_taps(taps, {
            'relu0': nn.relu(by.norm('bn0', taps['conv0'])),
            'pool0': layers.max_pool(taps['relu0'], 3, 2, 1),
            'block1_layer2/conv1': by.conv('block1_layer2/conv1', taps['block1_layer2/relu1']),
            'block1_layer2/relu2': nn.relu(by.norm('block1_layer2/bn2',
                                                   taps['block1_layer2/conv1'])),
        })


@pytest.mark.parametrize('name', ['vgg11_bn', 'resnet20', 'densenet_l40_k12'])
def test_training_moves_every_statistic_of_batch_norm(name):
    net, variables, *_ = run(name)
    _, changed = apply(net, variables, images(name), train=True, mutable=['batch_stats'])
    moved = jax.tree.map(lambda a, b: (a != b).all(), variables['batch_stats'],
                         changed['batch_stats'])
    assert jax.tree.all(moved)


def test_dropout_is_for_training_and_follows_its_key():
    net, variables, logits, _ = run('vgg11')
    first, again, other = (apply(net, variables, images('vgg11'), train=True,
                                 rngs={'dropout': jax.random.key(seed)}) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != other[0]).any()
    dropless, _ = apply(net.clone(dropout=0.0), variables, images('vgg11'), train=True)
    np.testing.assert_array_equal(dropless, logits)


def test_where_a_dense_network_drops():
    """After every convolution but the first: with everything dropped, only zeros pass."""
    net, variables, logits, _ = run('densenet121')
    net, x = net.clone(dropout=1.0), images('densenet121')
    np.testing.assert_array_equal(apply(net, variables, x)[0], logits)  # evaluation drops none
    (_, taps), _ = apply(net, zeroed(variables, 'bias'), x, train=True, mutable=['batch_stats'],
                         rngs={'dropout': jax.random.key(0)})
    alive = {name for name, tap in taps.items() if tap.any()}
    assert {'pool0', 'block1_layer1/conv1', 'transition1/conv'} <= alive
    # The second convolution sees what is dropped after the first.
    assert not {'block1_layer1/conv2', 'block1_layer1', 'transition1'} & alive


@pytest.mark.parametrize(('name', 'activations'), [
    ('vgg11', 'relu'),
    ('resnet20', r'relu|^conv\d_\d$'),
    ('resnet50', r'relu|^conv\d_\d$'),
    ('densenet121', 'relu'),
    ('fractalnet20', 'unit'),
])
def test_every_activation_is_swapped_without_touching_the_weights(name, activations):
    net, variables, _, plain = run(name)
    _, taps = apply(net.clone(relu=lambda x: -1 - nn.relu(x)), variables, images(name))
    names = [tap for tap in taps if re.search(activations, tap)]
    assert all((plain[tap] >= 0).all() and (taps[tap] <= -1).all() for tap in names)
    assert len(names) > 2


@pytest.mark.parametrize('name', ['vgg11', 'resnet50', 'densenet121', 'fractalnet20'])
def test_every_pool_is_swapped_without_touching_the_weights(name):
    """All but the average pools that are part of the network."""
    net, variables, *_ = run(name)
    _, taps = apply(net.clone(pool=lambda x, *window: layers.max_pool(x, *window) + 100),
                    variables, images(name))
    names = [tap for tap in taps if re.fullmatch(r'pool\d', tap)]
    assert all((taps[tap] > 10).all() for tap in names)
    assert len(names) == {'vgg11': 5, 'fractalnet20': 2}.get(name, 1)


@pytest.mark.parametrize('train', [False, True])
@every_tiny
def test_activations_in_bfloat16_parameters_in_float32(name, train):
    net = create(name, dtype='bfloat16')
    x = jax.ShapeDtypeStruct(images(name).shape, 'float32')
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    rngs = {'dropout': jax.random.key(0), 'drop_path': jax.random.key(1)}
    (logits, taps), changed = jax.eval_shape(functools.partial(
        net.apply, train=train, rngs=rngs, mutable=['batch_stats']), variables, x)
    assert logits.dtype == 'bfloat16'
    assert {tap.dtype.name for tap in taps.values()} == {'bfloat16'}
    assert {array.dtype.name for array in jax.tree.leaves((variables, changed))} == {'float32'}


def test_a_trained_network_computes_in_float16():
    """Training refuses it, for want of loss scaling; logits need none."""
    net = create('resnet20')
    x = images('resnet20')
    variables = net.init(jax.random.key(0), x)
    expected, _ = net.apply(variables, x)
    logits, _ = net.clone(dtype='float16').apply(variables, x)
    assert logits.dtype == 'float16'
    np.testing.assert_allclose(logits, expected, rtol=0, atol=0.01 * abs(expected).max())


@pytest.mark.parametrize(('name', 'side', 'message'), [
    ('vgg11', 31, 'at least 32 x 32'),
    ('fractalnet20', 3, 'at least 4 x 4'),
    ('densenet121', 4, 'at least'),  # 4, 2, 1 pixels: none for the transition's pool
    ('densenet_l40_k12', 1, 'at least'),
])
def test_too_small_images(name, side, message):
    for shape in ((1, side, 32, 3), (1, 32, side, 3)):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(create(name).init, jax.random.key(0), jnp.zeros(shape))


# One narrow network of each family: its fields, and the shape of its images.
NARROW = {
    'convnet': ({}, (8, 8, 3)),
    'lenet5_1998': ({}, (32, 32, 1)),
    'alexnet': ({'widths': (4, 6, 4, 8, 6), 'hidden': (5, 4)}, (67, 67, 3)),
    'nin': ({'widths': ((4, 3, 2), (4, 3, 3), (4, 3))}, (8, 8, 3)),
    'allcnn_c': ({'widths': (3, 4)}, (12, 12, 3)),
    'vgg11_lrn': ({'widths': (2, 3, 4, 4, 4), 'hidden': (6,)}, (32, 32, 3)),
    'resnet20': ({'blocks': (1, 2, 1), 'widths': (2, 4, 8), 'scan': True}, (8, 8, 3)),
    'preact_resnet110': ({'blocks': (1, 1, 1), 'widths': (2, 4, 8)}, (8, 8, 3)),
    'resnet50d': ({'blocks': (1, 1), 'widths': (2, 3), 'reduction': 4}, (16, 16, 3)),
    'wide_resnet16_8': ({'blocks': (1, 1), 'widths': (4, 8), 'stem_width': 2, 'dropout': 0.3},
                        (8, 8, 3)),
    'zfnet': ({'widths': (4, 6, 4, 8, 6), 'hidden': (5, 4)}, (47, 47, 3)),
    'densenet121': ({'layers_per_block': (2, 1), 'growth': 2, 'stem_width': 5}, (8, 8, 3)),
    'fractalnet20': ({'columns': 2, 'widths': (2, 3), 'dropout': (0.0, 0.1)}, (4, 4, 3)),
    'googlenet': ({'inceptions': (('3a', *(2,) * 6), ('4a', *(2,) * 6), ('5a', *(2,) * 6)),
                   'auxiliary_weight': 0}, (31, 31, 3)),
    'mobilenet_v1': ({'blocks': ((1, 8), (2, 8)), 'stem_width': 8}, (8, 8, 3)),
    'mobilenet_v2': ({'blocks': ((1, 8, 1, 1), (2, 8, 1, 2)), 'stem_width': 8, 'last_width': 8},
                     (8, 8, 3)),
    'squeezenet1_1': ({'stem_width': 3, 'fires': ((2, 2), (3, 3)), 'pools': (1, 2)}, (10, 10, 3)),
    'inception_v3': ({'width_multiplier': 1 / 32, 'mixed': ('5b', '6a'), 'auxiliary_weight': 0.0},
                     (75, 75, 3)),
    'unet_padded': ({'widths': (2, 3)}, (8, 8, 1)),
    'fmp6_32': ({'depth': 2, 'width': 2, 'canvas': 16}, (16, 16, 1)),
    'maxout': ({'widths': (2, 3, 2), 'hidden': (3,)}, (10, 10, 3)),
    'dropconnect': ({'widths': (2, 3, 2, 2), 'hidden': (4,), 'tests': 3}, (8, 8, 3)),
    'fitnet1': ({'widths': ((3, 2), (4,), (3,)), 'hidden': (4,)}, (8, 8, 3)),
    'dsn': ({'widths': ((4, 3, 2), (4, 3, 3), (4, 3))}, (8, 8, 3)),
    'generalized_pooling_tree': ({'widths': ((4, 3, 2), (4, 3, 3), (4, 3))}, (8, 8, 3)),
    'highway19': ({'sizes': ((3,), (1,)), 'widths': (2, 3)}, (8, 8, 3)),
    'elu_net': ({'widths': ((2,), (3, 4)), 'sizes': ((3,), (1, 2)), 'dropout': (0.0, 0.1)},
                (8, 8, 3)),
    'recurrent_cnn96': ({'width': 8, 'iterations': 1}, (8, 8, 3)),
    'competitive_multiscale': ({'widths': ((2,), (2,)), 'sizes': (((1, 3),), ((1, 3), (1, 3)))},
                               (8, 8, 3)),
    'rir18_wide': ({'blocks': (1, 1), 'widths': (2, 4)}, (8, 8, 3)),
    'fcn8s': ({'widths': (2, 3, 4, 4, 4), 'hidden': (6, 5)}, (9, 9, 3)),
    'fcn_resnet50': ({'blocks': (1, 1, 1), 'widths': (2, 3, 4)}, (16, 16, 3)),
    'faster_rcnn_small': ({'widths': (2, 3, 4), 'hidden': (5,), 'rpn_width': 4, 'pooled': 2},
                          (32, 32, 3)),
    'yolo_v1_classifier': ({'groups': ((3,), (1, 3)), 'widths': ((2,), (3, 4)), 'pools': 1},
                           (8, 8, 3)),
    'yolo_v1_local': ({'groups': ((3,), (1, 3)), 'widths': ((2,), (3, 4)), 'pools': 1, 'local': 3,
                       'strided': ('conv1_1',), 'hidden': (5,), 'cells': 2}, (8, 8, 3)),
    'transformation_net': ({'widths': (2, 3, 4), 'depth': 1}, (16, 16, 3)),
}


def test_every_family_is_exported():
    assert all(set(family.TABLE) & set(NARROW) for family in models.FAMILIES)


@pytest.mark.parametrize('name', NARROW)
def test_a_network_works_at_a_symbolic_batch_size(name):
    fields, shape = NARROW[name]
    net = models.create(name, **fields)
    variables = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0),
                               jax.ShapeDtypeStruct((1, *shape), 'float32'))
    images = jax.ShapeDtypeStruct((BATCH, *shape), 'float32')

    def predict(variables, images):
        outputs, _ = net.apply(variables, images)
        return (outputs, net.detections(outputs)) if hasattr(net, 'detections') else outputs

    exported = export.export(jax.jit(predict), platforms=('cpu', 'cuda', 'tpu'))(variables, images)
    assert all(output.shape[0] == BATCH for output in exported.out_avals)
    if not hasattr(net, 'detections'):
        channels = 3 if name == 'transformation_net' else net.num_classes
        assert exported.out_avals[0].shape[-1] == channels
    for arguments in getattr(net, 'subnetworks', {}).values():
        logits, _ = jax.eval_shape(functools.partial(net.apply, **arguments), variables, images)
        assert logits.shape == (BATCH, net.num_classes)

    def total(variables, images):
        return sum(output.sum() for output in jax.tree.leaves(net.apply(variables, images)[0]))

    gradients = jax.eval_shape(jax.grad(total, (0, 1)), variables, images)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, (variables, images))


@pytest.mark.parametrize('name', ['faster_rcnn_small', 'yolo_v1_local'])
def test_types_of_detections_under_strict_promotion(name):
    fields, shape = NARROW[name]
    net, images = models.create(name, **fields), jax.ShapeDtypeStruct((2, *shape), 'float32')

    def detect(variables, images, frame):
        return net.detections(net.apply(variables, images, frame=frame)[0])

    with jax.enable_x64(True), jax.numpy_dtype_promotion('strict'):
        variables = jax.eval_shape(net.init, jax.random.key(0), images)
        found = jax.eval_shape(detect, variables, images, jax.ShapeDtypeStruct((2, 4), 'float32'))
    assert {name: str(array.dtype) for name, array in found.items()} == {
        'boxes': 'float32', 'labels': 'int32', 'scores': 'float32'}


@pytest.mark.parametrize('name', [name for name in NARROW if not name.startswith(
    ('faster_rcnn', 'yolo_v1_local'))])
@pytest.mark.parametrize('axes', [1, 3])
def test_sequences_and_volumes(name, axes):
    """The kernels have the rank of the examples, and no network takes the batch for an axis."""
    fields, shape = NARROW[name]
    net = models.create(name, **fields | ({'scan': False} if 'scan' in fields else {}))
    x = jax.ShapeDtypeStruct((5, *shape[:1] * axes, shape[-1]), 'float32')
    init = functools.partial(jax.eval_shape, net.init_with_output, jax.random.key(0), x)
    if name.startswith(('lenet5', 'unet', 'fmp', 'dropconnect', 'fcn', 'transformation')):
        with pytest.raises(UserError, match='needs images'):
            init()
    else:
        (logits, _), variables = init()
        assert logits.shape == (5, net.num_classes)
        assert {array.ndim + path.startswith('pool')  # its filters are the same for all channels
                for path, array in kernels(variables['params']).items()} <= {2, axes + 2}


@pytest.mark.parametrize(('name', 'fields'), [
    ('mobilenet_v1', {'blocks': ((1,),)}), ('mobilenet_v2', {'blocks': ((1, 8, 1),)}),
    ('squeezenet1_0', {'fires': ((8,),)})])
def test_a_module_with_too_few_numbers_is_refused(name, fields):
    with pytest.raises(UserError, match=rf'{name}: {[*fields][0]}=.*: take something like'):
        models.create(name, **fields)
