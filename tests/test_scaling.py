"""The exact collectives of compiled programs; the model of their time against values computed by
hand and published measurements; and the experiment that writes both."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax import collectives, models, parallel, step, tasks
from cnnjax.collectives import Link
from cnnjax.errors import UserError
from configs import scaling as configs
from experiments.benchmark import scaling

ROOT = Path(__file__).parent.parent
WAYS = ('shard_map', 'pmap', 'jit')


# A ResNet of two blocks: five batch normalizations.
NET = {'model.blocks': (1, 1), 'model.widths': (4, 4)}


@functools.cache
def reductions(kind, devices, accumulate=1):
    one, state, batch = scaling.training('resnet20', 4 * devices, flip=False, padding=0,
                                         accumulate=accumulate, **NET)
    program = scaling.compile_step(one, state, batch, parallel.data_mesh(devices), kind)
    return collectives.read(program), state


@pytest.mark.parametrize(('kind', 'devices', 'accumulate'), [
    ('shard_map', 2, 2), ('shard_map', 4, 1), ('pmap', 2, 1), ('pmap', 4, 1)])
def test_a_step_has_one_reduction_of_exactly_its_gradients_statistics_and_metrics(
        kind, devices, accumulate):
    (found,), state = reductions(kind, devices, accumulate)
    leaves = jax.tree.leaves((state.params, state.batch_stats)) + [jnp.zeros(())] * 2
    assert found.kind == 'all-reduce'
    assert not found.in_loop  # with accumulate, the micro-batches are a loop
    assert found.devices == devices
    assert sorted(found.arrays) == sorted(('f32', leaf.shape) for leaf in leaves)
    assert found.bytes == 4 * sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize('kind', ['shard_map', 'pmap'])
def test_on_gpus_the_same_means_travel_in_messages(kind, monkeypatch):
    mesh, rng = parallel.data_mesh(4), np.random.default_rng(0)
    sizes = {'a': (3, 3, 2), 'b': {'c': (), 'd': (7,), 'e': (1, 1, 5, 9)}, 'f': (2, 4)}
    arrays = jax.tree.map(lambda shape: rng.normal(size=(4, *shape)).astype(np.float32), sizes,
                          is_leaf=lambda shape: isinstance(shape, tuple))

    def compiled():
        def one(state, data, batch, key, axis):
            own = jax.tree.map(lambda x: x[lax.axis_index(axis)], data)
            return state, parallel.mean(own | {'half': own['f'].astype(jnp.bfloat16)}, axis)

        run = parallel.parallelize(one, mesh, kind)
        inputs = {}, parallel.replicate(arrays, mesh), {'x': np.zeros(4)}, np.zeros(0)
        return run.lower(*inputs).as_text().count('all_reduce'), run(*inputs)[1]

    apart, expected = compiled()
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(parallel, 'MESSAGE', 4 * 25)
    joined, found = compiled()
    # 18, 1 | 7, | 45 | 8 and half of that: the arrays end after 18, 19, 26, 71, 79 and 83 numbers.
    assert (apart, joined) == (6, 4)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found['half'].dtype == jnp.bfloat16


def test_in_a_message_the_output_channels_of_kernels_come_first(monkeypatch):
    """That is cuDNN's order: from another one a GPU would transpose them in every step."""
    kernel, sent = jnp.arange(4.0).reshape(1, 1, 2, 2), []
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(lax, 'pmean', lambda message, axis: sent.append(message) or message)
    np.testing.assert_array_equal(parallel.mean([kernel], parallel.AXIS), [kernel])
    assert sent[0].tolist() == [0, 2, 1, 3]


def test_the_model_has_messages_as_large_as_those_of_a_step():
    assert configs.get_config().message == parallel.MESSAGE


def test_one_device_reduces_nothing():
    assert reductions('shard_map', 1)[0] == []


@pytest.mark.parametrize('devices', [2, 4])
def test_jit_also_reduces_in_each_batch_normalization_and_there_twice(devices):
    found, state = reductions('jit', devices)
    norms = sum('mean' in path[-1].key
                for path, _ in jax.tree.leaves_with_path(state.batch_stats))
    assert len(found) == 2 * norms + 1
    assert {(each.kind, each.in_loop, each.devices) for each in found} == {
        ('all-reduce', False, devices)}
    kernels = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1)
    assert max(each.bytes for each in found) >= kernels
    assert sorted(each.bytes for each in found)[-2] <= 4 * 3 * 4  # vectors of four channels


