"""The loss of a style as a frozen network sees it, the teacher of tasks/stylize.py.

Johnson, Alahi & Fei-Fei 2016, section 3.2, https://arxiv.org/abs/1603.08155, with the objectives of
images/neural_style.py: the loss of an image is that of experiments/style.py. Activations are
divided by their means on the styles, so that the weights mean the same with every teacher.
"""

from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from cnnjax import data
from cnnjax.errors import UserError
from cnnjax.images import neural_style, objectives, pictures, regularizers, tiles
from cnnjax.images.objectives import Objective
from cnnjax.limits import Names, Number, Used, Whole, names
from cnnjax.tasks.stylize import Stability
from cnnjax.trained import Trained

OBJECTIVE = ('content_layers', 'content_weight', 'style_layers', 'style_layer_weights',
             'style_convention', 'style_weight')
LIMITS = {
    'styles': Names(some=False), 'style_size': Whole(1, pictures.LARGEST),
    'content_layers': Names(), 'content_weight': Number(0), 'style_layers': Names(),
    'style_layer_weights': Number(), 'style_weight': Number(0), 'tv_weight': Number(0),
    'style_convention': (*neural_style.GRAM, neural_style.WASSERSTEIN),
    'stability_weight': Number(0), 'stability_noise': Number(0, 1),
    'stability_shift': Whole(0, 64)}
USED = {'styles': Used('task', ('stylize',), '')}


def check(config: ConfigDict) -> None:
    """Raises UserError if fields of task='stylize' do not fit together."""
    if config.task != 'stylize':
        return
    for field, what in (('styles', 'pictures with the style to learn'),
                        ('teacher', "a trained network that sees it, such as 'embedded'")):
        if not config[field]:
            raise UserError(f"task='stylize' needs {field}: {what}")
    weights, layers = config.style_layer_weights, names(config.style_layers)
    if weights and len(weights) != len(layers):
        raise UserError(f'style_layer_weights={weights}: give each of the {len(layers)} '
                        'style_layers a weight, or take () for equal ones')


def stability(config: ConfigDict) -> Stability:
    """The Stability of a config."""
    return Stability(*(config[f'stability_{name}'] for name in Stability._fields))


class Perception(NamedTuple):
    """What a training takes of its teacher. A call is (variables, normalized examples, step) -> the
    examples with 'taught': the photographs as they were, 'image', float32 [N, H, W, C] in [0, 1],
    and their codes, 'maps', {layer: {'content': [N, h, w, C]}}."""

    teacher: Trained
    normalize: data.Normalization  # has made the examples; the teacher has its own
    objective: Objective
    content_layers: tuple[str, ...]
    tv_weight: float
    targets: dict[str, Any]  # {'style', 'scale'} of the objective's aux

    @property
    def variables(self) -> dict[str, Any]:
        """The arrays that do not change: those of the teacher, as 'network', and the targets."""
        return {'network': self.teacher.variables, **self.targets}

    def __call__(self, variables: Any, examples: Any, step: Any) -> dict[str, Any]:
        del step
        images = self.normalize.inverse(examples['image'])
        taps = self.teacher._replace(variables=variables['network']).taps(images)
        maps = {layer: {'content': taps[layer] / variables['scale'][layer]}
                for layer in self.content_layers}
        return {**examples, 'taught': {'image': images, 'maps': maps}}

    def judge(self, variables: Any, images: jax.Array, taught: Any) -> dict[str, jax.Array]:
        """{term: [N]}, the 'content', 'style' and 'variation' of images [N, H, W, C] in [0, 1],
        beside what is taught of their photographs."""
        taps = self.teacher._replace(variables=variables['network']).taps(images)
        variation = regularizers.total_variation(form='crowsonkb')

        def one(image, taps, maps):
            aux = {'style': variables['style'], 'scale': variables['scale'], 'maps': maps}
            return self.objective(taps, aux) | {'variation': self.tv_weight * variation(image)}

        seen = {layer: taps[layer] for layer in self.objective.layers}
        return jax.vmap(one)(images, seen, taught['maps'])


def perception(config: ConfigDict, teacher: Trained, examples: Any,
               normalize: data.Normalization) -> Perception:
    """The Perception of a config.

    Args:
      examples: the shapes of a batch of one augmented example.
      normalize: that of the examples.

    Raises:
      UserError: the teacher does not fit the images or has no such layers, or a style cannot be
        read.
    """
    where, shape = f"teacher='{config.teacher}'", examples['image'].shape[1:]
    layers, content_layers = names(config.style_layers), names(config.content_layers)
    every = tuple(dict.fromkeys(layers + content_layers))
    normalize.check_pointwise("task='stylize'")
    try:
        objectives.missing(every, teacher.of_images("task='stylize'").tap_shapes(shape))
    except UserError as error:
        size = ' x '.join(map(str, shape[:-1]))
        raise UserError(f'{where} cannot see these images, of {size} pixels: {error}') from error
    see = jax.jit(lambda variables, image: tiles.value(
        teacher, neural_style.moments(every), 0, variables, image, {}))
    found = []
    for path in names(config.styles):
        picture = pictures.read(path, config.style_size)
        try:
            found.append(see(teacher.variables, pictures.with_channels(picture, shape[-1])))
        except UserError as error:
            raise UserError(f'{path}, scaled to style_size={config.style_size}: {error}') from error
    found = neural_style.mixed(found)
    scale = neural_style.scales(found)
    style = {layer: neural_style.divided(found[layer], scale[layer]) for layer in layers}
    objective = objectives.relative(neural_style.weighted(
        **{field: config[field] for field in OBJECTIVE}))
    return Perception(teacher, normalize, objective, content_layers, config.tv_weight,
                      {'style': style, 'scale': scale})
