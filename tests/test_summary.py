"""Multiply-adds against the papers, and what is written about a network."""

import functools
import itertools
import json

import pytest

from cnnjax import diagram, models, plots, summary
from cnnjax.errors import UserError
from configs import summarize as recipe
from experiments import summarize

# Published (torchvision's, the authors' or by the papers' formulas), at the paper's image size; one
# DenseNet of each kind: the figures of the others, which take seconds, are in test_models.py.
MULTIPLY_ADDS = {
    'alexnet': 724_406_816, 'alexnet_ungrouped': 1_135_256_096, 'alexnet_tv': 714_188_480,
    'allcnn_c': 270_798_336, 'allcnn_c_base': 228_331_008, 'allcnn_c_strided': 100_929_024,
    'allcnn_c_convpool': 398_200_320,
    'densenet121': 2_834_161_664, 'densenet_l40_k12': 264_812_928,
    'densenet_bc_l100_k12': 287_929_692,
    'fractalnet20': 845_222_912, 'fractalnet40': 2_036_077_568,
    'googlenet': 1_582_671_872, 'googlenet_bn': 1_498_376_192,
    'highway19': 330_826_728, 'highway32': 230_089_704,
    'elu_net': 1_496_804_608, 'elu_net11': 157_503_304,
    'recurrent_cnn96': 219_710_400, 'recurrent_cnn128': 387_319_040,
    'recurrent_cnn160': 602_113_600, 'recurrent_cnn192': 864_094_080,
    'competitive_multiscale': 1_213_906_944, 'rir18_wide': 1_361_612_544,
    'lenet5': 416_520,
    'mobilenet_v1': 568_740_352, 'mobilenet_v1_075': 325_400_448, 'mobilenet_v1_050': 149_497_088,
    'mobilenet_v1_025': 41_030_272,
    'nin': 222_486_528,
    'wide_resnet50_2': 11_398_021_120, 'resnet50d': 4_328_824_832, 'seresnet50': 4_091_699_200,
    'wide_resnet16_8': 1_548_145_664, 'zfnet': 1_168_032_896,
    'preact_resnet164': 244_500_992, 'preact_resnet1001': 1_487_849_984,
    'resnet18': 1_814_073_344, 'resnet34': 3_663_761_408, 'resnet50': 4_089_184_256,
    'resnet101': 7_801_405_440, 'resnet152': 11_513_626_624,
    'resnet20': 40_551_040, 'resnet32': 68_862_592, 'resnet44': 97_174_144,
    'resnet56': 125_485_696, 'resnet110': 252_887_680, 'resnet1202': 2_829_238_912,
    'resnext50_32x4d': 4_230_479_872, 'resnext101_32x4d': 7_969_996_800,
    'resnext101_64x4d': 15_460_270_080, 'resnext29_8x64d': 5_387_266_048,
    'resnext29_16x64d': 10_688_866_304,
    'unet': 150_428_424_448,
    # 152.717 G in torchvision, less its second head's 3x3 and 1x1 on 65 x 65 pixels.
    'fcn_resnet50': 142_725_772_800,
    'vgg11': 7_609_090_048, 'vgg11_lrn': 7_609_090_048, 'vgg11_bn': 7_609_090_048,
    'vgg13': 11_308_466_176, 'vgg13_bn': 11_308_466_176, 'vgg16': 15_470_264_320,
    'vgg16_bn': 15_470_264_320, 'vgg16c': 11_770_888_192, 'vgg16c_bn': 11_770_888_192,
    'vgg19': 19_632_062_464, 'vgg19_bn': 19_632_062_464,
}
ROUNDED = {  # In millions, if no exact number was published.
    'allcnn_a_base': 138.7, 'allcnn_a': 181.1, 'allcnn_b_base': 157.6, 'allcnn_b': 200.0,
}
assert round((142_725_772_800 + 65 * 65 * 256 * (9 * 1024 + 21)) / 1e9, 3) == 152.717
VARIANTS = [  # name, fields, image's side, multiply-adds
    ('resnet18', {'shortcut': 'A'}, 224, 1_794_805_760),
    ('resnet34', {'shortcut': 'A'}, 224, 3_644_493_824),
    ('resnet50', {'stride_in': '1x1'}, 224, 3_857_973_248),
    ('resnet101', {'stride_in': '1x1'}, 224, 7_570_194_432),
    ('resnet152', {'stride_in': '1x1'}, 224, 11_282_415_616),
    ('resnext29_8x64d', {'cardinality': 1}, 32, 748_365_824),
    ('resnext29_8x64d', {'cardinality': 2}, 32, 1_411_065_856),
    ('resnext29_8x64d', {'cardinality': 4}, 32, 2_736_465_920),
    ('resnext29_8x64d', {'cardinality': 32, 'base_width': 4}, 32, 774_055_936),
    ('mobilenet_v1', {}, 192, 418_121_728),
    ('mobilenet_v1', {}, 160, 290_675_200),
    ('mobilenet_v1', {}, 128, 186_400_768),
    ('nin', {'num_classes': 100}, 32, 223_592_448),
    ('vgg11', {'hidden': (), 'num_classes': 10}, 32, 152_769_536),
    ('vgg16', {'hidden': (), 'num_classes': 10}, 32, 313_201_664),
]
# By compiling their repeated blocks once, they are traced in a second, not in five or twenty.
DEEP = {'resnet56', 'resnet110', 'resnet1202', 'resnet101', 'resnet152', 'resnext101_32x4d',
        'resnext101_64x4d', 'preact_resnet164', 'preact_resnet1001'}


