"""An evaluation knows which output is which class: by name, or it refuses."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import data, models, trained
from cnnjax.errors import UserError
from configs import evaluate as config
from experiments import evaluate

NUMERIC = ('0', '1', '2', '10')


@pytest.fixture
def photos(tmp_path):
    """Pictures of four classes, which a file system sorts 0, 1, 10, 2."""
    random = np.random.default_rng(0)
    for number, name in enumerate(NUMERIC):
        for split, count in (('train', 1), ('test', 1 + 3 * number)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(256, size=(2, 2, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((8, 8)).save(tmp_path / split / name / f'{i}.bmp')
    return tmp_path


@pytest.fixture
def network(monkeypatch):
    """A function of class names: the random network with these outputs is what is evaluated."""
    def create(classes):
        net = models.create('convnet', num_classes=len(classes), width=4)
        variables = net.init(jax.random.key(0), np.zeros((1, 8, 8, 3)), train=False)
        normalize = data.Normalization(np.float32([0.5]), np.float32([0.1]))
        found = trained.Trained(net, variables, normalize, classes, (8, 8, 3), None)
        monkeypatch.setattr(trained, 'load', lambda *_: found)
        return found
    return create


def run(directory, photos, **fields):
    values = config.get_config()
    values.update(source='weights', dataset='folder', data_dir=str(photos), devices=1, **fields)
    evaluate.run(values, directory)
    return json.loads((directory / 'results.json').read_text())['error']


def expected(network, photos, names):
    """The error where output i of the network is the class names[i]."""
    wrong = [names[int(network(np.asarray(Image.open(path))[None]).argmax())] != path.parent.name
             for path in photos.glob('test/*/*.bmp')]
    return np.mean(wrong)


def test_the_same_classes_in_another_order_are_matched_by_name(network, photos, capsys):
    found = network(('0', '1', '10', '2'))
    error = run(photos, photos)
    assert error == pytest.approx(expected(found, photos, found.classes))
    assert error != pytest.approx(expected(found, photos, NUMERIC))  # the test can tell
    assert 'by name' not in capsys.readouterr().out
    found = network(NUMERIC)
    assert run(photos, photos) == pytest.approx(expected(found, photos, NUMERIC))
    assert 'folder has the classes of the network in another order' in capsys.readouterr().out


def test_some_of_the_classes(network, photos, capsys):
    found = network(('a', '2', '10', 'b', '1', '0'))
    assert run(photos, photos) == pytest.approx(expected(found, photos, found.classes))
    assert '4 of the 6 classes of the network' in capsys.readouterr().out


def test_other_classes_are_refused_and_a_map_is_taken(network, photos, tmp_path_factory):
    found = network(('a', 'b', 'c', 'd'))
    with pytest.raises(UserError, match=r"dataset=folder: the network does not know 0, 1, 10 and 1 "
                                        r"more, .* its own 4 are a, b, c and 1 more\. Where"):
        run(photos, photos)
    file = tmp_path_factory.mktemp('names') / 'names.txt'
    file.write_text('2\n10\n\n0\n1\n')
    for given, names in (('1, 0,2,10', ('1', '0', '2', '10')), (str(file), ('2', '10', '0', '1')),
                         ('dataset', ('0', '1', '10', '2'))):
        assert run(photos, photos, classes=given) == pytest.approx(
            expected(found, photos, names)), given


def test_weights_that_know_only_numbers_say_so(network, photos):
    network(('0', '1', '2', '3'))
    with pytest.raises(UserError, match="does not know 10, .*: weights tells only their numbers.*"
                                        "'dataset' if it counts them as the data does"):
        run(photos, photos)


@pytest.mark.parametrize(('given', 'message'), [
    ('a,b', 'has 2 different names, the network has 4 outputs'),
    ('0,1,2,2', 'has 3 different names'), (' ', 'has 1 different names'),
    ('no/such/file.txt', 'has 1 different names'), ('0,1,2,3', 'does not know 10')])
def test_a_map_that_does_not_fit(network, photos, given, message):
    network(NUMERIC)
    with pytest.raises(UserError, match=message):
        run(photos, photos, classes=given)
