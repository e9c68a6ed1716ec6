"""All tests run offline on four fake CPU devices; the variables must be set before jax starts."""

import gc
import os
import shutil
from importlib import metadata
from pathlib import Path

# Tiny programs run once, and optimizing their machine code would take longer than running it. A
# single LLVM module, and XLA's older emitter, which later versions lack, halve the remaining time.
os.environ['XLA_FLAGS'] = ('--xla_force_host_platform_device_count=4 '
                           '--xla_backend_optimization_level=0 '
                           '--xla_cpu_parallel_codegen_split_count=1 ')
if metadata.version('jaxlib').startswith('0.10.'):
    os.environ['XLA_FLAGS'] += '--xla_cpu_use_fusion_emitters=false'
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'  # [N, C] + [C] is often a mistake: write [None]
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['SUBMITIT_LOG_LEVEL'] = 'NOCONFIG'  # its handlers would close those of the tests

# Compilation takes most of the time, so programs are shared by tests, processes and runs.
CACHE = Path(__file__).parent.parent / '.pytest_cache' / 'jax'
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(CACHE)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import logging  # noqa: E402
from PIL import Image  # noqa: E402

from cnnjax.data import digit_scenes, digits, geometry  # noqa: E402
from configs import base  # noqa: E402

logging.set_verbosity(logging.ERROR)
BROWSER = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
           '--disable-background-networking', '--disable-component-update', '--disable-sync')
DETECTOR = Path(__file__).with_name('detector.py')

# Tracing makes many objects that stay; with the usual threshold, garbage collection took a seventh
# of its time.
gc.set_threshold(100_000)


LONGEST = ('test_cluster.py', 'test_train.py', 'test_depth.py', 'test_microscope.py',
           'test_models.py', 'test_summary.py', 'test_weights.py', 'test_jobs.py')


def pytest_collection_modifyitems(items):
    """Starts with the slowest files, so that all processes end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def strict():
    """Restores strict rank promotion, which an experiment that runs here switches off."""
    yield
    jax.config.update('jax_numpy_rank_promotion', os.environ['JAX_NUMPY_RANK_PROMOTION'])


@pytest.fixture
def tiny():
    """A config that trains a narrow ResNet on the digits for six steps, on one device."""
    config = base.get_config()
    config.model.widths = (4, 4, 4)
    config.padding = 1
    config.batch_size = 32
    config.steps = 6
    config.learning_rate = 0.05
    config.report_every = 1
    config.eval_every = 3.0
    config.checkpoint_every = 2.0
    config.devices = 1
    config.lock()
    return config


def scene(rng):
    """A picture of noise with a bright disk or square on it, and its mask, whose right edge is
    ignored."""
    y, x = np.mgrid[:16, :16]
    top, left = rng.integers(3, 13, 2)
    label = int(rng.integers(1, 3))
    inside = ((y - top) ** 2 + (x - left) ** 2 <= 9 if label == 1
              else (abs(y - top) <= 2) & (abs(x - left) <= 2))
    image = rng.integers(0, 90, (16, 16, 3)) + 150 * inside[..., None]
    mask = np.where(inside, label, 0).astype(np.uint8)
    mask[:, -1] = geometry.IGNORE
    return image.astype(np.uint8), mask


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """A folder of scenes with masks of three classes."""
    root, rng = tmp_path_factory.mktemp('scenes'), np.random.default_rng(0)
    (root / 'classes.txt').write_text('background\nround\nsquare\n')
    for split, count in (('train', 24), ('test', 10)):
        for i in range(count):
            for kind, array in zip(('images', 'masks'), scene(rng), strict=True):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / split / kind / f'{i}.png')
    return root


@pytest.fixture(scope='session')
def archives(tmp_path_factory):
    """A directory with the archives of all data sets of tests/archives.py."""
    from tests.archives import WRITERS  # here, because the import takes a second

    directory = tmp_path_factory.mktemp('archives')
    for write in WRITERS.values():
        write(directory)
    return directory


@pytest.fixture(scope='session')
def prepared(archives, tmp_path_factory):
    """A data_dir of tensorflow-datasets with all these sets, prepared."""
    from cnnjax.data import tfds_prepare
    from tests.archives import SPLITS, trusted

    directory = tmp_path_factory.mktemp('prepared')
    with trusted(archives):
        for name in SPLITS:
            tfds_prepare.prepare(name, directory, archives)
    return directory


@pytest.fixture
def segmenting(tiny, scenes):
    """A config that trains a narrow U-Net on the scenes for six steps, on one device."""
    with tiny.unlocked():
        tiny.update({'task': 'segment', 'dataset': 'folder', 'data_dir': str(scenes), 'flip': True,
                     'padding': 2, 'batch_size': 8, 'eval_batch_size': 4})
        tiny.model.update({'name': 'unet_padded', 'widths': (4, 8), 'dropout': 0.0})
    return tiny


@pytest.fixture
def detecting(tiny, monkeypatch):
    """A config that trains a detector of a user's file on few scenes for six steps, on one device.
    """
    monkeypatch.setattr(digit_scenes, 'EXAMPLES', {'train': 24, 'test': 10})
    with tiny.unlocked():
        tiny.update({'task': 'detect', 'dataset': 'digit_scenes', 'image_size': 32, 'flip': True,
                     'padding': 2, 'batch_size': 8, 'eval_batch_size': 4})
        tiny.model.update({'name': f'{DETECTOR}:Grid', 'widths': None})
        tiny.model.width = 4
    return tiny


@pytest.fixture(scope='session')
def tagged(tmp_path_factory):
    """An .npz file of a few digits, with tags that say which it is, and whether it is even."""
    arrays = {}
    for split, count in (('train', 24), ('test', 10)):
        examples = digits.load(split).examples[:count]
        labels = np.array([example['label'] for example in examples])
        arrays |= {f'x_{split}': np.stack([example['image'] for example in examples]),
                   f'y_{split}': np.column_stack([np.eye(10, dtype=int)[labels], labels % 2 == 0])}
    path = tmp_path_factory.mktemp('tagged') / 'digits.npz'
    np.savez(path, classes=[*'0123456789', 'even'], **arrays)
    return path


@pytest.fixture
def tagging(tiny, tagged):
    """A config that trains a small network to find the tags for six steps, on one device."""
    with tiny.unlocked():
        tiny.update({'task': 'multilabel', 'dataset': 'npz', 'data_dir': str(tagged),
                     'batch_size': 8, 'eval_batch_size': 4})
        tiny.model.update({'name': 'convnet', 'widths': None})
        tiny.model.width = 4
    return tiny


@pytest.fixture(params=['tiny', 'tagging', 'segmenting', 'detecting'])
def each(request):
    """The config of a tiny training, for each of the tasks."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope='session')
def driver(tmp_path_factory):
    """A browser."""
    from selenium import webdriver  # here, because few tests need it

    for program in ('chromium', 'chromedriver'):
        assert shutil.which(program), (
            f'no {program} on the path: apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for option in BROWSER:
        options.add_argument(option)
    options.add_argument(f'--user-data-dir={tmp_path_factory.mktemp("browser")}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
    yield driver
    driver.quit()
