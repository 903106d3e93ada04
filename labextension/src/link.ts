// One notebook's wire to its kernel.
//
// Two comms: on `view` the kernel only publishes, on `control` it only answers. JupyterLab sends what
// is said on a comm to a thread of its own (a subshell), so Cancel is heard while a cell is busy. Both
// are opened from here, and only when the kernel lists `TARGET`: an unknown comm is an error message.

import { NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import { Kernel, KernelMessage } from '@jupyterlab/services';
import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';
import { Model, News, Run, Server, TARGET } from './messages';

const LOOK_EVERY_MS = 400;
const SUBSHELL_MS = 2000;
const SPEAK_EVERY_MS = 60_000;
const RUNS_KEPT = 50;

/** `live`: heard at once. `waiting`: heard when the cell that runs has ended. */
export type LinkState = 'none' | 'live' | 'waiting';

type Answer = { ask: number; content?: any; error?: string; hint?: string };
type Data = { [key: string]: any };

export class KernelLink implements IDisposable {
  readonly runs = new Map<string, Run>();
  models: Model[] = [];
  server: Server = { state: 'none' };
  state: LinkState = 'none';

  constructor(readonly panel: NotebookPanel) {
    this._timer = window.setInterval(() => this._speak(), SPEAK_EVERY_MS);
    const session = panel.sessionContext;
    session.kernelChanged.connect(this._kernelChanged, this);
    session.connectionStatusChanged.connect(this._connectionChanged, this);
    session.statusChanged.connect(this._statusChanged, this);
    NotebookActions.executionScheduled.connect(this._scheduled, this);
    NotebookActions.executed.connect(this._executed, this);
    panel.disposed.connect(() => this.dispose());
    void panel.revealed.then(() => this._begin());
  }

  /** Emitted after every change, with the runs that have changed. */
  get changed(): ISignal<this, Run[]> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  dispose(): void {
    if (this._disposed) {
      return;
    }
    this._disposed = true;
    window.clearInterval(this._timer);
    this._drop();
    Signal.clearData(this);
  }

  /** Ask the kernel. Rejected with the kernel's own words when it refuses. */
  ask(kind: string, content: Data = {}): Promise<any> {
    const control = this._control;
    if (control === null) {
      return Promise.reject(new Error('%load_ext nnsight_lab is not loaded in this notebook.'));
    }
    const ask = ++this._asked;
    return new Promise((resolve, reject) => {
      this._asks.set(ask, { resolve, reject });
      control.send({ ...content, ask, kind });
    });
  }

  /** End a run; where the kernel cannot hear beside a busy cell, by interrupting the cell. */
  async cancel(run: Run): Promise<void> {
    if (this.state === 'live') {
      await this.ask('cancel', { run: run.id });
    } else {
      await this.panel.sessionContext.session?.kernel?.interrupt();
    }
  }

  // ------------------------------------------------------------------ finding the kernel's end

  private get _kernel(): Kernel.IKernelConnection | null {
    return this.panel.sessionContext.session?.kernel ?? null;
  }

  private async _begin(): Promise<void> {
    await this.panel.context.ready;
    await this.panel.sessionContext.ready;
    const cells = this.panel.content.model?.sharedModel.cells ?? [];
    if (cells.some(cell => mentions(cell.getSource()))) {
      await this._look();
    }
  }

  private _kernelChanged(): void {
    this._drop();
    void this._begin();
  }

  private _statusChanged(_: unknown, status: Kernel.Status): void {
    if (status === 'restarting' || status === 'autorestarting') {
      this._drop();
    }
  }

  private _connectionChanged(_: unknown, status: Kernel.ConnectionStatus): void {
    if (status !== 'connected') {
      this._cut = this._control !== null;
    } else if (this._cut) {
      // What was published meanwhile is lost: listen anew, and be told everything.
      this._cut = false;
      this._listen();
    }
  }

  private _scheduled(_: unknown, args: { notebook: unknown; cell: any }): void {
    if (args.notebook === this.panel.content && mentions(args.cell.model.sharedModel.getSource())) {
      this._looking++;
      void this._lookWhileBusy();
    }
  }

  private _executed(_: unknown, args: { notebook: unknown; cell: any }): void {
    if (args.notebook === this.panel.content && mentions(args.cell.model.sharedModel.getSource())) {
      this._looking = Math.max(0, this._looking - 1);
      void this._look();
    }
  }

  private async _lookWhileBusy(): Promise<void> {
    while (this._looking > 0 && this._control === null && !this._disposed) {
      await this._look();
      await sleep(LOOK_EVERY_MS);
    }
  }

  /** Open the comms if the kernel has the other end; one look at a time. */
  private _look(): Promise<void> {
    this._found ??= this._open().finally(() => (this._found = null));
    return this._found;
  }

  private async _open(): Promise<void> {
    const kernel = this._kernel;
    if (kernel === null || this._control !== null || this._disposed) {
      return;
    }
    // Not opened yet, this has a subshell already, on which to ask beside a busy cell.
    const comm = (this._candidate ??= kernel.createComm(TARGET));
    await subshellOf(comm);
    if (!(await isListed(kernel, comm)) || this._candidate !== comm || this._disposed) {
      return;
    }
    this._candidate = null;
    this._control = comm;
    comm.onMsg = message => this._answered(message.content.data as unknown as Answer);
    const ask = ++this._asked;
    const greeted = new Promise<any>((resolve, reject) => this._asks.set(ask, { resolve, reject }));
    comm.open({ role: 'control', page: this._page, kind: 'hello', ask });
    await this._listen();
    const { beside } = await greeted;
    this.state = beside ? 'live' : 'waiting';
    this._changed.emit([]);
  }

  private async _listen(): Promise<void> {
    const kernel = this._kernel;
    if (kernel === null || this._disposed) {
      return;
    }
    close(this._view);
    const view = (this._view = kernel.createComm(TARGET));
    await subshellOf(view);
    if (this._view === view && !view.isDisposed) {
      view.onMsg = message => this._told(message.content.data as unknown as News);
      view.open({ role: 'view', page: this._page });
    }
  }

  // ------------------------------------------------------------------ what it says

  private _told(news: News): void {
    if (news.first) {
      this.runs.clear();
    }
    for (const run of news.runs) {
      this.runs.set(run.id, run);
    }
    for (const id of [...this.runs.keys()].slice(0, Math.max(0, this.runs.size - RUNS_KEPT))) {
      this.runs.delete(id);
    }
    this.models = news.models ?? this.models;
    this.server = news.server ?? this.server;
    this._changed.emit(news.runs);
  }

  private _answered(answer: Answer): void {
    const asked = this._asks.get(answer.ask);
    this._asks.delete(answer.ask);
    if (answer.error !== undefined) {
      asked?.reject(new Error([answer.error, answer.hint].filter(Boolean).join(' ')));
    } else {
      asked?.resolve(answer.content);
    }
  }

  private _speak(): void {
    if (this._control === null) {
      return;
    }
    this.ask('hello', { page: this._page }).then(
      ({ known }) => (known ? undefined : this._listen()),
      () => undefined
    );
  }

  private _drop(): void {
    close(this._view);
    close(this._control);
    close(this._candidate);
    this._view = this._control = this._candidate = null;
    for (const { reject } of this._asks.values()) {
      reject(new Error('The kernel has gone.'));
    }
    this._asks.clear();
    this.runs.clear();
    this.models = [];
    this.server = { state: 'none' };
    this.state = 'none';
    this._changed.emit([]);
  }

  private readonly _page = Math.random().toString(36).slice(2);
  private readonly _changed = new Signal<this, Run[]>(this);
  private readonly _asks = new Map<number, { resolve(content: any): void; reject(why: Error): void }>();
  private readonly _timer: number;
  private _asked = 0;
  private _looking = 0;
  private _cut = false;
  private _disposed = false;
  private _found: Promise<void> | null = null;
  private _candidate: Kernel.IComm | null = null;
  private _control: Kernel.IComm | null = null;
  private _view: Kernel.IComm | null = null;
}

function mentions(source: string): boolean {
  return source.includes('nnsight_lab');
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => window.setTimeout(resolve, ms));
}

