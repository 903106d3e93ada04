// The panel on the right: server, runs, models of the notebook in front.

import { Widget } from '@lumino/widgets';
import { element } from './dom';
import { icon } from './icon';
import { Links } from './links';
import { ModelList } from './models';
import { RunActions, RunList } from './runs';
import { ServerState } from './server';

export interface SidebarActions extends RunActions {
  insert(code: string): void;
  connect(): void;
}

export class Sidebar extends Widget {
  constructor(
    private readonly _links: Links,
    actions: SidebarActions
  ) {
    super();
    this.id = 'nnsight-lab-sidebar';
    this.addClass('nnl-Sidebar');
    this.title.icon = icon;
    this.title.caption = 'nnsight_lab: server, runs, models';
    this._server = new ServerState(actions.connect);
    this._runs = new RunList(actions);
    this._models = new ModelList(actions.insert);
    this.node.append(
      this._note,
      section('Server', this._server.node),
      section('Runs', this._runs.node),
      section('Models', this._models.node)
    );
    _links.changed.connect(() => this.update());
  }

  protected override onUpdateRequest(): void {
    const link = this._links.current;
    this._note.textContent =
      link === null ? 'Open a notebook.' : 'Run %load_ext nnsight_lab in this notebook.';
    this._note.hidden = link !== null && link.state !== 'none';
    this._server.show(link);
    this._runs.show(link?.runs.values() ?? []);
    this._models.show(link);
  }

  protected override onAfterAttach(): void {
    this.update();
  }

  private readonly _note = element('p', 'nnl-note');
  private readonly _server: ServerState;
  private readonly _runs: RunList;
  private readonly _models: ModelList;
}

function section(title: string, content: HTMLElement): HTMLElement {
  const heading = element('summary', 'nnl-heading', title);
  const made = element('details', 'nnl-section', heading, content);
  made.open = true;
  return made;
}
