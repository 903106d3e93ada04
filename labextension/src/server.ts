// The lab that the notebook in front is connected to: whether it answers, and how many wait.

import { button, element, setText } from './dom';
import { KernelLink } from './link';
import { Queue, hasEnded } from './messages';
import { traffic } from './words';

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
    this._queue.setAttribute('aria-label', 'Queue of the server');
    this.node.append(
      element('div', 'nnl-top', this._dot, this._state, this._connect),
      this._about,
      this._queue
    );
  }

  show(link: KernelLink | null): void {
    const server = link?.server ?? { state: 'none' as const };
    const waits = [...(link?.runs.values() ?? [])].filter(run => run.state === 'queued');
    const open = [...(link?.runs.values() ?? [])].filter(run => !hasEnded(run));
    const about = [server.url ?? ''];
    if (open.length > 0) {
      const whose = server.state === 'open' ? ' of yours' : '';
      about.push(`${open.length}${whose} under way`);
    }
    if (waits.length > 0) {
      about.push(`behind ${waits.map(run => run.place).join(', ')}`);
    }
    this.node.dataset.state = server.state;
    setText(this._state, SAID[server.state]);
    setText(this._about, about.filter(Boolean).join(' · '));
    this._showQueue(server.state === 'open' ? server.queue ?? [] : []);
    this._connect.hidden = link === null || link.state === 'none' || server.state !== 'none';
  }

  /** The queue itself, of everybody; what stays the same is not drawn anew. */
  private _showQueue(queue: Queue[]): void {
    const told = JSON.stringify(queue);
    if (told !== this._told) {
      this._told = told;
      this._queue.replaceChildren(...queue.map(row));
      this._queue.hidden = queue.length === 0;
    }
  }

  private _told = '';
  private readonly _queue = element('ul', 'nnl-queue');
  private readonly _dot = element('span', 'nnl-dot');
  private readonly _state = element('span', 'nnl-state');
  private readonly _about = element('div', 'nnl-about');
  private readonly _connect: HTMLButtonElement;
}

function row(model: Queue): HTMLElement {
  const made = element(
    'li',
    'nnl-line',
    element('span', 'nnl-name', model.name),
    element('span', 'nnl-traffic', traffic(model))
  );
  made.dataset.model = model.name;
  made.title = model.name; // a long one is cut
  return made;
}
