// The runs of the notebook in front, newest first. Rows are changed in place, so that one can be
// clicked while it counts.

import { button, element, setText } from './dom';
import { Run, hasEnded } from './messages';
import { bytes, progress, time } from './words';

export interface RunActions {
  cancel(run: Run): void;
  rerun(run: Run): void;
  reveal(run: Run): void;
  explore(run: Run): void;
}

interface Row {
  node: HTMLElement;
  update(run: Run): void;
}

export class RunList {
  readonly node = element('div', 'nnl-Runs');

  constructor(private readonly _actions: RunActions) {
    this.node.setAttribute('role', 'list');
    this.node.append(this._none);
  }

  show(runs: Iterable<Run>): void {
    const now = new Map([...runs].map(run => [run.id, run]));
    for (const [id, row] of this._rows) {
      if (!now.has(id)) {
        row.node.remove();
        this._rows.delete(id);
      }
    }
    for (const [id, run] of now) {
      let row = this._rows.get(id);
      if (row === undefined) {
        row = makeRow(run, this._actions);
        this._rows.set(id, row);
        this.node.prepend(row.node);
      }
      row.update(run);
    }
    this._none.hidden = now.size > 0;
  }

  private readonly _rows = new Map<string, Row>();
  private readonly _none = element('p', 'nnl-none', 'No runs yet. A %%trace cell is one.');
}

function makeRow(first: Run, actions: RunActions): Row {
  let last = first;
  const state = element('span', 'nnl-state');
  const cost = element('span', 'nnl-cost');
  const bar = element('progress', 'nnl-bar');
  const error = element('div', 'nnl-error');
  bar.setAttribute('aria-label', 'progress');
  const cancel = button('nnl-act nnl-cancel', 'Cancel', 'End this run', () => {
    cancel.disabled = true;
    actions.cancel(last);
  });
  const rerun = button('nnl-act', 'Run again', 'Run its cell again', () => actions.rerun(last));
  const reveal = button('nnl-act', 'Cell', 'Show the cell it came from', () => actions.reveal(last));
  const explore = button('nnl-act', 'Explore', 'Open the explorer in a tab', () =>
    actions.explore(last)
  );
  const node = element(
    'div',
    'nnl-Run',
    element('div', 'nnl-top', state, element('span', 'nnl-model', first.model), cost),
    element('div', 'nnl-prompt', first.prompt || '(no prompt)'),
    bar,
    error,
    element('div', 'nnl-acts', cancel, explore, rerun, reveal)
  );
  node.setAttribute('role', 'listitem');
  node.title = `run ${first.id.slice(0, 8)} on ${first.where}`;
  return {
    node,
    update: run => {
      last = run;
      const ended = hasEnded(run);
      node.dataset.run = run.id;
      node.dataset.state = run.state;
      setText(state, progress(run));
      setText(cost, [time(run.seconds), run.bytes ? bytes(run.bytes) : ''].filter(Boolean).join(' · '));
      setText(error, run.error);
      bar.hidden = ended;
      if (run.of > 0 && run.state === 'running') {
        bar.max = run.of;
        bar.value = run.steps;
      } else {
        bar.removeAttribute('value'); // it waits: a bar without an end
      }
      cancel.hidden = ended;
      explore.hidden = run.state !== 'done';
      rerun.hidden = !ended;
      reveal.hidden = run.cell === '';
      error.hidden = run.error === '';
    }
  };
}
