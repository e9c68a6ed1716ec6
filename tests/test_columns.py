"""The papers' tables: their numbers, and a valid training for every cell."""

import functools
import re

import jax
import pytest

from cnnjax import models, plan, training_config
from cnnjax.errors import UserError
from configs import cifar, tables
from configs.recipes import columns, lengths

# The tables as a lecture prints them, which cites both papers.
FRACTALNET_1 = '''
Method	C100	C100+	C100++	C10	C10+	C10++	SVHN
Network in Network [21]	35.68	-	-	10.41	8.81	-	2.35
Generalized Pooling [17]	32.37	-	-	7.62	6.05	-	1.69
Recurrent CNN [19]	31.75	-	-	8.69	7.09	-	1.77
Competitive Multi-scale [20]	27.56	-	-	6.87	-	-	1.76
FitNet [27]	-	35.04	-	-	8.39	-	2.42
Deeply Supervised [18]	-	34.57	-	9.69	7.97	-	1.92
All-CNN [30]	-	33.71	-	9.08	7.25	4.41	-
Highway Network [31]	-	32.39	-	-	7.72	-	-
ELU [2]	-	24.28	-	-	6.55	-	-
Scalable BO [29]	-	-	27.04	-	-	6.37	1.77
Fractional Max-Pooling [5]	-	-	26.32	-	-	3.47	-
FitResNet (LSUV) [23]	-	27.66	-	-	5.84	-	-
ResNet [8]	-	-	-	-	6.61	-	-
ResNet (reported by [11])	44.76	27.22	-	13.63	6.41	-	2.01
ResNet: Stochastic Depth [11]	37.80	24.58	-	11.66	5.23	-	1.75
ResNet: Identity Mapping [9]	-	22.68	-	-	4.69	-	-
ResNet in ResNet [33]	-	22.90	-	-	5.01	-	-
FractalNet	35.34	23.30	22.85	10.18	5.22	5.11	2.01
FractalNet+dropout/drop-path	28.20	23.73	23.36	7.33	4.60	4.59	1.87
↳ Deepest column alone	29.05	24.32	23.60	7.27	4.68	4.63	1.89
'''
STOCHASTIC_DEPTH_1 = '''\
	CIFAR10+	CIFAR100+	SVHN	ImageNet
Maxout [21]	9.38	-	2.47	-
DropConnect [20]	9.32	-	1.94	-
Net in Net [24]	8.81	-	2.35	-
Deeply Supervised [13]	7.97	-	1.92	33.70
Frac. Pool [25]	-	27.62	-	-
All-CNN [6]	7.25	-	-	41.20
Learning Activation [26]	7.51	30.83	-	-
R-CNN [27]	7.09	-	1.77	-
Scalable BO [28]	6.37	27.40	1.77	-
Highway Network [29]	7.60	32.24	-	-
Gen. Pool [30]	6.05	-	1.69	28.02
ResNet with constant depth	6.41	27.76	1.80	21.78
ResNet with stochastic depth	5.25	24.98	1.75	21.98
'''
CELLS = [(table, row, column) for table, found in tables.TABLES.items() for row in found.rows
         for column, number in tables.published(found, row).items()
         if (number != '-' or found.own)]
# What the papers' tables have no network of ours for: (table, row, columns).
ABSENT = {('fractalnet1', 'scalable_bo'), ('fractalnet1', 'fitnet'), ('resnet6', 'fitnet'),
          ('stochastic_depth1', 'scalable_bo'),
          ('stochastic_depth1', 'learning_activation'), ('fractalnet1', 'fitresnet')}
NOT_ON_IMAGENET = {'dsn', 'allcnn', 'generalized_pooling'}


def trained(table, row, column, **fields):
    config = tables.get_config(table)
    config.update(fields)
    found = tables.TABLES[table]
    return tables.training(config, found.rows[row], found.columns[column][0], 0)


@pytest.mark.parametrize(('table', 'text'), [('fractalnet1', FRACTALNET_1),
                                             ('stochastic_depth1', STOCHASTIC_DEPTH_1)])
