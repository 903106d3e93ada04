"""The notebook: magics, figures, and how a run is shown. Imported only inside one.

    magics.py     %%trace and %nnl
    line.py       the line of a magic, read
    body.py       the cell below it, run as the body of a trace
    lowering.py   `if`, `for` and `while` of a cell, for recorded values
    flow.py       what a lowered cell asks while it runs
    variables.py  its variables around a branch; carried.py, those that a loop carries
    figures.py    run.fig: Plotly figures
    axes.py       how large they are, and which labels fit
    channel.py    a view's wire to Python, which works while a cell runs; channel.js, its other end
    static.py     the same pictures without JavaScript, for saved notebooks
    sidebar.py    the kernel's end of the labextension: run_log.py, model_rows.py, server_watch.py

Notebook code draws and calls back; it holds no model and knows no server.
"""

__all__: list[str] = []
