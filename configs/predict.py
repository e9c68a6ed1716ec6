"""What a trained network sees on pictures of any size.

    python launch.py --config=configs/predict.py --config.source=runs/quickstart \\
        --config.pictures='new/*.jpg' --workdir=runs/predictions

It writes predictions.html, a page of the pictures with their predictions; predictions.csv; and
predictions.json, which has the same for programs.

If the source classifies, it prints a table of the most probable classes, and predictions.csv has a
row for each picture.

If it segments, it also writes, for each picture, masks/NAME.png with the number of a class in
each pixel, shown in PASCAL VOC's colours, and overlays/NAME.png, the picture under these colours;
predictions.csv has the share of each class in each picture.

If it detects objects, it also writes boxes/NAME.png, the picture with boxes, names and scores;
predictions.csv has a row for each box, in pixels of the picture; detections.json has COCO's
results, for `COCO.loadRes`; and coco.json has them with their pictures and classes as a data
set in COCO's form, for tools that annotate or show such sets.

If it stylizes (configs/fast_style.py), it writes stylized/NAME.png, the picture at its own size in
the style of the network. An animation (GIF, WebP, APNG) becomes one of the same kind, frame by
frame.

Pictures that cannot be read are listed and left out.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config():
    config = ml_collections.ConfigDict()
    config.experiment = 'predict'
    config.source = 'runs/quickstart'  # the network: a run's workdir, a weights file or a hub id
    config.checkpoint = 'best'  # the checkpoint of a run: 'best', 'latest' or the number of a step
    config.name = placeholder(str)  # the network's name, if a weights file does not say it
    config.pictures = ''  # files, folders or patterns such as 'new/*.jpg', with commas between
    #           them; or an .npz file with the array x, of images, sequences or volumes to classify

    config.draw = True  # False: no thumbnails, pictures or page, only tables and masks

    # Classes.
    config.top = 5  # how many of the most probable classes of a picture
    config.crops = placeholder(str)  # this and the next two as in configs/base.py; None: as the
    config.test_scales = placeholder(tuple)  # ... network is evaluated
    config.test_flip = placeholder(bool)
    config.batch_size = 64  # pictures at a time, over all devices
    config.devices = 0  # how many local devices to use; 0: all

    # Masks.
    config.opacity = 0.5  # the share of the colours in the overlays, from 0 to 1
    config.tile = 1024  # the largest side, in pixels, that the network sees at once

    # Boxes.
    config.score = 0.25  # boxes with lower scores are left out of all files; 0: none is, as it has
    #           to be if the average precision is computed of them
    config.iou = placeholder(float)  # the largest IoU of two boxes of a class; above it, only
    #           the better one stays; None: as the network was evaluated
    config.annotations = ''  # a file in COCO's form, whose ids of pictures and classes are used;
    #           '': those of the file that the network was trained on, or else 1, 2, ..., and for
    #           pictures whose names are numbers, as COCO's are, these
    config.proposals = ''  # Fast R-CNN: an .npz file with the boxes of each picture that it judges
    config.write_proposals = False  # Faster R-CNN: also write the boxes that its second stage
    #           judged, in such a file, proposals.npz, to train or try a Fast R-CNN with
    return config