def test_the_published_numbers(table, text):
    found = tables.TABLES[table]
    header, *lines = [line.split('\t') for line in text.strip('\n').splitlines()]
    assert header[1:] == list(found.columns)
    assert [(row.label, *tables.published(found, name).values())
            for name, row in found.rows.items()] == [tuple(line) for line in lines]


@pytest.mark.parametrize(('table', 'row', 'numbers'), [
    ('stochastic_depth2', 'resnet110_constant', ['20h 42m', '20h 51m', '33h 43m']),
    ('stochastic_depth2', 'resnet110_stochastic', ['15h 7m', '15h 20m', '25h 33m']),
    ('resnet6', 'resnet1202', ['7.93']), ('vgg3', 'd_range', ['25.6', '8.1']),
    ('densenet2', 'densenet_bc_l250_k24', ['5.19', '3.62', '19.64', '17.60', '1.74']),
    ('allcnn', 'allcnn_b_convpool', ['9.33']), ('allcnn', 'allcnn_c', ['9.08'])])
def test_some_numbers_of_the_others(table, row, numbers):
    assert list(tables.published(tables.TABLES[table], row).values()) == numbers


def test_our_own_rows_agree_with_the_published_errors_of_their_recipes():
    """Tables of others may cite other versions; those of a network's own paper may not."""
    settings = {'C10': 'cifar10', 'C10+': 'cifar10+', 'C100': 'cifar100', 'C100+': 'cifar100+',
                'SVHN': 'svhn_cropped', 'C10++': 'cifar10++', 'C100++': 'cifar100++'}
    for table, names in (('densenet2', 'densenet'), ('fractalnet1', 'fractalnet20$'),
                         ('allcnn', ''), ('resnet6', r'resnet(20|32|44|56|1202)')):
        found = tables.TABLES[table]
        for name, row in found.rows.items():
            if not re.match(names, name):
                continue
            errors = cifar.PAPER[row.recipe.removeprefix('cifar/')]['error']
            for column, number in tables.published(found, name).items():
                expected = errors.get(settings[found.columns[column][0]])
                assert (None if number == '-' else float(number)) == expected, (name, column)


@functools.cache
def logits(shape, classes, fields):
    net = models.create(**dict(fields), num_classes=classes)
    images = jax.ShapeDtypeStruct((1, *shape), 'float32')
    return jax.eval_shape(net.init_with_output, jax.random.key(0), images)[0][0].shape


@pytest.mark.parametrize(('table', 'row', 'column'), CELLS)
def test_every_cell_is_a_valid_training_of_its_setting(table, row, column):
    found = trained(table, row, column)
    setting, _ = tables.TABLES[table].columns[column]
    if (table, row) in ABSENT or setting == 'ImageNet' and row in NOT_ON_IMAGENET:
        assert found is None
        assert tables.TABLES[table].rows[row].remark
        return
    config, share = found
    assert share == 1
    training_config.check(config)
    dataset, augmentation = columns.SETTINGS[setting]
    of = columns.DATA[dataset]
    assert config.dataset == dataset
    assert plan.plan(config, of.examples).steps > 0
    if augmentation and dataset != 'imagenet2012':
        assert config.padding > 0 or config.crop_size
    elif dataset != 'imagenet2012':
        assert {config.flip, config.padding, config.color, config.rotation} == {0}
    net = models.create(**config.model)
    side = config.image_size or of.image_shape[0]
    shape = (config.crop_size or side, config.crop_size or side, of.image_shape[2])
    fields = {name: value for name, value in config.model.items() if value is not None}
    changed = fields.keys() - models.FREE - {'name', 'survival'}
    if shape != net.image_shape or changed:  # test_models.py has made the others.
        fields |= {'scan': True} if hasattr(net, 'scan') else {}
        assert logits(shape, of.classes, tuple(fields.items())) == (1, of.classes)


