// The lab that the notebook in front is connected to: whether it answers, and who waits.

import { button, element, setText } from './dom';
import { KernelLink } from './link';
import { hasEnded } from './messages';

const SAID = {
  none: 'not connected',
  open: 'connected',
  lost: 'disconnected, trying again',
  closed: 'closed'
};

export class ServerState {
  readonly node = element('div', 'nnl-Server');

  constructor(connect: () => void) {
    this._state.setAttribute('role', 'status');
    this._connect = button('nnl-act', 'Connect', 'Connect this notebook to the lab', connect);
    this.node.append(element('div', 'nnl-top', this._dot, this._state, this._connect), this._about);
  }

  show(link: KernelLink | null): void {
    const server = link?.server ?? { state: 'none' as const };
    const waits = [...(link?.runs.values() ?? [])].filter(run => run.state === 'queued');
    const open = [...(link?.runs.values() ?? [])].filter(run => !hasEnded(run));
    const about = [server.url ?? ''];
    if (server.state === 'open') {
      about.push(waits.length > 0 ? `queue: ${waits.map(run => run.place).join(', ')}` : 'queue: empty for you');
    }
    if (open.length > 0) {
      about.push(`${open.length} under way`);
    }
    this.node.dataset.state = server.state;
    setText(this._state, SAID[server.state]);
    setText(this._about, about.filter(Boolean).join(' · '));
    this._connect.hidden = link === null || link.state === 'none' || server.state !== 'none';
  }

  private readonly _dot = element('span', 'nnl-dot');
  private readonly _state = element('span', 'nnl-state');
  private readonly _about = element('div', 'nnl-about');
  private readonly _connect: HTMLButtonElement;
}
