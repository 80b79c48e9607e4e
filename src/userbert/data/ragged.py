"""Array types, and arrays of unequal lengths as flat values with offsets.

A ragged array of B lists is one flat array and `offsets` (B + 1,): list i is
`values[offsets[i]:offsets[i + 1]]`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
"""float32 or float64."""
Bools = NDArray[np.bool_]
