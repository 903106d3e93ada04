"""The same graph inside a vLLM worker: hooks that speak Hugging Face, row by row.

In vLLM's processes:

    extension.py  what vLLM's worker gains: the lab is installed by a call after start-up
    forms.py      where in vLLM's model an address of the Hugging Face model is found

Nothing of vLLM is subclassed, forked or patched; what the worker gains hangs on its own objects.
"""

__all__: list[str] = []