def test_an_evaluation_reduces_its_sums_alone():
    net = models.create('resnet20', blocks=(1, 1), widths=(4, 4))
    evaluate = parallel.parallelize(functools.partial(
        step.eval_step, task=tasks.create('classify', net), net=net,
        normalize=lambda images: images / 255.0), parallel.data_mesh(4), donate=False)
    _, state, batch = scaling.training('resnet20', 8, **NET)
    batch['weight'] = jax.ShapeDtypeStruct((8,), jnp.float32)
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    found = collectives.read(evaluate.lower(
        variables, {}, batch, jax.eval_shape(lambda: jax.random.key(0))).compile())
    # What is kept of each example is gathered, and is as small: no logits.
    sums, kept = ([each.arrays for each in found if each.kind == kind]
                  for kind in ('all-reduce', 'all-gather'))
    assert sums == [(('f32', ()),) * 4]
    assert len(sums) + len(kept) == len(found)
    assert {shape for arrays in kept for _, shape in arrays} <= {(8,), (8, 5)}


PROGRAM = '''HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %all-reduce.1 = f32[8]{0} all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add
}

%body (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%c), index=1
  %called = f32[8]{0} call(%x), to_apply=%inner
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %called)
}

ENTRY %main (g: bf16[3,5], h: f32[7]) -> f32[] {
  %w = (s32[], f32[8]{0}) while(%init), condition=%condition, body=%body
  %s = (bf16[3,5]{1,0:T(8,128)(2,1)}, /*index=1*/f32[7]{0}) all-reduce-start(%g, %h), \
replica_groups={{0,1},{2,3}}, to_apply=%add, metadata={op_name="x all-reduce(y)"}
  %d = (bf16[3,5]{1,0}, f32[7]{0}) all-reduce-done(%s)
  %ag = (f32[7]{0}, f32[28]{0}) all-gather-start(%h), replica_groups=mesh['a'=2,'b'=2] {'a','b'}
  %agd = f32[28]{0} all-gather-done(%ag)
  ROOT %p = pred[] collective-permute(%q), source_target_pairs={{0,1}}
}
'''


def test_programs_of_accelerators_are_read_too():
    """Their collectives are asynchronous, their layouts tiled, their groups written otherwise."""
    assert collectives.read(PROGRAM) == [
        ('all-reduce', (('f32', (8,)),), 32, 4, True),
        ('all-reduce', (('bf16', (3, 5)), ('f32', (7,))), 30 + 28, 2, False),
        ('all-gather', (('f32', (28,)),), 112, 4, False),
        ('collective-permute', (('pred', ()),), 1, 0, False)]


LINK = Link(bandwidth=1e9, latency=1e-5)


def test_the_model_by_hand():
    # Four devices send half a gigabyte three times two quarters each; six messages one by one.
    assert collectives.ring(5e8, 4, LINK) == pytest.approx(6 * (0.125 + 1e-5))
    assert collectives.ring(5e8, 1, LINK) == collectives.tree(5e8, 1, LINK) == 0
    assert collectives.tree(5e8, 8, LINK, messages=3) == pytest.approx(1 + 6 * 3 * 1e-5)
    assert collectives.best(5e8, 4, LINK) == collectives.ring(5e8, 4, LINK)  # fewer bytes
    assert collectives.best(1e3, 1024, LINK) == collectives.tree(1e3, 1024, LINK)  # less latency
    slow = Link(bandwidth=1e8, latency=1e-4)
    assert collectives.two_levels(5e8, 8, LINK, slow, 8) == collectives.ring(5e8, 8, LINK)
    assert collectives.two_levels(5e8, 32, LINK, slow, 8, algorithm=collectives.ring) == (
        pytest.approx(collectives.ring(5e8, 8, LINK) + collectives.ring(5e8, 4, slow)))
    assert collectives.two_levels(5e8, 16, LINK, slow, 1) == collectives.best(5e8, 16, slow)
    assert collectives.step_seconds(3.0, 1.5, 2 / 3, overlap=False) == 4.5
    assert collectives.step_seconds(3.0, 1.5, 2 / 3, overlap=True) == 3.0
    assert collectives.step_seconds(3.0, 2.5, 2 / 3, overlap=True) == 3.5


