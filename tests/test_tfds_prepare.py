"""Data sets are prepared from tiny archives in the real formats, without TensorFlow."""

import pathlib
import shlex
import shutil
from unittest import mock

import pytest
import requests
import tensorflow_datasets

from cnnjax.data import tfds, tfds_builders, tfds_prepare
from cnnjax.errors import UserError
from tests.archives import SPLITS, trusted


@pytest.fixture
def offline(monkeypatch):
    """Every download fails, as without a network, but without tfds' minutes of retrying."""
    def get(self, url, **kwargs):
        raise requests.ConnectionError(f'cannot resolve {url}')
    monkeypatch.setattr(requests.Session, 'get', get)


def test_what_is_prepared_is_not_prepared_again(prepared, offline):
    assert tfds_prepare.prepare('cifar10', prepared) == prepared / 'cifar10' / '3.0.2'


def test_the_files_are_those_of_tfds(prepared):
    """The fields that `load` leaves out, for others who read the same files."""
    def records(name, split):
        return tensorflow_datasets.builder(name, data_dir=prepared).as_data_source(split)
    assert records('svhn_cropped', 'extra')[0]['id'] == b'extra_000010'
    assert records('cifar10', 'train')[0]['id'] == b'train_00006'
    assert all(r['coarse_label'] == r['label'] // 5 for r in records('cifar100', 'train'))
    info = tensorflow_datasets.builder('cifar100', data_dir=prepared).info
    assert info.features['coarse_label'].names == [f'coarse{i}' for i in range(20)]
    assert info.module_name == 'tensorflow_datasets.image_classification.cifar'


def test_not_prepared(tmp_path):
    with pytest.raises(UserError) as error:
        tfds.load('cifar10', 'train', tmp_path / 'my data')
    assert f'there is no {tmp_path}/my data/cifar10/3.0.2' in str(error.value)
    command = shlex.split(str(error.value).splitlines()[-1])
    assert command == ['python', 'launch.py', '--config=configs/prepare.py:cifar10',
                       '--workdir=runs/prepare', f'--config.data_dir={tmp_path}/my data']


@pytest.mark.parametrize('function', [lambda n, d: tfds.load(n, 'train', d), tfds_prepare.prepare])
def test_unknown_data_set(tmp_path, function):
    with pytest.raises(UserError, match="no 'cifra10'; did you mean cifar10"):
        function('cifra10', tmp_path)
    with pytest.raises(UserError, match="no 'my pictures'; try .*cifar10, cifar100, svhn_cropped"):
        function('my pictures', tmp_path)


def test_a_format_without_random_access(prepared, archives, tmp_path):
    """What TensorFlow's users have; a second format needs a second directory."""
    directory = shutil.copytree(prepared / 'mnist' / '3.0.1', tmp_path / 'mnist' / '3.0.1')
    info = directory / 'dataset_info.json'
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    for function in (lambda: tfds.load('mnist', 'train', tmp_path),
                     lambda: tfds_prepare.prepare('mnist', tmp_path, archives)):
        with pytest.raises(UserError, match='tfrecord, which has no random access') as error:
            function()
    command = shlex.split(str(error.value).splitlines()[1])
    assert '--config=configs/prepare.py:mnist' in command
    second = command[-1].removeprefix('--config.data_dir=')
    with trusted(archives):
        tfds_prepare.prepare('mnist', second, archives)
    assert len(tfds.load('mnist', 'train', second).examples) == SPLITS['mnist']['train']


def test_an_interrupted_preparation_counts_for_nothing(archives, tmp_path, monkeypatch):
    generate = tfds_builders.Cifar10._generate_examples

    def interrupted(self, *args):
        yield next(generate(self, *args))
        raise KeyboardInterrupt

    with trusted(archives), monkeypatch.context() as patch:
        patch.setattr(tfds_builders.Cifar10, '_generate_examples', interrupted)
        with pytest.raises(KeyboardInterrupt):
            tfds_prepare.prepare('cifar10', tmp_path, archives)
    with pytest.raises(UserError, match='not prepared'):
        tfds.load('cifar10', 'train', tmp_path)
    with trusted(archives):
        tfds_prepare.prepare('cifar10', tmp_path, archives)
    assert len(tfds.load('cifar10', 'train', tmp_path).examples) == SPLITS['cifar10']['train']


def test_no_network(tmp_path, offline):
    with pytest.raises(UserError) as error:
        tfds_prepare.prepare('svhn_cropped', tmp_path)
    for split in SPLITS['svhn_cropped']:
        assert f'  http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat\n' in str(error.value)
    assert '--config.manual_dir=' in str(error.value)
    with pytest.raises(UserError, match='not prepared'):
        tfds.load('svhn_cropped', 'train', tmp_path)


def test_wrong_archive(archives, tmp_path):
    """Without the fixture `trusted` the tiny archives are not what tfds expects."""
    with pytest.raises(UserError) as error:
        tfds_prepare.prepare('cifar10', tmp_path, archives)
    assert f'{archives}/cifar-10-binary.tar.gz, has wrong checksum' in str(error.value)
    with pytest.raises(UserError, match='not prepared'):
        tfds.load('cifar10', 'train', tmp_path)


def test_missing_archive(archives, tmp_path):
    for split in ('train', 'test'):
        shutil.copy(archives / f'{split}_32x32.mat', tmp_path)
    with pytest.raises(UserError, match='these are missing') as error:
        tfds_prepare.prepare('svhn_cropped', tmp_path / 'data', tmp_path)
    assert str(error.value).splitlines()[1:] == [
        f'  {tmp_path}/extra_32x32.mat, from '
        'http://ufldl.stanford.edu/housenumbers/extra_32x32.mat']


def test_imagenet_is_prepared_with_tensorflow(tmp_path, monkeypatch):
    manual, data = str(tmp_path / 'archives'), str(tmp_path / 'data')
    with pytest.raises(UserError, match='ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar') as e:
        tfds_prepare.prepare('imagenet2012', data, manual)
    assert f'manual_dir is {manual}' in str(e.value).splitlines()[-1]
    pip, uv = (shlex.split(line) for line in str(e.value).splitlines() if ' -c ' in line)
    assert pip[1:] == uv[-2:]  # -c and the script
    builder = mock.Mock()
    monkeypatch.setattr(tensorflow_datasets, 'builder', builder)
    exec(pip[-1], {})
    builder.assert_called_once_with('imagenet2012', data_dir=data, file_format='array_record')
    config = builder().download_and_prepare.call_args.kwargs['download_config']
    assert config.manual_dir == manual


def test_the_experiment_says_what_is_there_and_what_is_next(prepared, monkeypatch, capsys):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[1])
    from configs import prepare as config
    from experiments import prepare as experiment

    fields = config.get_config('svhn_cropped')
    fields.data_dir = str(prepared)
    experiment.run(fields, None)
    said, command = capsys.readouterr().out.splitlines()
    assert f'{prepared}/svhn_cropped/3.1.0: train 8, test 5, extra 12 images' in said
    assert shlex.split(command) == [
        'python', 'launch.py', '--config=configs/cifar.py:resnet20',
        '--config.dataset=svhn_cropped', '--config.flip=False', f'--config.data_dir={prepared}',
        '--workdir=runs/resnet20']
    with fields.unlocked():
        fields.dataset = 'digits'
    with pytest.raises(UserError, match='dataset=digits needs no preparing'):
        experiment.run(fields, None)