@functools.cache
def summarized(name, image_shape=None, **fields):
    net = models.create(name, **({'scan': True} if name in DEEP else {}), **fields)
    return summary.summarize(net, image_shape)


def rows(found):
    return {row.name: row for row in found.rows}


def test_no_network_with_a_figure_is_missing():
    assert sorted({*MULTIPLY_ADDS, *ROUNDED} - set(models.names())) == []


@pytest.mark.parametrize('name', MULTIPLY_ADDS)
def test_multiply_adds(name):
    assert summarized(name).multiply_adds == MULTIPLY_ADDS[name]


@pytest.mark.parametrize('name', ROUNDED)
def test_rounded_multiply_adds(name):
    assert round(summarized(name).multiply_adds / 1e6, 1) == ROUNDED[name]


@pytest.mark.parametrize(('name', 'fields', 'side', 'expected'), VARIANTS)
def test_multiply_adds_of_variants(name, fields, side, expected):
    assert summarized(name, (side, side, 3), **fields).multiply_adds == expected


def test_multiply_adds_of_the_parts():
    convolutions = sum(row.multiply_adds for row in summarized('vgg16').rows if 'conv' in row.name)
    assert convolutions == 15_346_630_656
    up = sum(row.multiply_adds for row in summarized('unet').rows if row.name.startswith('up'))
    assert up == 5_631_377_408
    assert rows(summarized('lenet5'))['c5'].multiply_adds == 400 * 120


def test_table_and_sums():
    whole = summarized('resnet20')
    for depth in (0, 1, 2):
        folded = summary.fold(whole, depth)
        assert sum(row.params for row in folded.rows) == whole.params == 269_722
        assert sum(row.multiply_adds for row in folded.rows) == whole.multiply_adds
    lines = summary.table(summary.fold(whole, 1)).splitlines()
    assert lines[0] == 'ResNet, images 32 x 32 x 3'
    assert lines[4].split() == ['conv1', '32', 'x', '32', 'x', '16', '3', '1', '-1', '432',
                                '442,368']
    assert lines[-1].split() == ['total', '269,722', '40,551,040']
    assert len({len(line) for line in lines if line.startswith('-')}) == 1


