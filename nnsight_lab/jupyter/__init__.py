"""The notebook: magics, figures, and how a run is shown. Imported only inside one.

    magics.py     %%trace and %nnl; commands.py, the words of %nnl
    line.py       the line of a magic, read
    chosen.py     the model that a cell uses, and its tracer
    recording.py  a cell recorded and run; shown.py, what is shown of it
    around.py     what options of the line hook in around a run
    late.py       the end of a cell whose run goes on in the background
    run_table.py  %nnl runs
    bar.py        the progress bar
    completion.py what Tab offers
    body.py       the cell below it, run as the body of a trace
    lowering.py   `if`, `for` and `while` of a cell, for recorded values
    flow.py       what a lowered cell asks while it runs
    variables.py  its variables around a branch; carried.py, those that a loop carries
    figures.py    run.fig: Plotly figures; figures_recipes.py, those of recipes;
                  figures_plots.py, lines and points; figures_views.py, what --show draws else;
                  figures_theme.py, how they look on a light and on a dark page
    axes.py       how large they are, and which labels fit
    reprs/        models, graphs, runs, tensors and errors, as a notebook shows them
    channel.py    a view's wire to Python, which works while a cell runs; channel.js, its other end
    live/         sliders, tokens and curves while the model runs
    sidebar.py    the kernel's end of the labextension: run_log.py, model_rows.py, server_watch.py
    static.py     the same pictures without JavaScript, for saved notebooks; static_plots.py,
                  lines and points; static_frame.py, the sheet they are drawn on

Notebook code draws and calls back; it holds no model and knows no server.
"""

__all__: list[str] = []
