"""Maps of a data set by the codes (activations of a layer) of its images.

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
that come with scikit-image. Writes eigenfaces.png, reconstructions.png, repair.png and curves.png
to figures/, and results.json.
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
    config.source = 'runs/quickstart'  # 'embedded', a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it: 'vgg19'
    config.dataset = 'digits'  # 'digits', 'photos', 'folder', or a data set of tensorflow-datasets
    config.data_dir = placeholder(str)  # where the data set is
    config.bad_images = 'error'  # folder, unreadable pictures: 'error' stops, 'skip' omits them
    config.split = 'test'  # the split of the data set
    config.count = 1000  # how many images, evenly spread over the set; 0: all
    config.taps = ''  # layers that configs/summarize.py prints, 'pool,conv4_6:1+5', and 'pixels';
    #                   '': the pixels and the last layers before the classifier
    config.pool = True  # average maps over their pixels; False: keep every pixel of a map
    config.metric = 'euclidean'  # distance of codes, in t-SNE too: 'euclidean' or 'cosine'
    config.components = 50  # PCA components that t-SNE starts from
    config.perplexity = 30.0  # t-SNE's perplexity: about how many neighbours count
    config.neighbours = 8  # how many neighbours to show for each query
    config.queries = 10  # rows of neighbours, of different classes as long as there are more
    config.drawn = 600  # most images to draw in a map, evenly spread
    config.seed = 0  # seeds PCA and t-SNE
    config.batch_size = 64  # images at a time, over all devices
    config.loader_threads = 16  # threads that decode images
    config.devices = 0  # how many local devices to use; 0: all
    return config


def eigenfaces():
    config = ml_collections.ConfigDict()
    config.experiment = 'eigenfaces'
    config.components = (1, 2, 3, 5, 10, 20, 40, 79)  # how many eigenfaces span the face space
    config.folds = 5  # every face is judged by a space of the faces of the other folds
    config.detect = 5  # how many eigenfaces detect faces, for the ROC curves
    config.repair = 10  # how many eigenfaces repair hidden parts of a face
    config.hidden = (14, 4, 8, 17)  # the hidden part of each face: top, left, height, width
    config.shown = 8  # how many faces the figures show
    config.seed = 0  # seeds the choice of the folds
    return config
