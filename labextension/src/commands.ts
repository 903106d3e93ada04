// The commands: everything the sidebar and the button on the cell do.

import { JupyterFrontEnd } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { cellOf, insert, isTraced, reveal, runAgain, toggleTrace } from './cells';
import { openExplorer } from './explorer';
import { icon } from './icon';
import { KernelLink } from './link';
import { Links } from './links';
import { Run, hasEnded } from './messages';
import { Settings } from './settings';
import { Sidebar } from './sidebar';

export namespace CommandIDs {
  export const show = 'nnsight-lab:show-sidebar';
  export const toggle = 'nnsight-lab:toggle-trace';
  export const insert = 'nnsight-lab:insert';
  export const cancel = 'nnsight-lab:cancel';
  export const rerun = 'nnsight-lab:run-again';
  export const reveal = 'nnsight-lab:reveal-cell';
  export const explore = 'nnsight-lab:explore';
  export const connect = 'nnsight-lab:connect';
}

export interface Parts {
  app: JupyterFrontEnd;
  tracker: INotebookTracker;
  links: Links;
  settings: Settings;
  sidebar(): Sidebar;
  /** The area for further tabs. */
  tabs: string;
}

type Args = { run?: string; code?: string };

export function addCommands(parts: Parts, palette: ICommandPalette | null): void {
  const { app, tracker, links, settings } = parts;
  const add = (id: string, label: string, enabled: () => boolean, execute: (args: Args) => unknown) =>
    app.commands.addCommand(id, {
      label,
      caption: label,
      isEnabled: enabled,
      execute: args => told(() => execute(args as Args))
    });
  const always = () => true;
  const some = () => (links.current?.runs.size ?? 0) > 0;

  add(CommandIDs.show, 'Show the nnsight_lab sidebar', always, () =>
    app.shell.activateById(parts.sidebar().id)
  );
  app.commands.addCommand(CommandIDs.toggle, {
    label: () => (isTraced(tracker.activeCell) ? 'Make it a plain cell' : 'Make it a %%trace cell'),
    caption: 'Put %%trace on this cell, or take it off',
    icon,
    isToggled: () => isTraced(tracker.activeCell),
    isEnabled: () => tracker.activeCell?.model.type === 'code',
    isVisible: () => tracker.activeCell?.model.type === 'code',
    execute: () => {
      if (tracker.currentWidget && tracker.activeCell) {
        toggleTrace(tracker.currentWidget, tracker.activeCell, settings.views);
        app.commands.notifyCommandChanged(CommandIDs.toggle);
      }
    }
  });
  add(CommandIDs.insert, 'Insert a module path at the cursor', always, args => {
    const code = args.code ?? '';
    if (code !== '' && !insert(tracker, code)) {
      void navigator.clipboard?.writeText(code);
      Notification.info(`There is no code cell to put it in; copied: ${code}`, { autoClose: 2500 });
    }
  });
  add(CommandIDs.cancel, 'Cancel the runs under way', some, args =>
    Promise.all(chosen(links, args, run => !hasEnded(run)).map(([link, run]) => link.cancel(run)))
  );
  add(CommandIDs.rerun, 'Run the last run again', some, args => each(links, args, again));
  add(CommandIDs.reveal, 'Show the cell of the last run', some, args => each(links, args, show));
  add(CommandIDs.explore, 'Open the explorer of the last run', some, args =>
    each(links, args, (link, run) => openExplorer(app, parts.tabs, link, run))
  );
  add(CommandIDs.connect, 'Connect the notebook to a lab', () => links.current !== null, () =>
    links.current?.ask('connect', { url: settings.serverUrl })
  );
  for (const id of [CommandIDs.show, CommandIDs.toggle, CommandIDs.cancel, CommandIDs.rerun,
    CommandIDs.reveal, CommandIDs.explore, CommandIDs.connect]) {
    palette?.addItem({ command: id, category: 'nnsight_lab' });
  }
}

/** The run that is asked for, or all that hold. */
function chosen(links: Links, args: Args, holds: (run: Run) => boolean): [KernelLink, Run][] {
  const link = links.current;
  const runs = [...(link?.runs.values() ?? [])];
  const found = args.run === undefined ? runs.filter(holds) : runs.filter(run => run.id === args.run);
  return found.map(run => [link!, run]);
}

function each(links: Links, args: Args, act: (link: KernelLink, run: Run) => unknown): unknown {
  const [last] = chosen(links, args, () => true).slice(-1);
  return last === undefined ? undefined : act(...last);
}

async function again(link: KernelLink, run: Run): Promise<void> {
  const cell = cellOf(link.panel, run.cell);
  if (cell !== null) {
    await runAgain(link.panel, cell);
    return;
  }
  const code = `from nnsight_lab.jupyter.sidebar import rerun; run = rerun("${run.id}")`;
  const kernel = link.panel.sessionContext.session?.kernel;
  const reply = await kernel?.requestExecute({ code, store_history: false }).done;
  if (reply?.content.status === 'error') {
    throw new Error((reply.content as any).evalue);
  }
}

async function show(link: KernelLink, run: Run): Promise<void> {
  const cell = cellOf(link.panel, run.cell);
  if (cell === null) {
    throw new Error('Its cell is no longer in this notebook.');
  }
  await reveal(link.panel, cell);
}

/** Whatever goes wrong is said, and nothing else happens. */
async function told(act: () => unknown): Promise<void> {
  try {
    await act();
  } catch (error) {
    Notification.warning((error as Error).message, { autoClose: 6000 });
  }
}
