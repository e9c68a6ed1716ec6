"""The microscope: its files, resuming after a kill, and its pages in a real browser."""

import json
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from cnnjax import data, models, summary, train, trained
from cnnjax import microscope as site
from cnnjax.errors import UserError
from cnnjax.images import strongest, units
from configs import base
from configs import microscope as recipe
from experiments.microscope import microscope

LAYERS = ('relu1', 'conv2_1/relu1', 'conv2_1', 'pool', 'fc')
SIZES = {'relu1': 4, 'conv2_1/relu1': 4, 'conv2_1': 4, 'pool': 6, 'fc': 6}  # six of each at most


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A run on the digits: a residual network, narrow and shallow."""
    config = base.get_config()
    config.model.widths = (4, 4, 8)
    config.model.blocks = (1, 1, 1)
    config.update(batch_size=64, steps=20, learning_rate=0.1, eval_every=0.0, devices=1)
    directory = tmp_path_factory.mktemp('source')
    train.train(config, directory)
    return directory


def config(run, **values):
    config = recipe.get_config()
    config.update({'source': str(run), 'dataset': 'digits', 'layers': ', '.join(LAYERS),
                   'units_per_layer': 6, 'count': 60, 'steps': 3, 'chunk': 4, 'facets': 0,
                   'grid': 0, 'atlas': 0} | values)
    return config.lock()


@pytest.fixture(scope='module')
def written(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp('written')
    microscope.run(config(source), directory)
    return directory


def files(directory):
    return {str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob('*')) if path.is_file()
            and path.name not in ('environment.json',)}


# ---- What is written


def test_the_manifest_has_every_number(source, written):
    def refuse(constant):
        raise AssertionError(f'{constant} is no JSON')

    manifest = json.loads((written / 'manifest.json').read_text(), parse_constant=refuse)
    network = trained.load(source)
    found, _ = strongest.load(written / 'strongest.npz')
    assert manifest['source'] == str(source)
    assert manifest['fingerprint'] == json.loads((written / 'weights.json').read_text())['sha256']
    assert manifest['classes'] == list('0123456789')
    assert manifest['images'] == 60
    assert manifest['config']['steps'] == 3
    assert manifest['versions']['jax']
    rows = {row.name: row for row in summary.summarize(network.net, network.image_shape).rows}
    assert [layer['name'] for layer in manifest['layers']] == list(LAYERS)
    for layer in manifest['layers']:
        name, row = layer['name'], rows[layer['name']]
        assert layer['shape'] == list(row.shape)
        assert layer['done'] == len(layer['units']) == SIZES[name]
        assert layer['size'] == [None if n == np.inf else n for n in row.size]
        for i, unit in enumerate(layer['units']):
            assert unit['unit'] == i
            for field in ('scores', 'mean', 'deviation', 'active'):
                np.testing.assert_allclose(unit[field], getattr(found[name], field)[i], rtol=1e-4)
            assert unit['images'] == found[name].images[i].tolist()
            assert unit['positive'] is not None
            height, width = layer['patch']
            sizes = {'positive': tuple(reversed(layer['side'])),
                     'patches': (3 * width, 3 * height), 'projections': (3 * width, 3 * height)}
            if layer['negative']:
                sizes['negative'] = sizes['positive']
            for kind, size in sizes.items():
                with Image.open(written / 'images' / name / f'{i}-{kind}.png') as image:
                    assert image.size == size
    assert [layer['name'] for layer in manifest['layers'] if not layer['negative']] == [
        'conv2_1', 'pool']  # rectified, and nothing is known of what is before


def test_the_data_of_the_pages(written):
    found = strongest.load(written / 'strongest.npz')[0]['relu1']
    records = site.read(written, 'relu1/0')
    assert len(records) == 4
    np.testing.assert_allclose(records[1]['classes'], found.class_means[:, 1], rtol=1e-4)
    overview = site.read(written, 'relu1/units')
    np.testing.assert_allclose(overview['maximum'], found.maximum, rtol=1e-4)
    assert overview['best'] == found.class_means.argmax(0).tolist()
    means = found.class_means.astype(float)
    scores = ((means - means.mean(0)) / means.std(0))[3]
    expected = [unit for unit in np.argsort(-scores) if scores[unit] >= 0.1]
    assert [unit for unit, _ in site.read(written, 'classes/3')['relu1']] == expected
    assert site.read(written, 'relu1/4') is None
    assert site.plain({'a': np.float32([np.nan, 0.123456789, 2]), 'b': (np.inf, 1, None)}) == {
        'a': [None, 0.12346, 2], 'b': [None, 1, None]}


def test_the_layers_by_default():
    def chosen(name):
        rows = summary.summarize(models.create(name)).rows
        rows = {row.name: row for row in rows if row.shape is not None}
        names = microscope.pages.activations(rows)
        return names, sum(rows[layer].shape[-1] for layer in names)

    names, count = chosen('resnet50')
    assert names[:4] == ('relu1', 'conv2_1/relu1', 'conv2_1/relu2', 'conv2_1')
    assert names[-2:] == ('conv5_3', 'fc')
    assert count == 23_720
    assert chosen('vgg11')[0][-3:] == ('relu6', 'relu7', 'fc8')


def test_the_tap_before_a_relu(source):
    """A unit is inhibited before its ReLU; a normalization in between may turn it round."""
    network = trained.load(source)
    rows = {row.name: row for row in summary.summarize(network.net, network.image_shape).rows
            if row.shape is not None}
    scale = network.variables['params']['conv2_1']['bn1']['scale']
    params = network.variables['params']
    turned = params | {'conv2_1': params['conv2_1'] | {'bn1': params['conv2_1']['bn1'] | {
        'scale': np.float32([1, -2, 0.5, -0.1])}}}
    assert scale.shape == (4,)
    network = network._replace(variables=network.variables | {'params': turned})
    name, signs = microscope.before(network, rows, 'conv2_1/relu1')
    assert name == 'conv2_1/conv1'
    assert signs.tolist() == [1, -1, 1, -1]
    taps = network.taps(np.random.default_rng(0).random((2, 8, 8, 1), np.float32))
    before, after = (np.asarray(taps[tap]).reshape(-1, 4) for tap in (name, 'conv2_1/relu1'))
    for unit, sign in enumerate(signs):  # monotonous
        order = np.argsort(sign * before[:, unit])
        assert (np.diff(after[order, unit]) >= 0).all()
    for other in ('conv2_1', 'pool', 'fc'):
        assert microscope.before(network, rows, other) is None

    both = [units.Maximized(np.full((4, 1, 1, 1), fill), np.full(4, fill), [str(fill)] * 4)
            for fill in (0.0, 1.0)]
    assert microscope.turned(both, signs, 0).scores.tolist() == [0, 1, 0, 1]
    assert microscope.turned(both, signs, 1).images.ravel().tolist() == [1, 0, 1, 0]
    assert microscope.turned(both, signs, 1).health == ['1.0', '0.0', '1.0', '0.0']


# ---- Going on


def test_killed_and_started_again_it_makes_what_is_missing(source, written, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    whole, calls = microscope.write_units, []

    def until_the_fifth(*arguments):
        if len(calls) == 4:
            raise Killed
        calls.append(arguments[1]['name'])
        return whole(*arguments)

    monkeypatch.setattr(microscope, 'write_units', until_the_fifth)
    with pytest.raises(Killed):
        microscope.run(config(source), tmp_path)
    assert calls == ['relu1', 'conv2_1/relu1', 'conv2_1', 'pool']  # four of the six of 'pool'
    manifest = site.read(tmp_path, 'manifest')
    assert [layer['done'] for layer in manifest['layers']] == [4, 4, 4, 4, 0]
    on_the_way = json.loads((tmp_path / 'manifest.json').read_text())
    assert [len(layer['units']) for layer in on_the_way['layers']] == [4, 4, 4, 0, 0]

    made = noted(monkeypatch)
    monkeypatch.setattr(microscope, 'write_units', whole)
    monkeypatch.setattr(strongest, 'search', None)  # strongest.npz exists already
    microscope.run(config(source), tmp_path)
    # Four at a time, as in a run that is not killed: the two that are left are filled up.
    assert made == [('pool', 1, [4, 5, 4, 5]), ('fc', 1, [0, 1, 2, 3, 4, 5, 4, 5]),
                    ('fc', -1, [0, 1, 2, 3, 4, 5, 4, 5])]
    assert files(written) == files(tmp_path)

    made.clear()
    microscope.run(config(source), tmp_path)  # finished: nothing is made
    assert not made
    assert files(written) == files(tmp_path)


def noted(monkeypatch):
    """A list of the (layer, sign, units) that are made from now on."""
    made, each = [], units.each

    def note(network, layer, which, settings, **arguments):
        made.append((layer, arguments['sign'], list(which)))
        return each(network, layer, which, settings, **arguments)

    monkeypatch.setattr(units, 'each', note)
    return made


@pytest.mark.parametrize(('damage', 'said', 'left'), [
    (lambda copy: shutil.rmtree(copy / 'images' / 'fc'), 'fc/0-positive.png', []),
    (lambda copy: (copy / 'images/fc/5-patches.png').unlink(), 'fc/5-patches.png', [0]),
    (lambda copy: os.truncate(copy / 'images/fc/1-negative.png', 60), 'fc/1-negative.png', [4]),
    (lambda copy: Image.new('L', (9, 7)).save(copy / 'images/fc/5-projections.png'),
     'has 7 x 9 pixels, not', [0]),
    (lambda copy: hand_over(copy, 'fc/0', '[]'), 'the numbers that are kept', [4]),
    (lambda copy: hand_over(copy, 'fc/4', '[{"unit":4},{"unit":5}]'), 'the numbers that', [0]),
    (lambda copy: hand_over(copy, 'fc/0', '[' * 99999), 'fc/0.js is damaged', [4]),
    (lambda copy: (copy / 'data/fc/4.js').write_bytes(b'\xff\0'), 'fc/4.js is damaged', [0]),
    (lambda copy: (copy / 'data/fc/4.js').write_text('microscope'), 'fc/4.js is damaged', [0]),
    (lambda copy: (copy / 'data/fc/4.js').unlink(), '', [0]),
    (lambda copy: None, '', [0, 4]),
])
def test_what_is_damaged_is_not_taken_for_finished(written, tmp_path, capsys, damage, said, left):
    directory = tmp_path / 'site'
    shutil.copytree(written, directory)
    damage(directory)
    layer, = (layer for layer in site.read(written, 'manifest')['layers'] if layer['name'] == 'fc')
    statistics = strongest.load(written / 'strongest.npz')[0]['fc']
    records = microscope.saved(directory, layer, statistics, 10, 4)
    assert list(records) == left
    printed = capsys.readouterr().out
    assert said in printed
    assert printed.count('are made anew') == 2 - len(left) - (not said and left == [0])


def test_the_same_command_mends_a_site(source, written, tmp_path, monkeypatch, capsys):
    """It leaves all as it was, and makes no other units."""
    directory = tmp_path / 'site'
    shutil.copytree(written, directory)
    (directory / 'images/fc/5-patches.png').unlink()
    hand_over(directory, 'pool/0', '[]')
    hand_over(directory, 'fc/units', '[]')
    (directory / 'data/classes/3.js').unlink()
    (directory / 'data/manifest.js').write_text('')
    (directory / 'manifest.json').unlink()
    (directory / 'script.js').write_text('')
    os.truncate(directory / 'strongest.npz', 5000)
    made = noted(monkeypatch)
    microscope.run(config(source), directory)
    assert 'strongest.npz does not hold the strongest images' in capsys.readouterr().out
    assert made == [('pool', 1, [0, 1, 2, 3]), ('fc', 1, [4, 5, 4, 5]), ('fc', -1, [4, 5, 4, 5])]
    assert files(written) == files(directory)


def test_a_site_of_another_data_set_is_refused(tmp_path, monkeypatch):
    """The same folder with other pictures in it: their places are not those that were kept."""
    net = models.create('convnet', width=2, num_classes=2)
    network = trained.Trained(
        net, jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))),
        data.Normalization(np.zeros(3, np.float32), np.ones(3, np.float32)), ('a', 'b'), (8, 8, 3),
        None)
    monkeypatch.setattr(trained, 'load', lambda *_: network)
    rng, folder = np.random.default_rng(0), tmp_path / 'set' / 'train'
    for name in ('a', 'b'):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            picture = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(picture).save(folder / name / f'{i}.png')
    own = config('it', dataset='folder', data_dir=str(tmp_path / 'set'), layers='conv:1', count=0)
    microscope.run(own, tmp_path / 'site')
    before = files(tmp_path / 'site')
    (folder / 'a' / '0.png').rename(folder / 'b' / '9.png')
    with pytest.raises(UserError, match='(?s)strongest.npz holds .* another network or data set'
                       '.*a 6 then, 5 now; b 6 then, 7 now.*missing: a/0.png.*added: b/9.png'):
        microscope.run(own, tmp_path / 'site')
    assert files(tmp_path / 'site') == before
    (folder / 'b' / '9.png').rename(folder / 'a' / '0.png')
    microscope.run(own, tmp_path / 'site')


def hand_over(directory, key, text):
    (directory / 'data' / f'{key}.js').write_text(f'microscope.receive("{key}",{text});\n')


@pytest.fixture(scope='module')
def named(source, tmp_path_factory):
    """A site of three units that are named, with their facets, and atlases of their layers."""
    directory = tmp_path_factory.mktemp('named')
    microscope.run(config(source, layers='fc:7+2,relu1:3', facets=2, grid=2, atlas=2), directory)
    return directory


def test_the_channels_that_are_named(named):
    manifest = json.loads((named / 'manifest.json').read_text())
    assert [(layer['name'], layer['channels'], [unit['unit'] for unit in layer['units']])
            for layer in manifest['layers']] == [('fc', [2, 7], [2, 7]), ('relu1', [3], [3])]
    found, _ = strongest.load(named / 'strongest.npz')
    np.testing.assert_allclose(site.read(named, 'fc/units')['maximum'],
                               found['fc'].maximum[[2, 7]], rtol=1e-4)
    assert {path.name for path in (named / 'images' / 'fc').iterdir()} == {
        f'{unit}-{kind}.png' for unit in (2, 7)
        for kind in ('positive', 'negative', 'facets', 'patches', 'projections')} | {
            'atlas.png'}
    shown = {unit for i in range(10) for unit, _ in site.read(named, f'classes/{i}')['fc']}
    assert shown == {2, 7}


def test_the_data_of_facets_and_an_atlas(source, named, monkeypatch, capsys):
    layers = {layer['name']: layer for layer in
              json.loads((named / 'manifest.json').read_text())['layers']}
    assert all(layer['maps'] for layer in layers.values())
    assert len(layers['relu1']['units'][0]['facets']) == 2
    sizes = {'3-facets': (16, 8), 'grid': (32, 32), 'atlas': (32, 32)}
    for kind, size in sizes.items():
        with Image.open(named / 'images' / 'relu1' / f'{kind}.png') as image:
            assert image.size == size
    kept = site.read(named, 'relu1/maps')
    assert kept['grid'] == {'shape': [2, 2]}
    assert kept['atlas']['images'] == sum(cell[2] for cell in kept['atlas']['cells']) == 60
    assert {len(cell) for cell in kept['atlas']['cells']} == {4}
    assert 'grid' not in site.read(named, 'fc/maps')  # It has no positions.

    before, made = files(named), noted(monkeypatch)
    (named / 'images/relu1/atlas.png').unlink()
    microscope.run(config(source, layers='fc:7+2,relu1:3', facets=2, grid=2, atlas=2), named)
    assert not made
    assert 'the atlas and the grid of the layer are made anew' in capsys.readouterr().out
    assert files(named) == before


def test_errors(source, written, tmp_path):
    for values, message in (
            ({'rule': 'backwards'}, 'rule'), ({'chunk': 0}, 'chunk=0'), ({'count': 8}, 'count=8'),
            ({'facets': 1}, 'facets=1'), ({'photograph': 'skimage:dog', 'grid': 2}, 'skimage:dog'),
            ({'learning_rate': 0.0}, 'learning_rate'), ({'units_per_layer': -1}, 'units_per_layer'),
            ({'layers': 'relu9'}, "layers: layer 'relu9' is not .* did you mean relu"),
            ({'layers': 'fc:5+10'}, "layers: 'fc' has the channels 0 to 9, not 10"),
            ({'source': 'nowhere'}, "there is no 'nowhere'")):
        with pytest.raises(UserError, match=message):
            microscope.run(config(source, **values), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r'steps: 3 there, 4 here'):
        microscope.run(config(source, steps=4), written)
    shutil.copytree(written, tmp_path / 'copy')
    (tmp_path / 'copy' / 'weights.json').write_text('{"sha256": "0"}')
    with pytest.raises(UserError, match='other weights'):
        microscope.run(config(source), tmp_path / 'copy')


# ---- The pages


class Pages:
    """A browser that shows the pages of one site."""

    def __init__(self, driver, directory):
        self.driver, self.directory = driver, directory
        self.resize()
        self.scheme('light')

    def resize(self, width=1200, height=900):
        self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
            'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False})

    def scheme(self, name):
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {
            'features': [{'name': 'prefers-color-scheme', 'value': name}]})

    def open(self, page='#/'):
        self.driver.get('about:blank')
        self.driver.get(f'{(self.directory / "index.html").as_uri()}{page}')
        return self.wait(page)

    def wait(self, page):
        """Until that page is shown."""
        self.until(f"document.getElementById('main')?.dataset.page === {json.dumps(page)}")
        return self

    def until(self, condition):
        end = time.monotonic() + 30
        while not self.run(f'return {condition}'):
            assert time.monotonic() < end, f'{condition} at {self.driver.current_url}'
            time.sleep(0.02)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def title(self):
        return self.one('h1').text

    def errors(self):
        return [entry['message'] for entry in self.driver.get_log('browser')]

    def links(self):
        return self.run("return [...document.querySelectorAll('a[href]')].map("
                        "a => a.getAttribute('href'))")


@pytest.fixture(scope='module')
def browser(driver, written):
    pages = Pages(driver, written)
    yield pages
    assert pages.errors() == []


def test_every_link_leads_to_a_page_and_every_image_is_there(browser):
    browser.resize(1200, 6000)  # lazy images are loaded where they are seen
    waiting, seen = ['#/'], set()
    while waiting:
        page = waiting.pop()
        seen.add(page)
        browser.open(page)
        assert browser.title() != 'Not here', page
        browser.until('[...document.images].every(image => image.complete)')
        broken = browser.run('return [...document.images].filter(image => !image.naturalWidth)'
                             '.map(image => image.src)')
        assert broken == []
        assert browser.run("return [...document.images].every(i => i.hasAttribute('alt'))")
        assert browser.errors() == []
        waiting += {link for link in browser.links() if link.startswith('#/')} - seen - set(waiting)
        assert all(link.startswith('#/') or link == '#main' for link in browser.links())
    layers = {f'#/layer/{name.replace("/", "%2F")}' for name in LAYERS}
    assert seen == {'#/', *layers, *(f'#/class/{i}' for i in range(10)),
                    *(f'#/unit/{name.replace("/", "%2F")}/{i}' for name in LAYERS
                      for i in range(SIZES[name]))}
    browser.resize()


def test_nothing_is_fetched_from_elsewhere():
    for name in site.PAGES:
        text = (site.Path(site.__file__).with_name(name)).read_text().replace(
            'http://www.w3.org/2000/svg', '')
        assert 'http' not in text
        assert '//' not in ''.join(line for line in text.splitlines() if 'src=' in line)


def test_going_by_clicks(browser):
    browser.open()
    assert browser.driver.title == browser.title() == 'resnet20'
    assert len(browser.all('.card')) == len(browser.all('.strip a')) == len(LAYERS)
    browser.one('.card').click()
    browser.wait('#/layer/relu1')
    assert browser.one('output').text == '4 units'
    assert [tile.text.split()[0] for tile in browser.all('.grid .tile')] == list('0123')
    browser.all('.grid .tile')[2].click()
    browser.wait('#/unit/relu1/2')
    assert browser.driver.title == 'unit 2 · relu1 · resnet20'
    assert len(browser.all('.patches li')) == 9
    assert len(browser.all('.patches img')) == 18
    assert len(browser.all('.bars li')) == 10
    browser.one('[aria-label="Next unit"]').click()
    browser.wait('#/unit/relu1/3')
    assert not browser.all('[aria-label="Next unit"]')  # it is the last
    browser.one('.bars a').click()
    browser.until("location.hash.startsWith('#/class/')")
    browser.driver.back()
    browser.wait('#/unit/relu1/3')
    browser.one('#trail a:nth-of-type(2)').click()
    browser.wait('#/layer/relu1')
    assert browser.driver.switch_to.active_element.get_attribute('href').endswith('/relu1/3')
    browser.one('.strip, #trail a').click()
    browser.wait('#/')


def test_what_a_layer_shows_and_in_which_order(browser, written):
    browser.open('#/layer/conv2_1%2Frelu1')
    for view in ('negative', 'patches', 'projections', 'positive'):
        browser.run(f"document.querySelector('[value={view}]').click()")
        assert [image.get_attribute('src').rpartition('/')[2] for image in browser.all('.grid img')
                ] == [f'{i}-{view}.png' for i in range(4)]
    found = strongest.load(written / 'strongest.npz')[0]['conv2_1/relu1']
    for order, values in (('maximum', -found.maximum), ('mean', -found.mean),
                          ('active', found.active), ('number', range(4))):
        browser.run("const s = document.querySelector('select'); s.value = arguments[0];"
                    "s.dispatchEvent(new Event('change'))", order)
        assert [int(tile.text.split()[0]) for tile in browser.all('.grid .tile')
                ] == np.argsort(np.float32(values), kind='stable').tolist()
    browser.open('#/unit/conv2_1/0')
    assert browser.one('.extremes .none').text == 'never below 0'


def test_the_facets_of_a_unit_and_the_page_of_an_atlas(driver, named):
    pages, cells = Pages(driver, named), site.read(named, 'relu1/maps')['atlas']['cells']
    pages.open('#/unit/relu1/3')
    assert len(pages.all('.facets img')) == 2
    pages.open('#/layer/relu1')
    pages.one('.tools a').click()
    pages.wait('#/atlas/relu1')
    atlas, grid = pages.all('.sheet')
    links = atlas.find_elements(By.TAG_NAME, 'a')
    assert [link.text for link in links] == [str(label) for *_, label in cells]  # names of digits
    whole, last = (pages.run('return arguments[0].getBoundingClientRect().toJSON()', element)
                   for element in (atlas, links[-1]))
    row, column = cells[-1][:2]
    assert last['left'] - whole['left'] == pytest.approx(column * whole['width'] / 2, abs=1)
    assert last['top'] - whole['top'] == pytest.approx(row * whole['height'] / 2, abs=1)
    pages.until('[...document.images].every(image => image.complete && image.naturalWidth)')
    assert grid.find_elements(By.TAG_NAME, 'img')
    pages.resize(400, 800)
    assert pages.run('return document.documentElement.scrollWidth <= innerWidth')
    pages.resize()
    pages.press(Keys.ARROW_LEFT)
    pages.wait('#/atlas/fc')
    assert len(pages.all('.sheet')) == 1
    pages.press(Keys.ESCAPE)
    pages.wait('#/layer/fc')
    assert pages.errors() == []


def test_going_by_keys(browser):
    browser.open('#/layer/relu1')
    browser.press(Keys.ARROW_RIGHT)
    browser.wait('#/layer/conv2_1%2Frelu1')
    browser.press(Keys.ARROW_LEFT)
    browser.wait('#/layer/relu1')
    browser.press(Keys.ARROW_DOWN)  # into the tiles
    for key, place in ((Keys.ARROW_RIGHT, '1'), (Keys.END, '3'), (Keys.ARROW_RIGHT, '3'),
                       (Keys.ARROW_LEFT, '2'), (Keys.HOME, '0'), (Keys.ARROW_RIGHT, '1')):
        browser.press(key)
        assert browser.run('return document.activeElement.dataset.place') == place
    browser.press(Keys.ENTER)
    browser.wait('#/unit/relu1/1')
    browser.press(Keys.ARROW_RIGHT)
    browser.wait('#/unit/relu1/2')
    browser.press(Keys.ARROW_LEFT)
    browser.wait('#/unit/relu1/1')
    browser.press(Keys.ARROW_UP)
    browser.wait('#/layer/relu1')
    browser.press(Keys.ESCAPE)
    browser.wait('#/')
    browser.open()
    browser.press(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == 'Skip to content'
    browser.press(Keys.ENTER)
    assert browser.run('return document.activeElement.id') == 'main'
    assert browser.title() == 'resnet20'


def test_search(browser):
    browser.open('#/layer/pool')

    def search(text):
        browser.press('/')
        browser.one('#search').clear()
        browser.press(text)
        return [option.text.split('\n')[0] for option in browser.all('#results [role=option]')]

    assert search('relu') == ['relu1', 'conv2_1/relu1']
    browser.press(Keys.ESCAPE)
    assert not browser.one('#results').is_displayed()
    assert search('relu1 2') == ['relu1 unit 2', 'conv2_1/relu1 unit 2', 'conv2_1/relu1']
    browser.press(Keys.ARROW_DOWN, Keys.ENTER)
    browser.wait('#/unit/conv2_1%2Frelu1/2')
    found = search('5')
    assert found[:3] == ['5', 'pool unit 5', 'fc unit 5']  # the class first, by its whole name
    browser.press(Keys.ENTER)
    browser.wait('#/class/5')
    assert search('nothing like it') == []
    assert browser.one('#results').text == 'Nothing of that name.'
    browser.press(Keys.ENTER)
    assert browser.driver.current_url.endswith('#/class/5')
    browser.press(Keys.ESCAPE)
    search('fc')
    browser.one('#results a').click()
    browser.wait('#/layer/fc')


def test_light_and_dark(browser):
    def paper():
        return browser.run('return getComputedStyle(document.body).backgroundColor')

    browser.open()
    light = paper()
    browser.scheme('dark')
    browser.until("document.documentElement.dataset.theme === 'dark'")
    dark = paper()
    assert sum(map(int, light[4:-1].split(','))) > 600 > 150 > sum(
        map(int, dark[4:-1].split(',')))
    browser.one('#theme').click()
    assert paper() == light
    browser.open('#/layer/fc')  # remembered
    assert paper() == light
    browser.one('#theme').click()
    browser.scheme('light')
    assert paper() == dark
    browser.run('localStorage.clear()')


def test_no_page_is_wider_than_a_telephone(browser):
    browser.resize(400, 800)
    for page in ('#/', '#/layer/conv2_1%2Frelu1', '#/unit/relu1/0', '#/class/3'):
        browser.open(page)
        assert browser.run('return document.documentElement.scrollWidth <= innerWidth'), page
    browser.resize()


def test_what_is_not_there_is_said(browser):
    for page in ('#/layer/nothing', '#/atlas/nothing', '#/unit/fc/77', '#/unit/fc/x', '#/class/10',
                 '#/nothing'):
        browser.open(page)
        assert browser.title() == ('resnet20' if page == '#/nothing' else 'Not here')
    assert browser.errors() == []


@pytest.mark.parametrize('page', ['#/%', '#/unit/%E0%A4%A', '#/unit', '#/class/1/2/3', '#nothing',
                                  '#/__proto__', '#/layer'])
def test_a_bad_address_is_the_first_page_with_a_word(browser, page):
    browser.open(page)
    assert browser.title() == 'resnet20'
    assert f'There is no page {page}' in browser.one('.note').text
    assert browser.errors() == []


def test_what_is_missing_or_damaged_is_said_in_the_browser(driver, written, tmp_path):
    directory = tmp_path / 'site'
    shutil.copytree(written, directory)
    shutil.rmtree(directory / 'images' / 'relu1')
    (directory / 'data' / 'fc' / 'units.js').unlink()
    for key, text in (('pool/0', '[]'), ('pool/4', '{"a":'), ('classes/3', 'null'),
                      ('conv2_1/units', '{"maximum":[1]}')):
        hand_over(directory, key, text)
    pages = Pages(driver, directory)
    for page, word in (('#/unit/pool/0', 'data/pool/0.js is damaged'),
                       ('#/unit/pool/4', 'data/pool/4.js is damaged'),
                       ('#/layer/fc', 'data/fc/units.js is missing'),
                       ('#/layer/conv2_1', 'data/conv2_1/units.js is damaged'),
                       ('#/class/3', 'data/classes/3.js is damaged')):
        pages.open(page)
        assert pages.title() == 'Cannot be shown'
        assert word in pages.one('#main').text
        pages.one('#main a').click()
        pages.wait('#/')
        assert pages.title() == 'resnet20'
    pages.open('#/layer/relu1')
    pages.until("document.querySelectorAll('.grid .none').length === 4")
    assert pages.one('.grid .none').text == 'missing or damaged'
    pages.open('#/unit/relu1/2')
    pages.until("document.querySelectorAll('.patches .none').length === 18")
    pages.until("document.querySelectorAll('.extremes .none').length === 2")
    for text in ('', 'microscope.receive("manifest",[]);', 'microscope.receive("manifest",{"a"',
                 'microscope.receive("manifest",{"layers":[{}],"rows":[]});'):
        (directory / 'data' / 'manifest.js').write_text(text)
        pages.driver.get('about:blank')
        pages.driver.get((directory / 'index.html').as_uri())
        pages.until("document.querySelector('h1')?.textContent === 'Cannot be shown'")
        assert 'data/manifest.js is missing or damaged' in pages.one('#main').text
    pages.errors()  # the browser's errors about missing files


def test_names_of_classes_are_text(driver, written, tmp_path):
    """Whatever they hold: markup, the end of a script, bytes that are no UTF-8."""
    directory = tmp_path / 'site'
    shutil.copytree(written, directory)
    manifest = site.read(written, 'manifest')
    names = ['<b>bold</b>', 'a & b &lt;', '"quotes" \'single\'', 'back\\slash\nline \u2028',
             '</script><script>document.body.remove()</script>', '<img src=x onerror=alert(1)>',
             'caf\udce9', '$5_$10', '%', 'constructor']
    site.write(directory, 'manifest', manifest | {'classes': names})
    pages = Pages(driver, directory)
    for index, name in enumerate(names):
        pages.open(f'#/class/{index}')
        shown = name.replace('\udce9', '\ufffd')
        text = pages.run("return document.querySelector('h1').textContent.toWellFormed()")
        assert text == shown
        assert not pages.all('#main h1 *')
    pages.open('#/unit/fc/4')
    assert len(pages.all('.bars li')) == 10
    assert not pages.all('#main b > b, #main img[src=x], #main script')
    assert names[4] in pages.one('.lead').text
    pages.press('/')
    pages.press('</script>')
    assert [option.text.split('\n')[0] for option in pages.all('#results [role=option]')] == [
        names[4]]
    pages.press(Keys.ENTER)
    pages.wait('#/class/4')
    assert pages.errors() == []


def test_named_channels_have_pages(driver, named):
    pages = Pages(driver, named)
    pages.open('#/layer/fc')
    assert pages.one('output').text == '2 units of 10'
    assert [tile.text.split()[0] for tile in pages.all('.grid .tile')] == ['2', '7']
    pages.all('.grid .tile')[1].click()
    pages.wait('#/unit/fc/7')
    assert pages.title() == 'Unit 7'
    assert not pages.all('[aria-label="Next unit"]')
    pages.one('[aria-label="Previous unit"]').click()
    pages.wait('#/unit/fc/2')
    assert 'the class 2' in pages.one('.lead').text
    pages.open('#/unit/fc/3')
    assert pages.title() == 'Not here'
    pages.open('#/class/7')
    assert 'Its own unit is fc 7' in pages.one('.lead').text
    pages.open('#/class/3')
    assert 'Its own unit' not in pages.one('.lead').text
    pages.press('/')
    pages.press('7')
    assert [option.text.split('\n')[0] for option in pages.all('#results [role=option]')][:2] == [
        '7', 'fc unit 7']
    pages.press(Keys.ESCAPE)
    pages.until('[...document.images].every(image => image.complete && image.naturalWidth)')
    assert pages.errors() == []


def test_twenty_thousand_units(driver, tmp_path):
    """The pages of a network as large as a ResNet-50: only what is seen is on the page."""
    layers, pixels = [], tmp_path / 'pixels.png'
    Image.new('RGB', (8, 8), 'gray').save(pixels)
    directory = tmp_path / 'site'
    for i in range(10):
        name, count = f'block{i}/relu', 2048
        layers.append({
            'name': name, 'shape': [7, 7, count], 'size': [None, 483], 'stride': [32, 32],
            'kind': 'convolution', 'channels': list(range(count)), 'units': count,
            'done': count - 48 * (i == 9), 'side': [8, 8],
            'target': name, 'patch': [8, 8], 'suffix': 'png', 'negative': True, 'output': False})
        numbers = list(range(layers[-1]['done']))
        site.write(directory, f'{name}/units', {
            'maximum': numbers, 'mean': [None] * len(numbers), 'active': [0.5] * len(numbers),
            'best': [number % 1000 for number in numbers]})
        (directory / 'images' / name).mkdir(parents=True)
        for number in numbers:
            os.link(pixels, directory / 'images' / name / f'{number}-positive.png')
    site.write(directory, 'block3/relu/1984', [{
        'unit': 1984 + i, 'positive': 1, 'negative': -1,
        'health': {'positive': '', 'negative': 'noise'},
        'scores': [3.5] * 9, 'images': [7] * 9, 'labels': [999] * 9, 'mean': 0.1, 'deviation': 1,
        'active': 0.01, 'classes': list(range(1000))} for i in range(32)])
    for kind in ('negative', 'patches', 'projections'):
        os.link(pixels, directory / 'images' / 'block3' / 'relu' / f'1999-{kind}.png')
    site.install(directory)
    site.write(directory, 'manifest', {
        'network': 'Large', 'source': 'x', 'fingerprint': 'f' * 64, 'image_shape': [224, 224, 3],
        'parameters': 25_557_032, 'multiply_adds': 4_089_184_256, 'rows': layers, 'layers': layers,
        'classes': [f'class {i}' for i in range(1000)], 'dataset': 'many', 'images': 1_281_167,
        'rule': 'deconvnet', 'chunk': 32, 'versions': {'cnnjax': '1'}})
    pages = Pages(driver, directory)
    pages.open()
    assert '20,432 of 20,480 units so far' in pages.one('.note').text
    nodes = "return document.getElementsByTagName('*').length"
    assert pages.run(nodes) < 1000
    pages.all('.card')[9].click()
    pages.wait('#/layer/block9%2Frelu')
    assert '2,000 of 2,048' in pages.one('output').text

    def shown():
        return [int(tile.get_attribute('data-place')) for tile in pages.all('.grid .tile')]

    assert 0 in shown()
    assert len(shown()) < 300
    assert pages.run(nodes) < 2000
    height = pages.run('return document.documentElement.scrollHeight')
    assert height > 30_000  # room for all
    pages.run('scrollTo(0, arguments[0] / 2)', height)
    pages.until("Math.abs(document.querySelector('.grid .tile').dataset.place - 1000) < 150")
    assert len(shown()) < 300
    assert shown() == sorted(shown())
    pages.press(Keys.ARROW_DOWN, Keys.END)
    assert pages.driver.switch_to.active_element.text.startswith('not made yet')
    assert max(shown()) == 2047
    assert len(shown()) < 300
    pages.press('/')
    pages.press('block3 1999', Keys.ENTER)
    pages.wait('#/unit/block3%2Frelu/1999')
    assert pages.title() == 'Unit 1999'
    assert pages.run(nodes) < 2000
    pages.one('.more').click()
    assert len(pages.all('.bars li')) == 1000
    assert pages.errors() == []
