"""The few functions a printed program may need beside torch's, as text. Only what is used goes in."""

from __future__ import annotations

__all__ = ["IMPORTS", "SNIPPETS"]

IMPORTS: dict[str, tuple[str, ...]] = {
    "constant": ("import base64",),
    "attention_hooks": ("import sys", "from contextlib import contextmanager"),
    "with_item": ("import copy",),
}
"""What a snippet imports."""

SNIPPETS: dict[str, str] = {
    "constant": '''\
def constant(name):
    """A tensor from the end of this file."""
    dtype, shape, text = DATA[name]
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype).reshape(shape)
''',
    "copied": '''\
def copied(value):
    """Copies of all tensors in tuples, lists and dicts: the model may write into its own."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)):
        return type(value)(map(copied, value))
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return value
''',
    "with_item": '''\
def with_item(container, key, value):
    """A copy of a tuple, list or dict with one item replaced."""
    if isinstance(container, (tuple, list)):
        items = list(container)
        items[key] = value
        return type(container)(items)
    changed = copy.copy(container)
    changed[key] = value
    return changed
''',
    "first_input": '''\
def first_input(args, kwargs):
    """The first tensor a module is given, by place or by keyword."""
    if args:
        return args[0]
    return next(item for item in kwargs.values() if isinstance(item, torch.Tensor))
''',
    "with_first_input": '''\
def with_first_input(args, kwargs, new):
    """What a module is given, with another first tensor."""
    if args:
        return (new, *args[1:]), kwargs
    name = next(name for name, item in kwargs.items() if isinstance(item, torch.Tensor))
    return args, {**kwargs, name: new}
''',
    "attention_hooks": '''\
@contextmanager
def attention_hooks(model, at_qkv, at_pattern):
    """Call these functions inside the attention of modules, while the block runs.

    at_qkv: by module, a function from (query, key, value) to what is used instead.
    at_pattern: by module, a function from the post-softmax pattern to what is used instead. Only
    eager attention has a pattern, so these modules run the eager attention of their family.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    base = model.config._attn_implementation

    def attention(module, query, key, value, attention_mask, **options):
        eager = sys.modules[type(module).__module__].eager_attention_forward
        plain = eager if base == "eager" else ALL_ATTENTION_FUNCTIONS[base]
        if module in at_qkv:
            query, key, value = at_qkv[module](query, key, value)
        if module not in at_pattern:
            return plain(module, query, key, value, attention_mask, **options)
        output, pattern = eager(module, query, key, value, attention_mask, **options)
        edited = at_pattern[module](pattern)
        if edited is not pattern:
            groups = query.shape[1] // value.shape[1]
            heads = value.repeat_interleave(groups, dim=1) if groups > 1 else value
            output = torch.matmul(edited.to(heads.dtype), heads).transpose(1, 2).contiguous()
        return output, edited if base == "eager" else None

    mask = ALL_MASK_ATTENTION_FUNCTIONS["eager" if at_pattern else base]
    AttentionInterface.register("with_hooks", attention)
    AttentionMaskInterface.register("with_hooks", mask)
    configs = {id(c): c for c in (model.config, *(m.config for m in (*at_qkv, *at_pattern)))}
    try:
        for config in configs.values():
            config._attn_implementation_internal = "with_hooks"
        yield
    finally:
        for config in configs.values():
            config._attn_implementation_internal = base
''',
}
"""By the name a program calls them."""
