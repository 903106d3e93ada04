// The modules of one model: a tree to open, a search over all paths; a click inserts the path.

import { button, element } from './dom';
import { Module } from './messages';

const MOST_FOUND = 200;

export class ModuleTree {
  readonly node = element('div', 'nnl-Tree');

  constructor(
    modules: Module[],
    private readonly _insert: (code: string) => void
  ) {
    for (const module of modules) {
      this._known.set(module.path, module);
      const above = module.path.split('.').slice(0, -1).join('.');
      const parent = above === '' ? (module.standard ? 'standard' : 'own') : above;
      this._below.set(parent, [...(this._below.get(parent) ?? []), module]);
    }
    this.search('');
  }

  /** Show what has every word of `text` in its path, or the tree when there is none. */
  search(text: string): void {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) {
      this.node.replaceChildren(this._group('Standard names', 'standard'), this._group('Modules', 'own'));
      return;
    }
    const found = [...this._known.values()].filter(module =>
      words.every(word => `${module.path} ${module.kind}`.toLowerCase().includes(word))
    );
    const rows = found.slice(0, MOST_FOUND).map(module => this._leaf(module, module.path));
    const rest = found.length - rows.length;
    const note = rest > 0 ? `and ${rest} more` : found.length === 0 ? 'Nothing has that name.' : '';
    this.node.replaceChildren(...rows, element('p', 'nnl-none', note));
  }

  private _group(label: string, key: string): HTMLElement {
    const rows = (this._below.get(key) ?? []).map(module => this._row(module));
    const title = element('div', 'nnl-group', label);
    return element('div', '', ...(rows.length > 0 ? [title, ...rows] : []));
  }

  private _row(module: Module): HTMLElement {
    const below = this._below.get(module.path) ?? [];
    const name = module.path.split('.').pop()!;
    if (below.length === 0 && module.ports.length === 0) {
      return this._leaf(module, name);
    }
    const opened = element('div', 'nnl-below');
    const node = element(
      'details',
      'nnl-node',
      element('summary', 'nnl-line', ...this._label(module, name)),
      opened
    );
    node.addEventListener('toggle', () => {
      if (node.open && opened.childElementCount === 0) {
        opened.append(...this._ports(module), ...below.map(child => this._row(child)));
      }
    });
    return node;
  }

  private _leaf(module: Module, name: string): HTMLElement {
    return element('div', 'nnl-line nnl-leaf', ...this._label(module, name), ...this._ports(module));
  }

  private _label(module: Module, name: string): HTMLElement[] {
    const path = button('nnl-path', name, `Insert ${module.code}`, () => this._insert(module.code));
    path.dataset.path = module.path;
    return [path, element('span', 'nnl-kind', module.kind)];
  }

  private _ports(module: Module): HTMLElement[] {
    const ports = module.ports.map(port => {
      const code = `${module.code}.${port}`;
      return button('nnl-port', port, `Insert ${code}`, () => this._insert(code));
    });
    return ports.length > 0 ? [element('span', 'nnl-ports', ...ports)] : [];
  }

  private readonly _known = new Map<string, Module>();
  private readonly _below = new Map<string, Module[]>();
}
