"""99th percentile of the colour difference: the colour error of the most changed hundredth of the picture."""

from torch import Tensor

from .ciede2000 import delta_e_map
from .metric import Metric


def _compute(delta_e_BHW: Tensor) -> Tensor:
    delta_e_BN = delta_e_BHW.flatten(1)
    # kthvalue and not quantile, which refuses more than 2**24 values (a 4096 px picture has that many).
    return delta_e_BN.kthvalue(-(-99 * delta_e_BN.shape[1] // 100), dim=1).values


metric = Metric(
    name="delta_e_p99",
    unit="CIEDE2000",
    higher_is_better=False,
    best=0.0,
    summary="99th percentile of CIEDE2000 over the pixels",
    source="Sharma, Wu & Dalal 2005, doi:10.1002/col.20070",
    compute=_compute,
    shared=delta_e_map,
)
