// The plugin: what is registered where. Only the notebook tracker must be there; Notebook 7 has no
// status bar, and other pages may have no palette.

import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { Badges } from './badges';
import { CommandIDs, addCommands } from './commands';
import { followInsertions } from './insertions';
import { KernelLink } from './link';
import { Links } from './links';
import { PLUGIN, Settings } from './settings';
import { Sidebar } from './sidebar';
import { addStatus } from './status';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: 'Server, runs and models of nnsight_lab beside a notebook.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ICommandPalette, IStatusBar, ISettingRegistry, ILayoutRestorer, ILabShell],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    palette: ICommandPalette | null,
    bar: IStatusBar | null,
    registry: ISettingRegistry | null,
    restorer: ILayoutRestorer | null,
    lab: ILabShell | null
  ) => {
    const links = new Links(tracker);
    const badges = new Badges(links);
    const settings = new Settings();
    const run = (id: string) => (of: { id: string }) => void app.commands.execute(id, { run: of.id });
    const sidebar = new Sidebar(links, {
      cancel: run(CommandIDs.cancel),
      rerun: run(CommandIDs.rerun),
      reveal: run(CommandIDs.reveal),
      explore: run(CommandIDs.explore),
      insert: code => void app.commands.execute(CommandIDs.insert, { code }),
      connect: () => void app.commands.execute(CommandIDs.connect)
    });
    const tabs = lab === null ? 'down' : 'main';
    addCommands({ app, tracker, links, settings, tabs, sidebar: () => sidebar }, palette);
    app.shell.add(sidebar, 'right', { rank: 500, type: 'nnsight_lab' });
    restorer?.add(sidebar, sidebar.id);
    if (bar !== null) {
      addStatus(bar, links, () => void app.commands.execute(CommandIDs.show));
    }
    followInsertions(tracker);
    tracker.activeCellChanged.connect(() => app.commands.notifyCommandChanged(CommandIDs.toggle));
    void settings.follow(registry, () => (badges.shown = settings.badges));
    links.told.connect((_, { link }) => connectOnce(link, settings));
  }
};

const tried = new WeakSet<object>();

/** Where it is asked for, connect a notebook that has no lab, once. */
function connectOnce(link: KernelLink, settings: Settings): void {
  if (settings.autoConnect && link.state === 'live' && link.server.state === 'none' && !tried.has(link)) {
    tried.add(link);
    link.ask('connect', { url: settings.serverUrl }).catch(() => undefined);
  }
}

export default plugin;
