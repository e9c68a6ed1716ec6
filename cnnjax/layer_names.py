"""The names that other libraries give to the layers of small networks and of Inception.

Each function makes, of one of our networks, the rules of a counterparts.Counterpart.
"""

import re
from collections.abc import Callable

import flax.linen as nn

Rules = list[tuple[str, str | Callable]]


def mobilenet(net: nn.Module) -> Rules:
    """block1 -> blocks.0.0: timm counts blocks in stages, each of which begins with a stride."""
    rules: Rules = [('conv1', 'conv_stem'), ('fc', 'classifier')]
    stage = index = 0
    for i, (stride, _) in enumerate(net.blocks, 1):
        stage, index = (stage + 1, 0) if stride == 2 else (stage, index)
        rules += [(f'block{i}/depthwise', f'blocks.{stage}.{index}.conv_dw'),
                  (f'block{i}/pointwise', f'blocks.{stage}.{index}.conv_pw'),
                  (rf'block{i}/bn(\d)', rf'blocks.{stage}.{index}.bn\1')]
        index += 1
    return rules


def mobilenet_v2_timm(net: nn.Module) -> Rules:
    """block2 -> blocks.1.0: timm counts the blocks of a row of Table 2, and no absent layers."""
    rules: Rules = [('conv1', 'conv_stem'), ('conv2', 'conv_head'), ('fc', 'classifier')]
    i = 0
    for stage, (expansion, _, count, _) in enumerate(net.blocks):
        layers = [('depthwise', 'conv_dw', 2), ('project', 'conv_pw', 3)]
        if expansion > 1:
            layers = [('expand', 'conv_pw', 1), ('depthwise', 'conv_dw', 2),
                      ('project', 'conv_pwl', 3)]
        for index in range(count):
            i += 1
            theirs = f'blocks.{stage}.{index}'
            for number, (layer, name, norm) in enumerate(layers, 1):
                rules += [(f'block{i}/{layer}', f'{theirs}.{name}'),
                          (f'block{i}/bn{norm}', f'{theirs}.bn{number}')]
    return rules


def mobilenet_v2_torchvision(net: nn.Module) -> Rules:
    """block2 -> features.2: torchvision counts all blocks, and the layers within them."""
    rules: Rules = [('fc', 'classifier.1'), ('conv1', 'features.0.0'), ('bn1', 'features.0.1')]
    i = 0
    for expansion, _, count, _ in net.blocks:
        for _ in range(count):
            i += 1
            last = 2 if expansion > 1 else 1
            rules += [(f'block{i}/expand', f'features.{i}.conv.0.0'),
                      (f'block{i}/bn1', f'features.{i}.conv.0.1'),
                      (f'block{i}/depthwise', f'features.{i}.conv.{last - 1}.0'),
                      (f'block{i}/bn2', f'features.{i}.conv.{last - 1}.1'),
                      (f'block{i}/project', f'features.{i}.conv.{last}'),
                      (f'block{i}/bn3', f'features.{i}.conv.{last + 1}')]
    return [*rules, ('conv2', f'features.{i + 1}.0'), ('bn2', f'features.{i + 1}.1')]


def squeezenet(net: nn.Module) -> Rules:
    """fire2 -> features.3: torchvision counts layers, ReLUs and pools."""
    last = len(net.fires) + 2
    rules: Rules = [('conv1', 'features.0'), (f'conv{last}', 'classifier.1')]
    index = 2
    for i in range(1, last):
        if i > 1:
            rules += [(f'fire{i}/squeeze1x1', f'features.{index}.squeeze'),
                      (rf'fire{i}/(\w+)', rf'features.{index}.\1')]
            index += 1
        index += i in net.pools
    return rules


def inception_v1(net: nn.Module) -> Rules:
    """The names in lucent's code, which are those of the graph's layers before their ReLUs."""
    layer = {'1x1': '1x1', '3x3_reduce': '3x3_bottleneck', '3x3': '3x3',
             '5x5_reduce': '5x5_bottleneck', '5x5': '5x5', 'pool_proj': 'pool_reduce'}
    return [*((ours, f'conv2d{i}_pre_relu_conv')
              for i, ours in enumerate(('conv1', 'conv2_reduce', 'conv2'))),
            *((rf'inception_(\w\w)/{ours}', rf'mixed\1_{theirs}_pre_relu_conv')
              for ours, theirs in layer.items()), ('fc', 'softmax2_pre_activation_matmul')]


def of_graph(match: re.Match[str]) -> str:
    """lucent's name of a constant of the graph, softmax2_w or conv2d0_b."""
    layer = {'softmax2': 'softmax2_pre_activation_matmul'}.get(match[1],
                                                               f'{match[1]}_pre_relu_conv')
    return f'{layer}.{"weight" if match[2] == "w" else "bias"}'
