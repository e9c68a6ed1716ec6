"""Pictures, and the frames of animations, in the style that a network has learned."""

from pathlib import Path

import numpy as np

from cnnjax import predict
from cnnjax.images import pictures
from experiments.predict.found import Found, each, thumbnail


def predictor(config, network, paths):
    """A function from (directory, names) to the Founds of the pictures; it writes all files but
    the page."""
    def run(directory, names):
        return each(names, paths, lambda name, path: stylized(
            config, network, directory, name, path))

    return run


def stylized(config, network, directory, name, path):
    """A Found of a picture, which is written as stylized/NAME.png; an animation becomes one of the
    same kind."""
    frames, seconds = pictures.frames(path)
    suffix, channels = Path(path).suffix.lower(), network.image_shape[-1]
    made = [predict.stylized(network, pictures.with_channels(frame, channels))
            for frame in frames]
    record = {'height': made[0].shape[0], 'width': made[0].shape[1]}
    if seconds:
        record |= {'picture': f'stylized/{name}{suffix}', 'frames': len(made)}
        pictures.animate(directory / record['picture'], made, seconds)
    else:
        record['picture'] = f'stylized/{name}.png'
        pictures.write(directory / record['picture'], made[0])
    if config.draw:
        record['thumbnail'] = thumbnail(directory, name, predict.rounded(np.asarray(made[0])))
    return Found(name, path, record)
