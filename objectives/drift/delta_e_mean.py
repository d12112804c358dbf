"""Mean colour difference: what structure metrics cannot see is a cast over the whole picture."""

from torch import Tensor

from .ciede2000 import delta_e_map
from .metric import Metric


def _compute(delta_e_BHW: Tensor) -> Tensor:
    return delta_e_BHW.mean(dim=(1, 2))


metric = Metric(
    name="delta_e_mean",
    unit="CIEDE2000",
    higher_is_better=False,
    best=0.0,
    summary="mean CIEDE2000 of the pixels",
    source="Sharma, Wu & Dalal 2005, doi:10.1002/col.20070",
    compute=_compute,
    shared=delta_e_map,
)
