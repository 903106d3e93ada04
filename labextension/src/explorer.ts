// A run's explorer in a tab of its own, drawn with the notebook's widgets.

import { JupyterFrontEnd } from '@jupyterlab/application';
import { MainAreaWidget } from '@jupyterlab/apputils';
import { OutputAreaModel, SimplifiedOutputArea } from '@jupyterlab/outputarea';
import { SplitPanel, Widget } from '@lumino/widgets';
import { element } from './dom';
import { icon } from './icon';
import { KernelLink } from './link';
import { Run } from './messages';

/** area: `main`, or `down` in Notebook 7, whose main area holds the notebook alone. */
export function openExplorer(app: JupyterFrontEnd, area: string, link: KernelLink, run: Run): void {
  const { panel } = link;
  const outputs = new SimplifiedOutputArea({
    model: new OutputAreaModel({ trusted: true }),
    rendermime: panel.content.rendermime
  });
  outputs.addClass('nnl-Explorer');
  const waits = element('p', 'nnl-note', 'Waiting for the kernel …');
  outputs.node.append(waits);
  outputs.model.changed.connect(() => waits.remove());
  const tab = new MainAreaWidget({ content: outputs });
  tab.id = `nnsight-lab-explorer-${run.id}`;
  tab.title.label = `Run ${run.id.slice(0, 8)}`;
  tab.title.caption = `${run.model}: ${run.prompt}`;
  tab.title.icon = icon;
  tab.title.closable = true;
  app.shell.add(tab, area, { ref: panel.id, mode: 'split-right' });
  app.shell.activateById(tab.id);
  if (area === 'down') {
    halve(tab);
  }
  panel.disposed.connect(() => tab.dispose());
  const code = `from nnsight_lab.jupyter.sidebar import open_explorer; open_explorer("${run.id}")`;
  void SimplifiedOutputArea.execute(code, outputs, panel.sessionContext).catch(() => undefined);
}

/** Give a tab below the notebook half of the page; it would open with no height. */
function halve(tab: Widget): void {
  let above: Widget | null = tab;
  while (above !== null && !(above instanceof SplitPanel)) {
    above = above.parent;
  }
  above?.setRelativeSizes([1, 1]);
}