@pytest.fixture
def config():
    config = configs.get_config()
    config.steps, config.compiled, config.measured = 'vgg16:128:24.4', 'convnet', 'convnet'
    config.compiled_devices, config.compiled_batch, config.parallel = (2, 99), 2, 'shard_map'
    config.measured_batch, config.measured_steps = 2, 1
    return config


def test_a_run_writes_what_the_documentation_says(config, tmp_path, capsys):
    scaling.run(config, tmp_path)
    assert '99 devices are not there' in capsys.readouterr().out
    results = json.loads((tmp_path / 'scaling.json').read_text())
    assert results['loads']['vgg16']['bytes'] == 4 * (138_357_544 + 2)
    program, = results['programs']
    assert (program['collectives'], program['in_loops']) == (1, 0)
    assert program['bytes'] == results['loads']['convnet']['bytes']
    for row in results['predictions']:
        assert 0 < row['sequential']['efficiency'] <= row['overlapped']['efficiency'] <= 1
        step = results['steps'][row['model']]
        assert row['sequential']['images_per_second'] == pytest.approx(
            step['images'] * row['devices'] * row['sequential']['efficiency'] / step['seconds'])
    assert results['steps']['vgg16'] == {'images': 128, 'seconds': pytest.approx(0.0244)}
    assert results['measured'] == ['convnet']
    assert results['steps']['convnet']['images'] == 2
    goyal, *single = results['published']
    assert goyal['sequential'] < goyal['efficiency'] < goyal['overlapped']
    assert all(row['efficiency'] < row['sequential'] for row in single)  # all of it unmodelled
    assert {row['model'] for row in results['predictions']} == {'vgg16', 'convnet'}
    assert max(row['devices'] for row in results['predictions']
               if row['cluster'] == 'nvlink_900') == 256  # there are no larger ones
    text = (tmp_path / 'scaling.md').read_text()
    documented = (ROOT / 'docs' / 'scaling.md').read_text()
    rows = [line for line in text.splitlines() if line.startswith(('| vgg16', '| Goyal'))]
    assert len(rows) == 1 + 4 + 1
    for line in rows:
        assert line in documented
    assert (tmp_path / 'figures' / 'scaling.png').stat().st_size > 10_000


def test_the_own_cluster_and_the_utilization(config):
    config.own_per_node, config.own_between, config.own_between_latency = 4, 10.0, 7.0
    config.utilization = 0.5
    own = scaling.cluster(config, 'own')
    assert (own.per_node, own.inside.bandwidth) == (4, 0.5 * 450e9)
    assert own.between == Link(5e9, pytest.approx(7e-6))
    assert scaling.cluster(config, 'tpu_v5p').inside is None


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('clusters', 'pigeons', "'pigeons' is none of ethernet_100"),
    ('algorithm', 'butterfly', "algorithm='butterfly' is none of"),
    ('utilization', 1.5, 'is a share'), ('utilization', 0.0, 'more than 0'),
    ('own_between', -1.0, 'more than 0'), ('devices', (0, 8), 'take 1'),
    ('steps', '', 'steps is empty'), ('steps', 'resnet51:8:1.5', 'steps: .*resnet50'),
    ('steps', 'vgg16:8:1,resnet50', "'resnet50' is no network:images:milliseconds"),
    ('steps', 'resnet50:8:nan', 'no network:images:milli'), ('steps', 'resnet50:0:3', 'no network'),
    ('measured', 'resnet51', 'measured: .*resnet50'),
    ('compiled', 'resnet51', 'compiled: .*resnet50'), ('compiled', '', 'compiled is empty'),
    ('compiled_devices', (), 'compiled_devices is empty'), ('parallel', '', 'parallel is empty'),
    ('parallel', 'jit,threads', "parallel='threads' is none of 'shard_map', 'pmap', 'jit'")])
def test_what_does_not_fit_is_refused_at_once(config, tmp_path, monkeypatch, field, value, message):
    config.measured = ''
    monkeypatch.setattr(scaling, 'compiled', None)  # It takes long.
    config[field] = value
    with pytest.raises(UserError, match=message):
        scaling.run(config, tmp_path)
