// What is done to cells: code put in, `%%trace` put on and taken off, one found again.

import { Cell, ICellModel } from '@jupyterlab/cells';
import { INotebookTracker, NotebookActions, NotebookPanel } from '@jupyterlab/notebook';

const TRACE = /^\s*%%trace\b.*(\n|$)/;
const removed = new WeakMap<ICellModel, string>();

export function isTraced(cell: Cell | null): boolean {
  return cell !== null && TRACE.test(cell.model.sharedModel.getSource());
}

/** Put code at the cursor of the active cell; false where there is none to put it in. */
export function insert(tracker: INotebookTracker, code: string): boolean {
  const cell = tracker.activeCell;
  const editor = cell?.editor;
  if (!cell || !editor || cell.model.type !== 'code') {
    return false;
  }
  editor.replaceSelection?.(code);
  tracker.currentWidget!.content.mode = 'edit';
  editor.focus();
  return true;
}

/** Turn a code cell into a `%%trace` cell, or back. views: shown by a cell that is new to it. */
export function toggleTrace(panel: NotebookPanel, cell: Cell, views: string[]): void {
  const text = cell.model.sharedModel;
  const source = text.getSource();
  const line = TRACE.exec(source);
  if (line !== null) {
    removed.set(cell.model, line[0].trimEnd());
    text.setSource(source.slice(line[0].length));
    return;
  }
  const first = removed.get(cell.model) ?? lineAbove(panel, cell) ?? fresh(views);
  text.setSource(`${first}\n${source}`);
  const quote = first.indexOf('""');
  if (cell.editor && quote >= 0) {
    panel.content.mode = 'edit';
    cell.editor.setCursorPosition({ line: 0, column: quote + 1 });
    cell.editor.focus();
  }
}

/** The line of the last `%%trace` cell above: most often the same model and prompt are meant. */
function lineAbove(panel: NotebookPanel, cell: Cell): string | null {
  const cells = panel.content.widgets;
  const above = cells.slice(0, cells.indexOf(cell)).reverse().find(isTraced);
  return above ? TRACE.exec(above.model.sharedModel.getSource())![0].trimEnd() : null;
}

function fresh(views: string[]): string {
  return `%%trace ""${views.length > 0 ? ` --show ${views.join(',')}` : ''}`;
}

export function cellOf(panel: NotebookPanel, id: string): Cell | null {
  return panel.content.widgets.find(cell => id !== '' && cell.model.sharedModel.id === id) ?? null;
}

export async function reveal(panel: NotebookPanel, cell: Cell): Promise<void> {
  const notebook = panel.content;
  const index = notebook.widgets.indexOf(cell);
  notebook.activeCellIndex = index;
  await notebook.scrollToItem(index, 'smart');
  cell.node.classList.add('nnl-revealed');
  window.setTimeout(() => cell.node.classList.remove('nnl-revealed'), 1200);
}

export function runAgain(panel: NotebookPanel, cell: Cell): Promise<boolean> {
  return NotebookActions.runCells(panel.content, [cell], panel.sessionContext);
}
