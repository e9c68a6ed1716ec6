"""What convolution and pooling are: slides for a lecture, with every number on them checked.

    python launch.py --config=configs/convolution.py --workdir=runs/convolution

The sizes of outputs, convolution beside correlation, known kernels on a photograph, the matrix of a
convolution, its gradients, pools and theirs, receptive fields, and random vectors in many
dimensions. Each number is compared with lax, JAX's gradients, SciPy or a distribution while the
experiment runs, and an error stops it. Writes results.json and results.md with the numbers and the
largest differences, and sizes.png, flip.png, kernels.png, matrices.png, gradients.png, pooling.png,
receptive_fields.png and dimensions.png to figures/. It takes a quarter of a minute on two
cores.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'convolution'
    config.image = 'skimage:astronaut'  # a path, or 'skimage:NAME' for a picture of scikit-image
    config.size = 320  # side of the photograph, in pixels
    config.kernel = (-2.0, -1.0, 0.0, -1.0, 0.0, 1.0, 0.0, 1.0, 2.0)  # kernel of the flipped
    #                photograph and of the matrices, row by row: a square of odd side
    config.matrix_size = 6  # side of the image whose convolution is drawn as a matrix
    config.dimensions = (2, 10, 100, 1000, 10000)  # dimensions of the random vectors
    config.pairs = 4000  # how many pairs of random vectors
    config.seed = 0  # seeds all random numbers
    return config