/** Wait for a comm's subshell; older Labs and other kernels have none. */
async function subshellOf(comm: Kernel.IComm): Promise<void> {
  const started = (comm as any).subshellStarted as Promise<void> | undefined;
  if (started !== undefined) {
    await Promise.race([started.catch(() => undefined), sleep(SUBSHELL_MS)]);
  }
}

/** Whether the kernel has the other end, asked on the comm's own subshell. */
async function isListed(kernel: Kernel.IKernelConnection, comm: Kernel.IComm): Promise<boolean> {
  const message = KernelMessage.createMessage({
    msgType: 'comm_info_request',
    channel: 'shell',
    username: kernel.username,
    session: kernel.clientId,
    subshellId: (comm as any).subshellId ?? null,
    content: { target_name: TARGET }
  } as any) as unknown as KernelMessage.IShellMessage;
  try {
    const reply = (await kernel.sendShellMessage(message, true).done) as any;
    return Object.keys(reply?.content?.comms ?? {}).length > 0;
  } catch {
    return false; // the kernel went away meanwhile
  }
}

function close(comm: Kernel.IComm | null): void {
  try {
    if (comm !== null && !comm.isDisposed) {
      comm.close();
    }
  } catch {
    // Its kernel is gone, and so is the other end.
  }
}
