"""What a trial's row has of the visits of requests and of changes of adapters; see `_stored`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


class Visit(_Stored):
    """One call of an entry of load()."""

    entry: str
    kind: str
    calls: Annotated[int, Field(ge=1)]
    batch: int | None
    width_px: int | None
    height_px: int | None
    steps: Annotated[int, Field(ge=0)]
    guided: bool | None
    adapters: list[str]


class SwapsOfShape(_Stored):
    """The same for the requests that cost the same."""

    requests: list[str]
    stall_ms: Annotated[float, Field(ge=0)]


class Swaps(_Stored):
    """What changes of adapters cost, within a trace."""

    n: Annotated[int, Field(ge=0)]
    recompiles: Annotated[int, Field(ge=0)]
    recaptures: Annotated[int, Field(ge=0)]
    by_shape: list[SwapsOfShape]
