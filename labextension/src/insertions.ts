// Cells that a view in the notebook asks for: "Copy as code" of the explorer.

import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';

/** What a view dispatches from its own element; whoever takes it prevents its default. */
const EVENT = 'nnsight-lab:insert-cell';

/** Between the cells of one text, as in the percent format. */
const BETWEEN = '\n# %%\n';

/** Insert the code of such an event below the cell that the view is in, or below the active one. */
export function followInsertions(tracker: INotebookTracker): void {
  document.addEventListener(EVENT, event => {
    const { code } = (event as CustomEvent<{ code: string }>).detail;
    const from = event.target as Node;
    const around = (panel: NotebookPanel) => panel.node.contains(from);
    const panel = tracker.find(around) ?? tracker.currentWidget;
    const cells = panel?.content.model?.sharedModel;
    if (!panel || !cells) {
      return;
    }
    const at = panel.content.widgets.findIndex(cell => cell.node.contains(from));
    const below = (at < 0 ? panel.content.activeCellIndex : at) + 1;
    const made = code.split(BETWEEN).map(source => ({ cell_type: 'code' as const, source, metadata: {} }));
    cells.insertCells(below, made);
    event.preventDefault();
  });
}
