"""The convolution as a product with a matrix, and the eigenvalues of periodic ones."""

import numpy as np
from scipy import linalg

from cnnjax import plots, toeplitz
from experiments.convolution import slides
from experiments.convolution.checks import correlate, equal
from experiments.convolution.kernels import square

LINE = np.array([1.0, 2, 3])  # g(-1), g(0), g(1)
RANDOM = ((9,), 3), ((5, 6), 3), ((4, 5, 6), 2)  # (shape of the input, side of the kernel)


def part(config, figures):
    """The rows of this part; draws matrices.png."""
    kernel, shape = square(config.kernel), (config.matrix_size,) * 2
    half, counted = len(kernel) // 2, np.arange(1, kernel.size + 1).reshape(kernel.shape)
    zeros = toeplitz.matrix(kernel, shape, half)
    rounds = toeplitz.circulant(kernel, shape)
    values = toeplitz.eigenvalues(kernel, shape)
    rng = np.random.default_rng(config.seed)
    x = rng.normal(size=shape)
    line = toeplitz.matrix(np.flip(LINE), (6,), 2)
    signal = np.arange(1.0, 7)
    waves = np.kron(*[linalg.dft(n).conj() for n in shape])
    wrapped = correlate(np.pad(x, half, 'wrap'), kernel)
    rows = [
        equal('Toeplitz matrix of a full 1-D convolution, N = 6, kernel −1 ... 1', line @ signal,
              correlate(signal, np.flip(LINE), 2), 'lax'),
        equal('doubly block Toeplitz: zero padding', zeros @ x.ravel(),
              correlate(x, kernel, half).ravel(), 'lax'),
        equal('doubly block circulant: periodic padding', rounds @ x.ravel(), wrapped.ravel(),
              'lax'),
        equal('waves are eigenvectors, with the 2-D DFT of the kernel', rounds @ waves,
              waves * values.ravel(), 'the matrix times each wave',
              shown=f'{len(waves)} waves'),
        equal('the sum of the moduli of the eigenvalues', np.abs(values).sum(),
              np.abs(linalg.eigvals(rounds)).sum(), 'scipy.linalg.eigvals'),
        equal('periodic convolution = product of DFTs',
              np.fft.ifft2(values * np.fft.fft2(x)).real, wrapped, 'lax'),
        equal('weights of a full layer of this size', zeros.size, x.size ** 2, 'pixels squared'),
        equal('... if each unit sees its neighbourhood only', np.count_nonzero(
            toeplitz.matrix(np.ones_like(kernel), shape, half)),
            correlate(np.ones(shape), np.ones_like(kernel), half).sum(), 'lax of ones'),
        equal('... if all share theirs, as in a convolution', np.count_nonzero(np.unique(
            toeplitz.matrix(counted, shape, half))), kernel.size, 'size of the kernel'),
        *(_random(rng, *case, *setting) for case in RANDOM for setting in (
            (1, 1, 1), (1, 2, 1), (2, 1, 2), (2, 2, 2)))]
    difference = max(row.difference for row in rows if row.against == 'lax')
    draw(kernel, zeros, rounds, values, difference, figures / 'matrices.png')
    return rows


def _random(rng, shape, size, padding, stride, dilation):
    """The matrix of a random kernel, of any number of axes."""
    x, kernel = rng.normal(size=shape), rng.normal(size=(size,) * len(shape))
    matrix = toeplitz.matrix(kernel, shape, padding, stride, dilation)
    return equal(f'matrix in {len(shape)}-D, p = {padding}, s = {stride}, d = {dilation}',
                 matrix @ x.ravel(), correlate(x, kernel, padding, stride, dilation).ravel(), 'lax')


def draw(kernel, zeros, rounds, values, difference, path):
    figure, axes = slides.slide('A convolution is a product with a matrix')
    line = toeplitz.matrix(np.flip(LINE), (6,), 2)
    slides.say(axes, 2.2, 1.25, '1-D: Toeplitz', 17, weight='bold')
    colors = {0: 'white'} | dict(zip(LINE, (slides.INPUT, slides.KERNEL, slides.OUTPUT),
                                     strict=True))
    texts = {0: '', 1: 'g₋₁', 2: 'g₀', 3: 'g₁'}
    slides.grid(axes, 0.4, 1.6, np.vectorize(texts.get, otypes=[object])(line), 0.45,
                np.vectorize(colors.get, otypes=[object])(line), 15)
    slides.say(axes, 3.3, 3.4, '×', 20)
    slides.grid(axes, 3.5, 2.05, [[f'f{"₁₂₃₄₅₆"[i]}'] for i in range(6)], 0.45, slides.INPUT, 15)
    for left, matrix, heading in ((4.5, zeros, '2-D: doubly block Toeplitz'),
                                  (8.95, rounds, 'periodic: doubly block circulant')):
        slides.say(axes, left + 2.05, 1.25, heading, 17, weight='bold')
        _draw_matrix(axes, left, 1.6, 4.1, matrix)
    slides.say(axes, 0.4, 6.0, 'kernel', 15, 'left')
    slides.grid(axes, 1.3, 5.85, kernel, min(1.3 / len(kernel), 0.42), slides.signed(kernel))
    different = np.count_nonzero(np.unique(zeros))
    slides.say(axes, 2.75, 6.5, f'{zeros.size} entries:\n{np.count_nonzero(zeros)} are not zero,\n'
               f'{different} of them different;\nlax differs by {difference:.0e}', 14, 'left')
    _draw_eigenvalues(figure, values, rounds)
    plots.save(figure, path)


def _draw_matrix(axes, left, top, side, matrix):
    axes.imshow(slides.signed(matrix), extent=(left, left + side, top + side, top),
                aspect='auto', interpolation='nearest')
    blocks = round(len(matrix) ** 0.5)
    for i in range(blocks + 1):
        place = i * side / blocks
        axes.plot([left, left + side], [top + place] * 2, color='0.5', linewidth=0.8)
        axes.plot([left + place] * 2, [top, top + side], color='0.5', linewidth=0.8)


def _draw_eigenvalues(figure, values, rounds):
    """The moduli, sorted, by the Fourier transform and by a solver that knows nothing of it."""
    axes = slides.plot(figure, 6.0, 6.05, 7.05, 0.85)
    solved = np.sort(np.abs(linalg.eigvals(rounds)))[::-1]
    axes.plot(solved, 'o', color='0.7', markersize=7, label='eigenvalues')
    axes.plot(np.sort(np.abs(values).ravel())[::-1], '.', color=slides.FIRST, markersize=5,
              label='DFT of the kernel')
    axes.legend(frameon=False, fontsize=12, loc='upper right', borderpad=0, labelspacing=0.1,
                handletextpad=0.1)
    axes.set_ylabel('|λ|', fontsize=14)
    axes.set_xlabel('rank', fontsize=13, labelpad=-1)
    axes.set_ylim(-0.08 * solved[0], 1.12 * solved[0])
