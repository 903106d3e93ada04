"""The same graph inside a vLLM worker: hooks that speak Hugging Face, row by row.

In vLLM's processes, one run after another step of the engine:

    extension.py   what vLLM's worker gains: the lab is installed by a call after start-up
    install.py     what is looked at and mended before that
    lab.py         whose rows a step holds; hooks where runs look
    run.py         one run: its parts, and what it tells the server
    laid.py        its graph along the model, worked out once for all that bring it
    part.py        one trace or generation: tokens, and when it is over
    moments.py     its moments, each reached when all its rows are there
    ahead.py       edits that need not wait for that
    sheets.py      what has come by of one moment so far
    axes.py        between rows and the axes of a place
    rows.py        which flat rows are whose
    texts.py       tokens as they grow
    reader.py      rows out of what modules hold, and back
    attention.py   patterns, made anew from q and k
    standing.py    before and after a module, however vLLM calls it
    hosting.py     what is no moment of the forward pass: calls and weights
    calls.py       modules called out of their order
    routes.py      where in vLLM's model such a call goes
    checkpoint.py  weights as the checkpoint has them
    ranks.py       workers that share each layer
    leftovers.py   what a run leaves in vLLM's cache, emptied
    relay.py       workers that have some layers each
    survey.py      what every module holds, and what edits do, before anybody is served

Between them and the server:

    forms.py         where in vLLM's model an address of the Hugging Face model is
    plan.py          what a run brings to the worker
    messages.py      what a worker says of it
    parcels.py       messages as bytes
    channel.py       the way they go
    served_bytes.py  what a worker is told of its model, as bytes
    calling.py       which modules may be called, as bytes
    pipeline.py      which stage edits what, and what it cannot

In the server, when a model is about to be served:

    options.py       how vLLM is started
    driver.py        vLLM, driven: async_driver.py in processes of its own, one_process.py here
    halting.py       a start that is given up
    reference.py     what Hugging Face says on a few prompts, read and edited
    discover.py      forms found by comparing numbers
    probe.py         which of them take an edit as Hugging Face does
    order.py         and so that whatever comes later sees it
    certify.py       all of it, for one model
    patterns.py      attention patterns, compared as they are served
    certificate.py   what was found, kept as JSON
    served.py        the card and the forms that follow from it
    comparing.py     with what it is compared: the whole model, or
    twin.py          a small model of the same kind, for one too large to hold twice
    layers.py        which of its layers stands for which of the large one
    twin_tree.py     its module tree, as that of the large one
    big.py           the large one, described by these
    knowing.py       one of these after another

Nothing of vLLM is subclassed, forked or patched; what the worker gains hangs on its own objects.
"""

__all__: list[str] = []
