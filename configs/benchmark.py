"""Speed beside PyTorch, measured in turns in one run.

    python launch.py --config=configs/benchmark.py --workdir=runs/benchmark

PyTorch is measured if it is installed: pip install torch==2.13.0 torchvision. The run writes
results.json, results.md and figures/benchmark.png; docs/benchmark.md explains them. The argument is
'default' (some of everything, half an hour on two cores), 'cifar', 'imagenet', 'segment',
'detect', 'images' or 'all'. On a GPU set XLA_PYTHON_CLIENT_PREALLOCATE=false, which leaves memory
to PyTorch.

These two commands compare the speed before and after a change:

    python launch.py --config=configs/benchmark.py:cifar --config.label=before --workdir=runs/before
    python launch.py --config=configs/benchmark.py:cifar --workdir=runs/after \
        --config.compare_to=runs/before/results.json
"""

import ml_collections

CIFAR = ('train_resnet20,train_resnet110,train_resnet110_stochastic,train_densenet_bc_l100_k12,'
         'train_densenet_bc_l100_k12_remat,train_fractalnet20,train_vgg16_bn_32')
IMAGENET = 'train_vgg16,train_resnet50,train_densenet121'
SEGMENT = 'train_unet'
DETECT = ('train_yolo_v1,infer_yolo_v1:1,train_faster_rcnn_resnet50_fpn,'
          'infer_faster_rcnn_resnet50_fpn:1')
ROWS = {
    'cifar': f'{CIFAR},train_fractalnet20_columns,infer_resnet20,infer_resnet110,'
             'infer_densenet_bc_l100_k12,infer_fractalnet20,infer_vgg16_bn_32,loop_resnet20,'
             'compile_resnet20,compile_resnet110',
    'imagenet': f'{IMAGENET},infer_vgg16,infer_resnet50,infer_densenet121,loop_resnet50,'
                'compile_resnet50',
    'segment': f'{SEGMENT},infer_unet,masks_320',
    'detect': f'{DETECT},boxes_640',
    'images': 'style_256,style_512,visualization_224,units_48,input_224',
    'default': f'{CIFAR},{IMAGENET},{SEGMENT},infer_resnet20,infer_resnet50,loop_resnet20,'
               'compile_resnet20,style_256,style_512,visualization_224,units_48,input_224,'
               'masks_320,boxes_640',
}
ROWS['all'] = ','.join(ROWS[name] for name in ('cifar', 'imagenet', 'segment', 'detect', 'images'))


def get_config(rows='default'):
    if rows not in ROWS:
        raise ValueError(f"the argument is one of {', '.join(ROWS)}, not '{rows}'")
    config = ml_collections.ConfigDict()
    config.experiment = 'benchmark'
    # A row is train_, infer_, loop_ or compile_ with a network; style_, visualization_ or units_
    # with a size in pixels; or input_, masks_ or boxes_ with the size that images are cut to. Rows
    # of networks and the last three take a batch size, if not the usual one (train_resnet20:64).
    config.rows = ROWS[rows]  # the rows to measure, with commas between them
    config.rounds = 7  # rounds of measurements; each measures all sides in turn
    config.seconds = 0.3  # seconds of a turn, which lasts at least one step
    config.dtype = ''  # the networks' activations; '': float32 on CPUs, bfloat16 on accelerators
    config.steps_per_call = 0  # training steps in one program; 0: 100 on accelerators, 1 on the CPU
    config.torch = True  # whether to measure PyTorch too
    config.compile_mode = 'reduce-overhead'  # torch.compile's mode, on GPUs; '': eager PyTorch only
    config.label = ''  # this run's name in its tables and in those of later runs
    config.compare_to = ''  # results.json of an earlier run to compare with
    return config
