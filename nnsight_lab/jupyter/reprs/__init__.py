"""How our objects, and tensors, look in a notebook: HTML beside the plain text they have anyway.

    formatters.py  which object is shown how; `%load_ext` registers it, `%unload_ext` takes it back
    html.py        elements, escaped; what survives on GitHub and in notebooks not trusted
    trees.py       models and modules: a tree to unfold, search, and copy paths from
    graphs.py      a graph drawn as data flow, each node with its line
    layout.py      where its boxes stand
    runs.py        runs, caches, scanned shapes, recorded values: a table of values
    tensors.py     tensors: statistics, a heatmap, some values
    pictures.py    the heatmap, as a small PNG
    faults.py      errors, with the user's line among its neighbours
    failed_cells.py  a cell that ends in one of them
    labs.py        labs, their models, experiments

The rooms whose objects these are know nothing of it. Nothing here runs a model or asks a server.
"""

from nnsight_lab.jupyter.reprs.formatters import html_of, register_reprs, unregister_reprs

__all__ = ["html_of", "register_reprs", "unregister_reprs"]
