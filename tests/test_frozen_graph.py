"""Frozen graphs of TensorFlow, written here by Google's own library of Protocol Buffers."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cnnjax import frozen_graph, weights
from cnnjax.errors import UserError

# message: {field: (number, type or message, repeated)}, as TensorFlow's core/framework has them.
PROTOCOL = {
    'Dim': {'size': (1, 'INT64', False)},
    'Shape': {'dim': (2, 'Dim', True)},
    'Tensor': {'dtype': (1, 'INT32', False), 'tensor_shape': (2, 'Shape', False),
               'tensor_content': (4, 'BYTES', False), 'float_val': (5, 'FLOAT', True)},
    'Value': {'type': (6, 'INT32', False), 'tensor': (8, 'Tensor', False)},
    'Entry': {'key': (1, 'STRING', False), 'value': (2, 'Value', False)},
    'Node': {'name': (1, 'STRING', False), 'op': (2, 'STRING', False),
             'input': (3, 'STRING', True), 'attr': (5, 'Entry', True)},
    'Graph': {'node': (1, 'Node', True)}}
NARROW = {'inceptions': (('3a', 5, 4, 6, 2, 4, 3), ('4a', 5, 4, 6, 2, 4, 3))}


@pytest.fixture(scope='module')
def graph():
    """The class of graphs."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='graph.proto', package='test', syntax='proto3')
    for message, fields in PROTOCOL.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = described.field.add(name=name, number=number, label=3 if repeated else 1)
            if kind in PROTOCOL:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f'.test.{kind}'
            else:
                field.type = getattr(kinds, f'TYPE_{kind}')
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('test.Graph'))


def add(graph, name, array, dtype=1, listed=False):
    node = graph.node.add(name=name, op='Const')
    node.attr.add(key='dtype').value.type = dtype
    tensor = node.attr.add(key='value').value.tensor
    tensor.dtype = dtype
    for side in np.shape(array):
        tensor.tensor_shape.dim.add(size=side)
    if listed:
        tensor.float_val.extend(np.ravel(array).tolist())
    else:
        tensor.tensor_content = np.asarray(array).tobytes()


def test_constants_and_their_layout(graph, tmp_path):
    made, random = graph(), np.random.default_rng(0)
    kernel, matrix = (random.normal(size=shape).astype('float32')
                      for shape in ((7, 5, 3, 200), (4, 6)))
    made.node.add(name='input', op='Placeholder')
    add(made, 'kernel', kernel)
    add(made, 'matrix', matrix, listed=True)
    add(made, 'axis', np.int32(3), dtype=3)
    add(made, 'same', np.zeros(5, 'float32'))
    same = made.node[-1].attr[-1].value.tensor
    same.tensor_content = b''
    same.float_val.append(0.5)  # for all five
    made.node.add(name='conv', op='Conv2D', input=['input', 'kernel'])
    path = tmp_path / 'graph.pb'
    path.write_bytes(made.SerializeToString())
    found = frozen_graph.read(path)
    assert list(found) == ['kernel', 'matrix', 'same']
    np.testing.assert_array_equal(found['kernel'], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(found['matrix'], matrix.T)
    np.testing.assert_array_equal(found['same'], np.full(5, 0.5, 'float32'))


def test_what_is_no_graph(graph, tmp_path):
    path, made = tmp_path / 'graph.pb', graph()
    add(made, 'kernel', np.zeros((2, 3), 'float32'))
    whole = made.SerializeToString()
    for content in (whole[:-1], whole[:20], b'\x0b', b'\xff' * 9, b'not a graph'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r'graph.pb is damaged or no frozen graph'):
            frozen_graph.read(path)
    for content in (b'', graph(node=made.node).SerializeToString().replace(b'Const', b'Xonst')):
        path.write_bytes(content)
        with pytest.raises(UserError, match='no constants of type float32'):
            frozen_graph.read(path)


def test_googles_graph_and_lucents_file_are_the_same_network(graph, tmp_path):
    """The graph also has auxiliary classifiers; a file of labels lies beside it."""
    random, made, tensors = np.random.default_rng(0), graph(), {}
    for name, shape in weights.layout('inception_v1', **NARROW).items():
        array = tensors[name] = random.normal(size=shape).astype('float32')
        layer, leaf = name.split('.')
        layer = layer.removesuffix('_pre_activation_matmul').removesuffix('_pre_relu_conv')
        kernel = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        add(made, f'{layer}_{leaf[0]}', kernel)
    assert {'conv2d0_pre_relu_conv.weight', 'conv2d2_pre_relu_conv.bias',
            'mixed4a_3x3_bottleneck_pre_relu_conv.weight', 'mixed3a_pool_reduce_pre_relu_conv.bias',
            'softmax2_pre_activation_matmul.weight'} < tensors.keys()
    for name in ('head0_bottleneck_w', 'nn1_b', 'softmax0_w'):
        add(made, name, np.zeros(2, 'float32'))
    (tmp_path / 'tensorflow_inception_graph.pb').write_bytes(made.SerializeToString())
    (tmp_path / 'lucent').mkdir()
    safetensors.numpy.save_file(tensors, tmp_path / 'lucent' / 'a.safetensors')
    (tmp_path / 'imagenet_comp_graph_label_strings.txt').write_text('dummy\nkit fox\n')
    google, lucent = (weights.load('inception_v1', tmp_path / file, **NARROW) for file in (
        'tensorflow_inception_graph.pb', 'lucent/a.safetensors'))
    assert jax.tree.all(jax.tree.map(np.array_equal, google.variables, lucent.variables))
    np.testing.assert_array_equal(
        google.variables['params']['fc']['kernel'],
        tensors['softmax2_pre_activation_matmul.weight'].T)
    assert (google.classes[:3], len(google.classes)) == (('dummy', 'kit fox', '2'), 1008)
    assert lucent.classes[1] == '1'
    images = np.uint8([[[0, 117, 255]]])
    np.testing.assert_allclose(google.normalize(images)[0, 0], [-117, 0, 138], atol=1e-4)
    assert weights.save(google, tmp_path / 'saved.safetensors') == 'lucent'
    saved = safetensors.numpy.load_file(tmp_path / 'saved.safetensors')
    assert all(np.array_equal(saved[name], array) for name, array in tensors.items())
