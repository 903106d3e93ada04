// The status bar: "nnl: 9/12 · queue 2". Not there in Notebook 7, which has no status bar.

import { IStatusBar } from '@jupyterlab/statusbar';
import { Widget } from '@lumino/widgets';
import { setText } from './dom';
import { Links } from './links';
import { summary } from './words';

export function addStatus(bar: IStatusBar, links: Links, clicked: () => void): void {
  const node = document.createElement('button');
  node.type = 'button';
  const item = new Widget({ node });
  item.addClass('nnl-Status');
  item.node.title = 'nnsight_lab: open the sidebar';
  item.node.addEventListener('click', clicked);
  bar.registerStatusItem('nnsight-lab:status', {
    item,
    align: 'right',
    rank: 900,
    isActive: () => (links.current?.state ?? 'none') !== 'none',
    activeStateChanged: links.changed as any
  });
  links.changed.connect(() => {
    const link = links.current;
    if (link !== null) {
      setText(item.node, summary([...link.runs.values()], link.server.state === 'lost'));
    }
  });
}