def test_layers_that_an_evaluation_skips_are_listed():
    found = rows(summarized('googlenet'))
    assert found['aux1/fc1'].shape is None
    assert found['aux1/fc1'].params == 2048 * 1024 + 1024
    assert 'not evaluated' in summary.table(summarized('googlenet'))


@pytest.mark.parametrize('name', ['vgg11', 'googlenet', 'unet', 'densenet121'])
def test_the_experiment_leaves_a_table_and_a_picture(name, tmp_path, capsys):
    config = recipe.get_config(name)
    config.depth = 1
    summarize.run(config.lock(), tmp_path)
    assert capsys.readouterr().out.startswith(f'{name}, images')
    assert (tmp_path / 'summary.txt').read_text().startswith(f'{name}, images')
    saved = json.loads((tmp_path / 'summary.json').read_text())
    assert saved['multiply_adds'] == MULTIPLY_ADDS[name]
    assert saved['layers'][0]['receptive_field']['offset'] == [
        -3 if name in ('googlenet', 'densenet121') else 0 if name == 'unet' else -1] * 2
    assert (tmp_path / 'figures' / 'architecture.png').stat().st_size > 30_000


def test_the_picture_joins_what_reads_each_other():
    nodes = {node.name: node for node in diagram.graph(
        summary.fold(summarized('unet'), 1))}
    assert set(nodes['conv1_3'].inputs) == {'up1', 'crop1'}
    assert nodes['crop1'].inputs == ('conv1_2',)
    kinds = {node.name: node.kind for node in diagram.graph(summarized('fcn8s'))}
    assert [kinds[name] for name in ('pool5', 'score_fr', 'upscore_pool4', 'fuse_pool4', 'score')
            ] == ['pool', 'convolution', 'up-sampling', 'join, crop', 'up-sampling']
    residual = {node.name: node.kind for node in diagram.graph(summarized('resnet20'))}
    assert residual['conv3_1'] == 'join, crop'  # Its shortcut has a smaller stride.
    dense = diagram.graph(summary.fold(summarized('densenet121'), 1))
    assert [node.runs for node in dense if node.runs > 1] == [6, 12, 24, 16]


@pytest.mark.parametrize(('name', 'kinds'), [
    ('generalized_pooling_tree', {'pool1': 'pool', 'pool2': 'pool', 'pool3': 'pool',
                                  'conv2': 'convolution'}),  # a tree and a gate are learned
    ('maxout_mnist', {'h0': 'convolution', 'maxout0': 'pool', 'pool0': 'pool',
                      'y': 'full layer'}),
    ('allcnn_c_strided', {'conv3': 'convolution', 'pool': 'pool'}),
    ('fractalnet_slim10', {'pool1': 'pool'})])  # it pools the mean of two columns
def test_kinds_of_pools_that_learn_or_join_channels(name, kinds):
    nodes = {node.name: node.kind for node in diagram.graph(summary.fold(summarized(name), 1))}
    assert {layer: nodes.get(layer) for layer in kinds} == kinds


@pytest.mark.parametrize('name', ['vgg11', 'unet', 'highway32'])
def test_no_label_of_the_picture_touches_another(name, tmp_path, monkeypatch):
    saved, save = [], plots.save
    monkeypatch.setattr(plots, 'save', lambda figure, path: saved.append(figure) or save(
        figure, path))
    diagram.draw(summary.fold(summarized(name), 1), tmp_path / 'a.png')
    figure, = saved
    boxes = [text.get_window_extent() for text in [*figure.texts, *figure.axes[0].texts]]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    if name != 'vgg11':  # Arrows of branches pass behind the texts.
        assert all(text.get_bbox_patch() for text in figure.axes[0].texts)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_an_image_that_does_not_fit_is_refused(tmp_path):
    config = recipe.get_config('vgg11')
    config.image_shape = (16, 16, 3)
    with pytest.raises(UserError, match='at least 32 x 32'):
        summarize.run(config, tmp_path)