@pytest.mark.parametrize(('table', 'row', 'column', 'expected'), [
    ('fractalnet1', 'fractalnet20', 'C10', {
        'flip': False, 'padding': 0, 'epochs': 400, 'model.dropout': None}),
    ('fractalnet1', 'fractalnet20_plain', 'C100++', {
        'dataset': 'cifar100', 'padding_mode': 'reflect', 'flip': True, 'padding': 4,
        'model.dropout': (0,) * 5, 'model.local_drop_path': 0, 'model.global_drop_path': 0}),
    ('fractalnet1', 'fractalnet20', 'SVHN', {
        'dataset': 'svhn_cropped', 'train_split': 'train+extra', 'epochs': 20, 'padding': 0}),
    ('fractalnet1', 'allcnn', 'C10', {'whiten': True, 'padding': 0}),
    ('fractalnet1', 'allcnn', 'C10+', {'whiten': True, 'padding': 5, 'flip': True}),
    ('fractalnet1', 'allcnn', 'C10++', {'whiten': False, 'image_size': 126}),
    ('fractalnet1', 'fractional', 'C10++', {'model.tests': 100, 'model.name': 'fmp12_160'}),
    ('fractalnet1', 'resnet110_constant', 'SVHN', {
        'model.blocks': (25,) * 3, 'model.survival': 1, 'epochs': 50, 'drops': (30, 35)}),
    ('stochastic_depth1', 'resnet110_stochastic', 'ImageNet', {
        'model.name': 'resnet152', 'model.survival': 0.5, 'batch_size': 128, 'epochs': 120}),
    ('densenet2', 'densenet_l40_k12', 'C100', {'model.dropout': 0.2, 'epochs': 300}),
    ('densenet2', 'densenet_l40_k12', 'C100+', {'model.dropout': None}),
    ('vgg3', 'c_384', 'top-5 val. error (%)', {'shorter_side': (384, 384), 'test_scales': (384,),
                                               'crops': 'dense', 'test_flip': True})])
def test_what_a_column_changes(table, row, column, expected):
    config, _ = trained(table, row, column)
    found = {name: config.model[name.removeprefix('model.')] if '.' in name else config[name]
             for name in expected}
    assert found == expected


def test_a_network_of_svhn_makes_as_many_steps_as_on_cifar():
    """Where its paper gives no length."""
    steps = [plan.plan(trained('fractalnet1', 'nin', column)[0], examples).steps
             for column, examples in (('C10', 50_000), ('SVHN', 604_388))]
    assert steps[1] == pytest.approx(steps[0], rel=0.01)


@pytest.mark.parametrize(('row', 'column', 'share', 'drops'), [
    ('nin', 'C10', 5 / 250, (3, 4)), ('resnet110', 'C10+', 5 / (64_000 * 128 / 50_000), None)])
def test_a_shorter_training_has_the_same_schedule(row, column, share, drops):
    config, found = trained('fractalnet1', row, column, epochs=5.0)
    assert found == pytest.approx(share)
    assert lengths.epochs(config, 50_000) == pytest.approx(5, rel=1e-3)
    assert config.drops == pytest.approx(
        drops or (32_000 * share, 48_000 * share))
    assert trained('fractalnet1', row, column, epochs=500.0)[1] == 1  # never longer


def test_what_is_not_there_is_refused():
    with pytest.raises(UserError, match="table='fractalnet' is none of .*did you mean fractalnet1"):
        tables.get_config('fractalnet')
    with pytest.raises(UserError, match=r"nin has no '\+\+': its paper"):
        trained('fractalnet1', 'nin', 'C10++')


def test_street_view_has_the_steps_of_a_paper_that_counts_steps():
    assert cifar.get_config('highway19_svhn').steps == cifar.get_config('highway19').steps > 0
    hinted = cifar.get_config('fitnet3_svhn')
    assert hinted.distillation_fall == pytest.approx(hinted.epochs)


def test_settings_of_single_networks():
    dsn = cifar.get_config('dsn')
    assert dsn.loss == 'squared_hinge'
    columns.apply(dsn, 'C100+')
    assert dsn.loss == 'cross_entropy'  # as in the authors' released solver
    cut = cifar.get_config('dropconnect')
    columns.apply(cut, 'C10+')
    assert (cut.padding, cut.crop_size) == (0, 24)  # crops of the image, not of zeros around it
    with pytest.raises(columns.NoSetting, match='dropconnect sees random crops'):
        columns.apply(cut, 'C10')
