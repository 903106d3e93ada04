// The models of the notebook in front, and those its lab serves; one may be open, with its modules.

import { button, element } from './dom';
import { KernelLink } from './link';
import { Model, Module } from './messages';
import { ModuleTree } from './modules';

export class ModelList {
  readonly node = element('div', 'nnl-Models');

  constructor(private readonly _insert: (code: string) => void) {
    this._search.type = 'search';
    this._search.placeholder = 'Search modules';
    this._search.setAttribute('aria-label', 'Search modules');
    this._search.addEventListener('input', () => this._tree?.search(this._search.value));
  }

  show(link: KernelLink | null): void {
    const served = link?.server.state === 'open' ? link.server.models ?? [] : [];
    const told = JSON.stringify([link?.models ?? [], served, link?.server.variable]);
    if (told === this._told && link === this._link) {
      return; // an open tree stays as it is
    }
    this._told = told;
    this._link = link;
    const here = (link?.models ?? []).map(model => this._row(model, `var ${model.variable}`));
    const there = served.map(model => this._row(model, `served ${model.name}`));
    this.node.replaceChildren(
      ...here,
      ...(there.length > 0 ? [element('div', 'nnl-group', 'On the server')] : []),
      ...there
    );
    if (here.length + there.length === 0) {
      const how = 'lm = nl.LanguageModel("tiny")';
      this.node.append(element('p', 'nnl-none', 'No models yet.'), this._code(how));
    }
  }

  private _row(model: Model, key: string): HTMLElement {
    const opened = element('div', 'nnl-opened');
    const name = model.variable ?? model.name;
    const node = element(
      'details',
      'nnl-Model',
      element(
        'summary',
        'nnl-line',
        element('span', 'nnl-name', name),
        element('span', 'nnl-kind', [model.variable ? model.name : '', model.about].filter(Boolean).join(' · '))
      ),
      element('div', 'nnl-where', model.where),
      opened
    );
    node.dataset.model = name;
    node.open = key === this._open;
    node.addEventListener('toggle', () => {
      if (node.open) {
        this._open = key;
        for (const other of this.node.querySelectorAll<HTMLDetailsElement>('details.nnl-Model')) {
          other.open = other === node;
        }
        void this._fill(opened, model);
      } else if (this._open === key) {
        this._open = '';
      }
    });
    return node;
  }

  private async _fill(opened: HTMLElement, model: Model): Promise<void> {
    const link = this._link!;
    try {
      const question = model.variable ? { variable: model.variable } : { served: model.name };
      const { modules } = (await link.ask('modules', question)) as { modules: Module[] };
      this._tree = new ModuleTree(modules, this._insert);
      this._tree.search(this._search.value);
      const get = `lm = ${link.server.variable}.model("${model.name}")`;
      opened.replaceChildren(
        ...(model.variable ? [] : [this._code(get)]),
        this._search,
        this._tree.node
      );
    } catch (error) {
      opened.replaceChildren(element('p', 'nnl-error', (error as Error).message));
    }
  }

  private _code(code: string): HTMLElement {
    return button('nnl-code', code, `Insert ${code}`, () => this._insert(code));
  }

  private readonly _search = element('input', 'nnl-search');
  private _tree: ModuleTree | null = null;
  private _link: KernelLink | null = null;
  private _told = '';
  private _open = '';
}
