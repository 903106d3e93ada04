"""The deny-list: functions PyTorch lets us override that a graph must not call, with reasons.

Patterns are shell patterns over op names (`Tensor.add`, `torch.stack`). What is not listed here
and is on PyTorch's own list of overridable functions is in the op table.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

__all__ = ["DENIED", "denied_because", "instead_of"]

DENIED: dict[str, tuple[str, ...]] = {
    "randomness without a seed of its own": (
        "*.bernoulli*",
        "*.binomial",
        "*.cauchy_",
        "*.exponential_",
        "*.geometric_",
        "*.log_normal_",
        "*.multinomial",
        "*.normal_",
        "*.poisson",
        "*.random_",
        "*.uniform_",
        "*dropout*",
        "*.rrelu*",
        "*.rand_like",
        "*.randn_like",
        "*.randint_like",
        "*.fractional_max_pool*",
        "*.gumbel_softmax",
        "torch.normal",
        "*.lobpcg",
        "*.svd_lowrank",
        "*.pca_lowrank",
    ),
    "uninitialised memory may hold another run's values": (
        "*.empty_like",
        "*.new_empty*",
        "*.resize*",
        "*.sparse_resize*",
    ),
    "reaches behind the tensor it is given: storage, addresses, other rows": (
        "*.as_strided*",
        "*.set_",
        "*.is_set_to",
        "*data_ptr",
        "*.storage*",
        "*.untyped_storage",
        "Tensor.data",
        "*.record_stream",
        "*.is_shared",
        "*.share_memory_",
        "*.pin_memory",
        "*.is_pinned",
        "*.module_load",
        "*.__cuda_array_interface__",
        "*.__dlpack*",
        "*.slice_inverse",
        "*.map_",
        "*.map2_",
        "*.apply_",
        "*._*",
    ),
    "its result has a dtype that does not travel (uint64, complex32)": (
        "*.hash_tensor",
        "*.chalf",
    ),
    "Python protocol, not a computation; the recorder gives these their own meaning": (
        "*.__array__",
        "*.__array_wrap__",
        "*.__bool__",
        "*.__complex__",
        "*.__contains__",
        "*.__deepcopy__",
        "*.__float__",
        "*.__format__",
        "*.__index__",
        "*.__int__",
        "*.__len__",
        "*.__long__",
        "*.__nonzero__",
        "*.__reduce_ex__",
        "*.__repr__",
        "*.__setstate__",
        "*.__getitem__",
        "*.__setitem__",
        "*.__iter__",
        "*.__div__",
        "*.index",
        "*.item",
        "*.tolist",
        "*.numpy",
        "*.type",
        "*.is_nonzero",
        "*.equal",
        "*.allclose",
        "*.is_same_size",
        "torch.sym_*",
        "torch.autocast",
        "*.get_device",
        "*.int_repr",
    ),
    "turns one view of a tensor and no other; the form without underscore gives the turned one": (
        "*.squeeze_",
        "*.unsqueeze_",
        "*.t_",
        "*.transpose_",
        "*.swapaxes_",
        "*.swapdims_",
    ),
    "gradients have their own nodes": (
        "*.backward",
        "*.register_hook",
        "*.register_post_accumulate_grad_hook",
        "*.requires_grad*",
        "*.retain_grad",
        "*.retains_grad",
        "*.grad",
        "*.grad_fn",
        "*.grad_dtype",
        "*.is_leaf",
        "*.output_nr",
        "*.volatile",
        "*.name",
        "*.detach_",
    ),
    "device or process control; values stay on the model's device": (
        "*.cuda",
        "*.xpu",
        "*.ipu",
        "*.mtia",
        "*.to_mkldnn",
        "torch.miopen*",
        "torch.cudnn*",
        "*.is_cpu",
        "*.is_cuda",
        "*.is_ipu",
        "*.is_maia",
        "*.is_meta",
        "*.is_mkldnn",
        "*.is_mps",
        "*.is_mtia",
        "*.is_vulkan",
        "*.is_xla",
        "*.is_xpu",
        "*.is_distributed",
        "*.device",
        "*.cpu",
    ),
    "sparse, nested and quantised tensors do not travel": (
        "*sparse*",
        "*.coalesce",
        "*.is_coalesced",
        "*.indices*",
        "*.values*",
        "*.col_indices*",
        "*.crow_indices*",
        "*.ccol_indices*",
        "*.row_indices*",
        "*.to_dense",
        "*.dense_dim",
        "*.hspmm",
        "*.smm",
        "*.spmm",
        "*.is_nested",
        "*.is_quantized",
        "*quantize*",
        "*.q_*",
        "*.qscheme",
        "torch.fbgemm_*",
        "torch.quantized_*",
        "*fake_quant*",
        "*.choose_qparams*",
        "*.sspaddmm",
        "torch.saddmm",
        "torch.dsmm",
        "torch.hsmm",
        "torch.native_norm",
    ),
    "recurrent cells and fused training kernels; call the model's own modules instead": (
        "torch.gru*",
        "torch.lstm*",
        "torch.rnn_*",
        "torch.batch_norm_*",
        "torch.native_batch_norm",
        "torch.norm_except_dim",
        "torch._*",
        "torch.nn.functional._*",
    ),
}
"""Reason to patterns."""


def denied_because(name: str) -> str | None:
    """The reason `name` is denied, or None when it is allowed."""
    tail = name.rsplit(".", 1)[-1]
    dunder = tail.startswith("__") and tail.endswith("__")
    for reason, patterns in DENIED.items():
        for pattern in patterns:
            private = pattern.endswith("._*")
            if private and dunder:
                continue
            if fnmatchcase(name, pattern):
                return reason
    return None


_INSTEAD = {
    "randomness without a seed of its own": (
        "Draw before the graph: torch.randn(value.shape, generator=…) is a constant of it."
    ),
    "gradients have their own nodes": (
        "with loss.backward(): value.grad is there for every value; value.detach() has none."
    ),
}
_INSTEAD_OF = {
    "Tensor.data": "Use the value itself, or value.detach() for one without gradient.",
    "torch.autograd.grad": _INSTEAD["gradients have their own nodes"],
}


def instead_of(name: str) -> str:
    """What to write instead of a denied operation; empty where only the nearest can be named."""
    return _INSTEAD_OF.get(name) or _INSTEAD.get(denied_because(name) or "", "")
