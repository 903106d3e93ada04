// A run's explorer in a tab of its own, drawn with the notebook's widgets.

import { JupyterFrontEnd } from '@jupyterlab/application';
import { MainAreaWidget } from '@jupyterlab/apputils';
import { OutputAreaModel, SimplifiedOutputArea } from '@jupyterlab/outputarea';
import { element } from './dom';
import { icon } from './icon';
import { KernelLink } from './link';
import { Run } from './messages';

export function openExplorer(app: JupyterFrontEnd, link: KernelLink, run: Run): void {
  const { panel } = link;
  const area = new SimplifiedOutputArea({
    model: new OutputAreaModel({ trusted: true }),
    rendermime: panel.content.rendermime
  });
  area.addClass('nnl-Explorer');
  const waits = element('p', 'nnl-note', 'Waiting for the kernel …');
  area.node.append(waits);
  area.model.changed.connect(() => waits.remove());
  const tab = new MainAreaWidget({ content: area });
  tab.id = `nnsight-lab-explorer-${run.id}`;
  tab.title.label = `Run ${run.id.slice(0, 8)}`;
  tab.title.caption = `${run.model}: ${run.prompt}`;
  tab.title.icon = icon;
  tab.title.closable = true;
  app.shell.add(tab, 'main', { ref: panel.id, mode: 'split-right' });
  app.shell.activateById(tab.id);
  panel.disposed.connect(() => tab.dispose());
  const code = `from nnsight_lab.jupyter.sidebar import open_explorer; open_explorer("${run.id}")`;
  void SimplifiedOutputArea.execute(code, area, panel.sessionContext).catch(() => undefined);
}
