"""SSIMULACRA 2.1: how visible the differences are, on a scale that people's judgements were fitted to.

Its authors' words for the scale: 90 cannot be told from the original in a flicker test, 80 not side by side, 70 hardly
without the original, 50 is medium quality, and below 0 the distortion is very strong.

It computes what the authors' program does. That program blurs by a recursive float32 filter, whose rounding adds up
along rows and columns: its values above 80 are lower by .1 at 128 px a side, .3 at 256 px and 1 at 1024 px (the median;
up to 5 where areas are flat). With that filter made exact, both agree within .05 up to 97 points. Float32 moves
values above 75 by under .005 points, because the difference of the pictures is taken before anything else.

Pictures under 113 px a side have fewer than six scales. Each norm then keeps its own weight; the authors' program gives
weights to norms in the order it has them, which is another metric at each number of scales.
"""

import torch
from torch import Tensor

from ..images import srgb_to_linear
from .local_statistics import local_statistics
from .metric import Metric
from .xyb import linear_to_positive_xyb

SCALES = 6
LEAST_SIDE_PX = 8

# Per channel, from the finest scale to the coarsest: the weights of the mean of the three maps (structure, added edges,
# lost edges), then of their 4-norm. Tuned by the authors; to 12 digits.
_WEIGHTS = (
    (  # X
        ((0.0, 0.000737660670741, 0.0), (0.0, 0.000779348168287, 0.0)),
        ((0.0, 0.000437115573011, 0.0), (1.10417264267, 0.000662848341293, 0.000152316327837)),
        ((0.0, 0.00164064374566, 0.0), (1.84224555205, 11.4411726038, 0.0)),
        ((0.000798910943602, 0.000176816438079, 0.0), (1.87875949795, 10.9490699061, 0.0)),
        ((0.000728934699151, 0.967793708063, 0.0), (0.000140034242854, 0.998176697785, 0.000319497559344)),
        ((0.000455099211379, 0.0, 0.0), (0.00136487661632, 0.0, 0.0)),
    ),
    (  # Y
        ((0.0, 0.0, 0.0), (7.46689032808, 0.0, 17.4458339841)),
        ((0.000623560163404, 0.0, 0.0), (6.68367814618, 0.000377244079796, 1.02788993777)),
        ((225.205153008, 0.0, 0.0), (19.2132381861, 0.00114015245866, 0.00123775563551)),
        ((176.393175985, 0.0, 0.0), (24.4330099987, 0.285208026121, 0.000448543692383)),
        ((0.0, 0.0, 0.0), (34.7790634448, 44.8356253289, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ),
    (  # B - Y
        ((0.0, 0.000868055657329, 0.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.000531319187436, 0.0), (0.000165338141614, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.000417917180325, 0.00172908282347, 0.0)),
        ((0.00208270058466, 0.0, 0.0), (8.826982765, 23.19243344, 0.0)),
        ((95.1080498811, 0.98639780344, 0.983438279247), (0.00122864050483, 171.26672559, 0.980785887244)),
        ((0.0, 0.0, 0.0), (0.000513006458899, 0.0, 0.000108540578584)),
    ),
)
_STRUCTURE_C = 0.0009

# The Gaussian of sigma 1.5 px from its centre outwards, as three truncated cosines (Charalampidis 2016,
# doi:10.1109/TSP.2016.2549985, radius 5): sum 1 and variance 2.25, like the filter of the authors' program.
_KERNEL = (0.2646211054881985, 0.2129285920104222, 0.1093353727774603, 0.0360111146583644, 0.0094143678096537)


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    # One at a time: the maps of a 1024 px picture are 4 MiB each.
    pairs = zip(reference_BCHW.split(1), candidate_BCHW.split(1), strict=True)
    return torch.stack([_points(_error(reference, candidate)) for reference, candidate in pairs])


def _error(reference_1CHW: Tensor, candidate_1CHW: Tensor) -> Tensor:
    """The weighted sum of all norms, float64; 0 for equal pictures."""
    total = torch.zeros((), dtype=torch.float64)
    if torch.equal(reference_1CHW, candidate_1CHW):  # a value's rounding depends on its place in a tensor
        return total
    linear = srgb_to_linear(torch.cat([reference_1CHW, candidate_1CHW]))
    for scale in range(SCALES):
        # The size is looked at before it is halved, as in the authors' program: the coarsest scale may have 4 px.
        if min(linear.shape[2:]) < LEAST_SIDE_PX:
            break
        if scale > 0:
            linear = _halve(linear)
        xyb = linear_to_positive_xyb(linear)
        for channel, scales in enumerate(_WEIGHTS):
            norms = _norms(*xyb[:, channel])
            total = total + (norms * torch.tensor(scales[scale], dtype=torch.float64)).sum()
    return total


def _norms(x_HW: Tensor, y_HW: Tensor) -> Tensor:
    """One channel of both -> (2, 3) float64: mean and 4-norm of the maps structure, added edges, lost edges."""
    # Beyond the edges is 0, as in the authors' program.
    padding = (len(_KERNEL) - 1,) * 4
    padded_x, padded_y = (torch.nn.functional.pad(plane, padding) for plane in (x_HW, y_HW))
    local = local_statistics(padded_x, padded_y, _KERNEL)
    # The program's 1 - luminance * (2 cov + C) / (var x + var y + C), without the 1 that all but cancels.
    structure = local.variance_difference.div_(local.variances.add_(_STRUCTURE_C))
    shade = local.mean_difference.square()
    structure = structure.addcmul_(structure, shade, value=-1).add_(shade).clamp_min_(0)
    # Its (1 + |y - mean y|) / (1 + |x - mean x|) - 1, likewise.
    before = x_HW - local.mean_x
    after = (before + (y_HW - x_HW)).sub_(local.mean_difference).abs_()
    before.abs_()
    edges = (after - before).div_(before.add_(1))
    maps_3HW = (structure, edges.clamp_min(0), edges.neg_().clamp_min_(0))
    norms_32 = torch.stack([torch.stack((plane.mean(), _mean_of_4th_powers(plane))) for plane in maps_3HW]).double()
    return torch.stack((norms_32[:, 0], norms_32[:, 1] ** 0.25))


def _mean_of_4th_powers(plane_HW: Tensor) -> Tensor:
    squares = plane_HW.square()
    return squares.square_().mean()


def _points(error: Tensor) -> Tensor:
    """The authors' polynomial from the weighted sum to points; 100 for none."""
    error = 0.9562382616834844 * error
    error = 2.326765642916932 * error - 0.020884521182843837 * error**2 + 6.248496625763138e-05 * error**3
    return 100 - 10 * error.clamp_min(0) ** 0.6276336467831387


def _halve(linear_BCHW: Tensor) -> Tensor:
    """Means of 2 x 2 px in linear light; an odd last row or column counts twice."""
    padding = (0, linear_BCHW.shape[3] % 2, 0, linear_BCHW.shape[2] % 2)
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(linear_BCHW, padding, mode="replicate"), 2)


metric = Metric(
    name="ssimulacra2",
    unit="points",
    higher_is_better=True,
    best=100.0,
    summary="SSIMULACRA 2.1, visibility of differences: 90 not seen in a flicker test, 80 not side by side",
    source="Sneyers, https://github.com/cloudinary/ssimulacra2, version 2.1",
    compute=_compute,
)
