"""What a researcher holds: models to trace with, and the runs they give.

    language_model.py  LanguageModel: prompts in, standard names, local or on a server
    wrap.py            wrap: any torch module
    compiled.py        modules that `torch.compile` has wrapped
    options.py         options that `lm.trace` does not have
    traced.py          what both share: envoys, trace, run
    edits.py           edits that every trace of a model begins with
    edit_recorder.py   records them for prompts of any size
    scans.py           a block that is recorded and not run
    run.py             Run: saved names to tensors, and its views
    collected.py       what the events of a run add up to
    background.py      runs that go on behind
    deadline.py        runs that take too long
    differences.py     what two runs saved, compared
    progress.py        how far a run is
    following.py       showing it: whoever shows it, and the line of a terminal
    under_way.py       runs that have not ended: who watches them, and cancelling one
    latest.py          Latest: of what is wanted faster than it runs, the newest only
    experiment.py      Experiment: a graph with its inputs, as a file and back
    explained.py       what running an experiment would do
    stored_inputs.py   inputs as plain data and bytes
    trusted.py         local functions as bytes: the one place where bytes become code
    prompts.py         text, ids and tensors to rows of token ids
    generation.py      the options of `lm.generate`
    at_the_line.py     errors as they leave the package
    lab.py             connect: the models of a lab's server
    tiny/              the bundled model, and how it was trained

How a run is carried out is not known here; that is an `Executor`.
"""

__all__: list[str] = []
