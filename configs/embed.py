"""The space of a network's codes: a data set mapped by what a layer makes of its images.

    python launch.py --config=configs/embed.py --workdir=runs/embed
    python launch.py --config=configs/embed.py --config.source=embedded --config.dataset=photos \\
        --config.taps=pool2,pool5 --workdir=runs/embed-photos
    python launch.py --config=configs/embed.py:eigenfaces --workdir=runs/eigenfaces

Codes are reduced to two dimensions by PCA and by t-SNE (van der Maaten & Hinton 2008,
https://www.jmlr.org/papers/v9/vandermaaten08a.html) and drawn with the images themselves. Writes,
for every tap, figures/TAP.png, figures/TAP-neighbours.png and TAP.npz (`code`, `pca`, `tsne`,
`label`, `index`: position in the data set), and results.json.

The argument 'eigenfaces' is PCA on pixels: Turk & Pentland 1991, "Eigenfaces for Recognition",
https://doi.org/10.1162/jocn.1991.3.1.71, on the 100 faces and 100 other pictures of 25 x 25 pixels
that come with scikit-image. Writes figures/eigenfaces.png, reconstructions.png, repair.png and
curves.png, and results.json.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(kind='codes'):
    if kind == 'eigenfaces':
        return eigenfaces()
    if kind != 'codes':
        raise ValueError(f"the argument is 'codes' or 'eigenfaces', not '{kind}'")
    config = ml_collections.ConfigDict()
    config.experiment = 'embed'
    config.source = 'runs/quickstart'  # or 'embedded', a weights file, a hub id
    config.checkpoint = 'best'  # of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's, where a file of weights does not say it
    config.dataset = 'digits'  # or photos, folder, or a name of tensorflow-datasets
    config.data_dir = placeholder(str)  # of the data set
    config.bad_images = 'error'  # folder: an unreadable image is an 'error', or 'skip' it
    config.split = 'test'  # of the data set
    config.count = 1000  # how many images, spread over the set; 0: all
    config.taps = ''  # names that configs/summarize.py prints, 'pool,conv4_6:1+5', and 'pixels' for
    #                   the images; '': the pixels and the last ones before the classifier
    config.pool = True  # average maps over their pixels; False: keep every pixel of a map
    config.metric = 'euclidean'  # between codes, of neighbours and of t-SNE; or 'cosine'
    config.components = 50  # of the PCA that t-SNE starts from
    config.perplexity = 30.0  # of t-SNE: about how many neighbours count
    config.neighbours = 8  # shown of every query
    config.queries = 10  # rows of neighbours, each of another class while there are
    config.drawn = 600  # at most so many images in a map, spread over them
    config.seed = 0  # what PCA and t-SNE draw at random
    config.batch_size = 64  # over all devices
    config.loader_threads = 16  # that decode images
    config.devices = 0  # how many of the local devices; 0: all
    return config


def eigenfaces():
    config = ml_collections.ConfigDict()
    config.experiment = 'eigenfaces'
    config.components = (1, 2, 3, 5, 10, 20, 40, 79)  # how many eigenfaces span the face space
    config.folds = 5  # every face is judged by a space of the faces of the other folds
    config.detect = 5  # components of the ROC curves
    config.repair = 10  # components of the pictures of repaired faces
    config.hidden = (14, 4, 8, 17)  # top, left, height, width of what is hidden of every face
    config.shown = 8  # faces in the pictures
    config.seed = 0  # which faces are in which fold
    return config
