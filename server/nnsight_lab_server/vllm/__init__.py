"""The same graph inside a vLLM worker: hooks that speak Hugging Face, row by row.

In vLLM's processes:

    extension.py  what vLLM's worker gains: the lab is installed by a call after start-up
    forms.py      where in vLLM's model an address of the Hugging Face model is found
    survey.py     what every module holds, and what edits do, before anybody is served

In the server, when a model is about to be served:

    reference.py    what Hugging Face says on a few prompts, read and edited
    discover.py     forms found by comparing numbers
    probe.py        which of them take an edit as Hugging Face does
    order.py        and so that whatever comes later sees it
    certify.py      all of it, for one model
    certificate.py  what was found, kept as JSON
    served.py       the card and the forms that follow from it

Nothing of vLLM is subclassed, forked or patched; what the worker gains hangs on its own objects.
"""

__all__: list[str] = []
