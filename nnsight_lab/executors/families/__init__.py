"""Standard names of each model family: where the field's words live in this architecture.

    table.py     a `Family` is data: the module paths behind `embed`, `layers`, `norm`, and the
                 parts of a block; a family nobody listed has module paths and `logits` only
    sizes.py     the sizes a configuration promises
    bindings.py  how a value is taken out (a tuple's first item, heads unflattened, q, k and v
                 inside the attention call), the same for all
    report.py    `NameReport`: which names a model has, which not and why

Whether a name holds on a loaded model is asked in `executors/certify.py`.
"""

from nnsight_lab.executors.families.bindings import Names, names_of
from nnsight_lab.executors.families.report import NameReport, names_in_tree
from nnsight_lab.executors.families.sizes import Sizes, sizes_of
from nnsight_lab.executors.families.table import FAMILIES, Family, family_of, model_type_of

__all__ = [
    "FAMILIES",
    "Family",
    "NameReport",
    "Names",
    "Sizes",
    "family_of",
    "model_type_of",
    "names_in_tree",
    "names_of",
    "sizes_of",
]
