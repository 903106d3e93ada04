"""Which of PyTorch's operators are pure and dense, and which of those cannot be recorded yet.

Names are those of PyTorch's own operator database (`op_db`), or of methods where an operator is
fine and one way of calling it is not. Every operator that is named in neither table must pass.
"""

from __future__ import annotations

from functools import cache

__all__ = ["NOT_PURE_AND_DENSE", "NOT_YET", "left_out"]

NOT_PURE_AND_DENSE: dict[str, str] = {
    "random: it draws from a generator that no graph names": """
        bernoulli cauchy exponential geometric log_normal multinomial uniform
        nn.functional.alpha_dropout nn.functional.dropout nn.functional.dropout2d
        nn.functional.dropout3d nn.functional.feature_alpha_dropout.with_train
        nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool3d
        nn.functional.rrelu normal normal.in_place normal.number_mean pca_lowrank rand_like
        randint randint_like randn randn_like svd_lowrank""",
    "uninitialised memory: it may hold another run's values": """
        empty empty_like empty_permuted empty_strided new_empty new_empty_strided resize_
        resize_as_""",
    "reaches into a tensor's storage, past its shape": """
        as_strided as_strided.partial_views as_strided_copy as_strided_scatter""",
    "sparse tensors": "sparse.mm.reduce sparse.sampled_addmm to_sparse",
    "gives Python a truth or a number at once, not a tensor": "allclose equal item",
    "no tensor goes in: it runs at once, and its result is a constant of the graph": """
        arange broadcast_shapes eye full linspace logspace ones scalar_tensor
        signal.windows.bartlett signal.windows.blackman signal.windows.cosine
        signal.windows.exponential signal.windows.gaussian signal.windows.general_cosine
        signal.windows.general_hamming signal.windows.hamming signal.windows.hann
        signal.windows.kaiser signal.windows.nuttall zeros""",
    "private to PyTorch: an underscore, or only in torch.ops, below what can be overridden": """
        _batch_norm_with_update _chunk_cat _native_batch_norm_legit _softmax_backward_data
        _unsafe_masked_index _unsafe_masked_index_put_accumulate _upsample_bilinear2d_aa
        max_pool2d_with_indices_backward native_dropout_backward slice
        torch.ops.aten._safe_softmax.default""",
    "compiles CUDA source": """
        jiterator_2inputs_2outputs jiterator_4inputs_with_extra_args jiterator_binary
        jiterator_binary_return_by_ref jiterator_unary""",
    "takes a Python function as an argument": "nn.functional.triplet_margin_with_distance_loss",
    "turns one view of a tensor and no other; the form without underscore is walked": """
        Tensor.squeeze_ Tensor.swapaxes_ Tensor.swapdims_ Tensor.t_ Tensor.transpose_
        Tensor.unsqueeze_""",
}
"""Reason to names. A graph does not promise these."""

NOT_YET: dict[str, str] = {
    "_segment_reduce.lengths": "torch.segment_reduce reads past its tensor when offsets are wrong",
    "_segment_reduce.offsets": "torch.segment_reduce reads past its tensor, as above",
    "chalf": "its complex32 result does not travel",
    "hash_tensor": "its uint64 result does not travel",
    "native_batch_norm": "in evaluation its saved statistics have another shape on each device",
    "nn.functional.linear_cross_entropy.chunked": "takes an options object a graph cannot hold",
    "nn.functional.linear_cross_entropy.chunked_none": "takes an options object, as above",
    "tensor_split": "with the number of parts in a tensor, it cannot be unpacked while recording",
}
"""Operators that are pure and dense, and still cannot be recorded in every way, with the reason."""


@cache
def _left_out() -> frozenset[str]:
    return frozenset(name for names in NOT_PURE_AND_DENSE.values() for name in names.split())


def left_out(name: str) -> bool:
    """Whether an operator, or one way of calling it, is outside what a graph promises."""
    return name in _left_out()
