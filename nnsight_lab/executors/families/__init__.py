"""Standard names of each model family: where the field's words live in this architecture.

A `Family` is data: the module paths behind `embed`, `layers`, `norm`, and the parts of a block.
How a value is taken out (a tuple's first item, heads unflattened, q/k/v inside the attention call)
is the same for all and lives in `bindings.py`. A family nobody listed has module paths only.
"""

from nnsight_lab.executors.families.bindings import standard_bindings, standard_modules
from nnsight_lab.executors.families.table import FAMILIES, Family, family_of

__all__ = ["FAMILIES", "Family", "family_of", "standard_bindings", "standard_modules"]
