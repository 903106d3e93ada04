// Under each traced cell a line of what its runs cost: "run 1a2b3c4d · 12 ms · 1.2 kB".

import { Cell } from '@jupyterlab/cells';
import { PanelLayout, Widget } from '@lumino/widgets';
import { cellOf } from './cells';
import { KernelLink } from './link';
import { Links } from './links';
import { Run, hasEnded } from './messages';
import { bytes, progress, time } from './words';

export class Badges {
  constructor(links: Links) {
    links.told.connect((_, { link, runs }) => this._told(link, runs));
  }

  /** Whether they are shown; a setting. */
  set shown(shown: boolean) {
    document.body.classList.toggle('nnl-mod-noBadges', !shown);
  }

  private _told(link: KernelLink, runs: Run[]): void {
    for (const id of new Set(runs.map(run => run.cell))) {
      const cell = cellOf(link.panel, id);
      if (cell !== null) {
        void cell.ready.then(() => this._show(cell, link));
      }
    }
  }

  private _show(cell: Cell, link: KernelLink): void {
    if (cell.isDisposed) {
      return;
    }
    const ofCell = [...link.runs.values()].filter(run => run.cell === cell.model.sharedModel.id);
    const last = ofCell[ofCell.length - 1];
    if (last === undefined) {
      return;
    }
    const runs = ofCell.filter(run => run.execution === last.execution);
    const badge = this._badges.get(cell) ?? this._add(cell);
    badge.node.textContent = said(runs);
    badge.node.dataset.state = runs.every(hasEnded) ? last.state : 'running';
    badge.node.title = runs.map(run => `${run.id.slice(0, 8)} on ${run.where}: ${run.prompt}`).join('\n');
  }

  private _add(cell: Cell): Widget {
    const badge = new Widget();
    badge.addClass('nnl-Badge');
    const layout = cell.layout as PanelLayout;
    const output = layout.widgets.findIndex(part => part.hasClass('jp-Cell-outputWrapper'));
    layout.insertWidget(output < 0 ? layout.widgets.length : output, badge);
    this._badges.set(cell, badge);
    return badge;
  }

  private readonly _badges = new WeakMap<Cell, Widget>();
}

function said(runs: Run[]): string {
  const open = runs.filter(run => !hasEnded(run));
  const seconds = runs.reduce((sum, run) => sum + run.seconds, 0);
  const size = runs.reduce((sum, run) => sum + run.bytes, 0);
  const last = runs[runs.length - 1];
  const which = runs.length === 1 ? `run ${last.id.slice(0, 8)}` : `${runs.length} runs`;
  const failed = runs.find(run => run.state === 'failed' || run.state === 'cancelled');
  const state = open.length > 0 ? progress(open[open.length - 1]) : failed?.state ?? '';
  return [which, state, time(seconds), size > 0 ? bytes(size) : ''].filter(Boolean).join(' · ');
}
