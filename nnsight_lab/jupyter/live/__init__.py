"""Live views: sliders under the hand, tokens and values while the model runs.

view.py       one view: what it is told, and what stands in for it; live.js and live.css draw it
moving.py     `run.live()`: a run's sliders, and a picture that follows them
pictures.py   what a run looks like when nobody says how it should
following.py  `%%trace --live` and `nl.live_plot`: a view that follows a run
"""

__all__: list[str] = []
