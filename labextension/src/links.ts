// The links of all open notebooks, and the one that is looked at.

import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { ISignal, Signal } from '@lumino/signaling';
import { KernelLink } from './link';
import { Run } from './messages';

export class Links {
  constructor(private readonly _tracker: INotebookTracker) {
    _tracker.forEach(panel => this._add(panel));
    _tracker.widgetAdded.connect((_, panel) => this._add(panel));
    _tracker.currentChanged.connect(() => this._changed.emit([]));
  }

  /** Of the notebook in front; null when there is none. */
  get current(): KernelLink | null {
    const panel = this._tracker.currentWidget;
    return panel === null ? null : this._links.get(panel) ?? null;
  }

  /** Emitted when the notebook in front has changed, or what its kernel says. */
  get changed(): ISignal<this, Run[]> {
    return this._changed;
  }

  /** Emitted for every notebook: its link, and the runs that have changed. */
  get told(): ISignal<this, { link: KernelLink; runs: Run[] }> {
    return this._told;
  }

  private _add(panel: NotebookPanel): void {
    if (this._links.has(panel)) {
      return;
    }
    const link = new KernelLink(panel);
    this._links.set(panel, link);
    link.changed.connect((_, runs) => {
      this._told.emit({ link, runs });
      if (link === this.current) {
        this._changed.emit(runs);
      }
    });
  }

  private readonly _links = new WeakMap<NotebookPanel, KernelLink>();
  private readonly _changed = new Signal<this, Run[]>(this);
  private readonly _told = new Signal<this, { link: KernelLink; runs: Run[] }>(this);
}
